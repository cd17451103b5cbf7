//! `[targets.ssh]`: what a host needs besides an address and an account.

use std::path::PathBuf;

use serde::Deserialize;

use super::{Mask, SshTarget};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SshFile {
    logins: Vec<String>,
    key_file: Option<PathBuf>,
    ca_key_file: Option<PathBuf>,
    ca_command: Option<Vec<String>>,
    ca_command_user: Option<String>,
    host_keys: Vec<String>,
    known_hosts_file: Option<PathBuf>,
    host_cas: Vec<String>,
    host_names: Vec<String>,
    masks: Vec<Mask>,
    record_input: bool,
}

/// As typed to as meant.
pub(super) fn convert(
    key: &str,
    typed: SshFile,
    password_file: Option<&PathBuf>,
    problems: &mut Vec<String>,
) -> SshTarget {
    let credentials = [
        typed.key_file.is_some(),
        typed.ca_key_file.is_some(),
        typed.ca_command.is_some(),
        password_file.is_some(),
    ];
    match credentials.into_iter().filter(|given| *given).count() {
        1 => {}
        0 => problems.push(format!(
            "{key}.ssh: no way to log in; give one of key_file, ca_key_file, ca_command and the target's password_file"
        )),
        _ => problems.push(format!(
            "{key}.ssh: more than one way to log in; give one of key_file, ca_key_file, ca_command and password_file"
        )),
    }
    let (words, user) = (typed.ca_command.as_deref(), typed.ca_command_user.as_deref());
    let ca_command = super::command(&format!("{key}.ssh.ca_command"), words, user, problems);
    if typed.host_keys.is_empty() && typed.known_hosts_file.is_none() && typed.host_cas.is_empty() {
        problems.push(format!(
            "{key}.ssh: no host key of the target, and none is trusted on first use; \
             give host_keys, host_cas or known_hosts_file (`ssh-keyscan` on the host itself prints them)"
        ));
    }
    for name in &typed.host_names {
        if name.is_empty()
            || name.contains(|c: char| c.is_whitespace() || c.is_control() || "*?!,".contains(c))
        {
            problems.push(format!("{key}.ssh.host_names: `{}` is not a host name", name.escape_debug()));
        }
    }
    if typed.logins.iter().any(|login| login.is_empty() || login.contains(char::is_control)) {
        problems.push(format!("{key}.ssh.logins: an empty name, or one with control characters"));
    }
    for mask in &typed.masks {
        super::file::name_is_plain(&format!("{key}.ssh.masks"), &mask.name, problems);
    }
    SshTarget {
        logins: typed.logins,
        key_file: typed.key_file,
        ca_key_file: typed.ca_key_file,
        ca_command,
        host_keys: typed.host_keys,
        known_hosts_file: typed.known_hosts_file,
        host_cas: typed.host_cas,
        host_names: typed.host_names,
        masks: typed.masks,
        record_input: typed.record_input,
    }
}
