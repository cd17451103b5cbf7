//! Which processes are governed and how the kernel is used: as typed and as meant.

use std::path::PathBuf;

use serde::Deserialize;

use super::{Guard, GuardNetRaw, Intercept};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct InterceptFile {
    cgroup: String,
    bypass: Vec<String>,
    deny: Vec<String>,
    operators: Vec<String>,
    bpffs: PathBuf,
    listen_port: u16,
    unix_allow: Vec<String>,
    guard_net_raw: String,
    guard: Option<String>,
    guard_exempt: Vec<String>,
}

impl Default for InterceptFile {
    fn default() -> Self {
        Self {
            cgroup: "/".into(),
            bypass: Vec::new(),
            deny: Vec::new(),
            operators: vec!["/user.slice".into()],
            bpffs: "/sys/fs/bpf/chaperone".into(),
            listen_port: 15001,
            unix_allow: Vec::new(),
            guard_net_raw: "off".into(),
            guard: None,
            guard_exempt: Vec::new(),
        }
    }
}

pub(super) fn convert(typed: InterceptFile, problems: &mut Vec<String>) -> Intercept {
    cgroup_path("intercept.cgroup", &typed.cgroup, problems);
    for path in &typed.bypass {
        cgroup_path("intercept.bypass", path, problems);
    }
    for path in &typed.operators {
        cgroup_path("intercept.operators", path, problems);
    }
    for path in &typed.deny {
        cgroup_path("intercept.deny", path, problems);
        if typed.bypass.contains(path) {
            problems.push(format!("intercept: `{path}` is listed in both bypass and deny"));
        }
    }
    let guard_net_raw = match typed.guard_net_raw.as_str() {
        "off" => GuardNetRaw::Off,
        "record" => GuardNetRaw::Record,
        "kill" => GuardNetRaw::Kill,
        other => {
            problems
                .push(format!("intercept.guard_net_raw: `{other}` is not known; known: off, record, kill"));
            GuardNetRaw::Off
        }
    };
    if typed.listen_port == 0 {
        problems.push("intercept.listen_port: 0 is not a port".into());
    }
    let guard = match typed.guard.as_deref() {
        None => None,
        Some("nft") => Some(Guard::Nft),
        Some("off") => Some(Guard::Off),
        Some(other) => {
            problems.push(format!("intercept.guard: `{other}` is not known; known: nft, off"));
            None
        }
    };
    for name in &typed.guard_exempt {
        // What the kernel takes for an interface's name; nft would take `*` for a pattern.
        let plain = !name.is_empty()
            && name.len() < 16
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@'));
        if !plain {
            problems.push(format!("intercept.guard_exempt: `{}` is no interface", name.escape_debug()));
        }
        if guard == Some(Guard::Off) {
            problems.push("intercept.guard_exempt: there is no guard to be exempted from".into());
        }
    }
    Intercept {
        cgroup: typed.cgroup,
        bypass: typed.bypass,
        deny: typed.deny,
        operators: typed.operators,
        bpffs: typed.bpffs,
        listen_port: typed.listen_port,
        unix_allow: typed.unix_allow,
        guard_net_raw,
        guard,
        guard_exempt: typed.guard_exempt,
    }
}

pub(super) fn cgroup_path(key: &str, path: &str, problems: &mut Vec<String>) {
    let clean = path == "/"
        || (path.starts_with('/')
            && !path.ends_with('/')
            && path.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != ".."));
    if !clean {
        problems.push(format!(
            "{key}: `{path}` is not a clean path below the cgroup2 mount, such as `/agents.slice`"
        ));
    }
}
