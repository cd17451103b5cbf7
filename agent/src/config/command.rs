//! Programs of the operator's that the agent asks: what to run, and as whom.

use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    pub program: PathBuf,
    pub args: Vec<String>,
    pub uid: u32,
    pub gid: u32,
}

/// As typed to as meant; `key` is where the words stand, and the user is at `{key}_user`.
pub(super) fn command(
    key: &str,
    words: Option<&[String]>,
    user: Option<&str>,
    problems: &mut Vec<String>,
) -> Option<Command> {
    match (words, user) {
        (Some([program, args @ ..]), Some(user)) if program.starts_with('/') => {
            match nix::unistd::User::from_name(user).ok().flatten() {
                Some(user) if !user.uid.is_root() => {
                    let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
                    return Some(Command { program: program.into(), args: args.to_vec(), uid, gid });
                }
                Some(_) => problems.push(format!("{key}_user: not root; a user that owns nothing else")),
                None => problems.push(format!("{key}_user: this host has no user `{user}`")),
            }
        }
        (Some(_), Some(_)) => problems.push(format!("{key}: begins with the absolute path of a program")),
        (Some(_), None) => problems.push(format!("{key}_user: missing; it does not run as root")),
        (None, Some(_)) => {
            let name = key.rsplit('.').next().unwrap_or(key);
            problems.push(format!("{key}_user: does nothing without `{name}`"));
        }
        (None, None) => {}
    }
    None
}
