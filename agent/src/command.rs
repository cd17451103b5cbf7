//! Programs of the operator's that the agent asks something: each prints its answer and ends.
//!
//! Only root may be able to say what is run, and it runs as a user of its own. It does not know what the answer means.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::config::Command;

const LARGEST: u64 = 64 << 10;

/// Longest a command may take.
const COMMAND: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("{program}: {source}")]
    Read { program: PathBuf, source: std::io::Error },
    #[error("{program}: others than root may change it; chown root and chmod go-w it")]
    Open { program: PathBuf },
    #[error("{program}: {why}")]
    Failed { program: PathBuf, why: String },
}

/// What a command prints. It runs with nothing of the agent's environment but what it is told, beside the agent: never in
/// a governed cgroup.
///
/// # Errors
/// When others than root may change it, or it fails, takes too long, or prints nothing, too much or no text.
pub async fn run(command: &Command, told: &[(&'static str, String)]) -> Result<String, CommandError> {
    trusted(command)?;
    let failed = |why: String| CommandError::Failed { program: command.program.clone(), why };
    let (command, told) = (command.clone(), told.to_vec());
    let talked = tokio::task::spawn_blocking(move || talk(&command, &told)).await;
    let text = talked.map_err(|error| failed(error.to_string()))?.map_err(failed)?;
    if text.len() as u64 > LARGEST || text.trim().is_empty() {
        return Err(failed("it printed nothing".to_owned()));
    }
    Ok(text)
}

/// Only root may be able to say what is run.
///
/// # Errors
/// When others are, or there is no such program.
pub fn trusted(command: &Command) -> Result<(), CommandError> {
    let program = command.program.clone();
    match std::fs::metadata(&program) {
        Ok(meta) if meta.uid() == 0 && meta.mode() & 0o022 == 0 => Ok(()),
        Ok(_) => Err(CommandError::Open { program }),
        Err(source) => Err(CommandError::Read { program, source }),
    }
}

/// Starts it and listens until it is done, or until its time is up and it is ended.
fn talk(command: &Command, told: &[(&'static str, String)]) -> Result<String, String> {
    let words = |error: std::io::Error| error.to_string();
    let mut child = std::process::Command::new(&command.program)
        .args(&command.args)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .envs(told.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .uid(command.uid)
        .gid(command.gid)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(words)?;
    let deadline = Instant::now() + COMMAND;
    let outcome = match child.stdout.take() {
        Some(out) => listen(out, deadline).and_then(|text| Ok((text, end(&mut child, deadline)?))),
        None => Err("it has no output".to_owned()),
    };
    match outcome {
        Ok((text, status)) if status.success() => Ok(text),
        Ok((_, status)) => Err(format!("it ended with {status}")),
        Err(why) => {
            // It, and what it started: nobody has waited for it yet, so the number of the group is still its own.
            if let Ok(group) = i32::try_from(child.id()) {
                let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            }
            let _ = child.wait();
            Err(why)
        }
    }
}

/// It may close its output and go on.
fn end(child: &mut Child, deadline: Instant) -> Result<ExitStatus, String> {
    loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => return Ok(status),
            None if Instant::now() >= deadline => return Err(slow()),
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn slow() -> String {
    format!("it took longer than {} s", COMMAND.as_secs())
}

fn listen(mut out: ChildStdout, deadline: Instant) -> Result<String, String> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    while bytes.len() as u64 <= LARGEST {
        let left = deadline.checked_duration_since(Instant::now()).ok_or_else(slow)?;
        let left = Timespec::try_from(left).map_err(|error| error.to_string())?;
        let mut ready = [PollFd::new(&out, PollFlags::IN)];
        if poll(&mut ready, Some(&left)).map_err(|error| error.to_string())? == 0 {
            return Err(slow());
        }
        match out.read(&mut piece).map_err(|error| error.to_string())? {
            0 => {
                return String::from_utf8(bytes)
                    .map_err(|_| "it printed something else than text".to_owned());
            }
            read => bytes.extend_from_slice(piece.get(..read).unwrap_or_default()),
        }
    }
    Err(format!("it printed more than {LARGEST} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_heard_in_time_and_size_and_without_the_agents_secrets() {
        let told = [("TOLD", "so".to_owned())];
        let shell = |script: &str| {
            let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
            let args = vec!["-c".to_owned(), script.to_owned()];
            talk(&Command { program: "/bin/sh".into(), args, uid, gid }, &told)
        };
        assert_eq!(shell("printf token"), Ok("token".to_owned()));
        let environment = shell("printf '%s' \"$HOME$CARGO_MANIFEST_DIR$PATH$TOLD\"");
        assert_eq!(environment, Ok("/usr/bin:/binso".to_owned()));
        assert_eq!(shell("read line; printf \"<$line>\""), Ok("<>".to_owned()), "it has nothing to read");
        assert!(shell("printf token; exit 3").unwrap_err().contains("ended with"));
        assert!(shell("exec yes").unwrap_err().contains("more than"), "and it is not left running");
    }
}
