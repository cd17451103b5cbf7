//! The house rules that no compiler holds: which module may name which, what a pure machine may touch,
//! how long a file gets, where `unsafe` may stand, that every module says what it owns.
//!
//! The tables at the top are the rules; `tidy/scan.rs` reads Rust as tokens and knows nothing of them.

mod scan;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::sh;

/// Modules of agent/src, and the ones each may name. A module may always name itself.
const ARROWS: &[(&str, &[&str])] = &[
    ("app", &["*"]),
    ("authority", &["workload", "config", "secret", "upstream", "http", "grpc"]),
    (
        "cli",
        &[
            "trust",
            "config",
            "record",
            "control",
            "app",
            "intercept",
            "gate",
            "identity",
            "workload",
            "places",
            "privileges",
            "authority",
            "log",
        ],
    ),
    ("command", &["config"]),
    ("config", &["secret", "workload"]),
    ("control", &["registry", "gate", "record", "config"]),
    ("detect", &[]),
    ("export", &["record", "config"]),
    ("gate", &["record", "config", "workload"]),
    ("grpc", &["http"]),
    ("http", &[]),
    ("identity", &["workload", "command", "config", "upstream", "http", "grpc"]),
    ("intercept", &[]),
    ("log", &[]),
    ("places", &["config"]),
    ("privileges", &["config"]),
    (
        "protocol",
        &[
            "command",
            "detect",
            "places",
            "privileges",
            "trust",
            "gate",
            "upstream",
            "record",
            "registry",
            "config",
            "secret",
            "log",
        ],
    ),
    ("record", &[]),
    ("registry", &["workload"]),
    ("secret", &[]),
    (
        "session",
        &[
            "intercept",
            "workload",
            "identity",
            "authority",
            "protocol",
            "gate",
            "upstream",
            "record",
            "registry",
            "config",
            "log",
        ],
    ),
    ("trust", &[]),
    ("upstream", &["config", "secret"]),
    ("workload", &["intercept", "record"]),
];

/// Folders of pure machines: bytes and values in, decisions out, time as an argument.
const PURE: &[&str] = &["policy/src", "agent/sql/src", "agent/src/protocol"];

/// Files below them that do the input and output for the machines.
const NOT_PURE: &[&str] = &[
    "relay.rs",
    "recording.rs",
    "tunnels.rs",
    "relay/beside.rs",
    "open/beside.rs",
    "open/signer.rs",
    "relay/limits.rs",
    "relay/wake.rs",
    "wire.rs",
    "open.rs",
    "catalogue.rs",
    "placing.rs",
    "client_tls.rs",
    "greeting.rs",
    "serve.rs",
    "access.rs",
    "asking.rs",
    "blast.rs",
    "held.rs",
];

const IMPURE_PATHS: &[&[&str]] = &[
    &["tokio"],
    &["std", "fs"],
    &["std", "net", "TcpStream"],
    &["Instant", "now"],
    &["SystemTime", "now"],
    &["thread", "spawn"],
];

/// Where `unsafe` may stand: the kernel programs, their loader, and small wrappers of system calls.
const UNSAFE_BELOW: &[&str] = &[
    "ebpf",
    "agent/src/intercept",
    "agent/src/export/queue.rs",
    "agent/src/upstream/plain.rs",
    "agent/src/workload/verity.rs",
    "agent/src/record/spool.rs",
    "tests/src/harness/spawn.rs",
];

const MOST_LINES: usize = 500;

/// Files above the ceiling, each with the reason.
const LONG_FILES: &[(&str, &str)] = &[];

const SOURCES: &[&str] = &["agent", "ebpf", "policy", "tests", "xtask"];

/// Prints what breaks the rules; an error if anything does.
pub(crate) fn report() -> Result<()> {
    let complaints = check(&sh::root())?;
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    if complaints.is_empty() {
        eprintln!("tidy: ok");
        return Ok(());
    }
    bail!("tidy: {} breaches of the house rules (the rules are in xtask/src/tidy.rs)", complaints.len())
}

fn check(root: &Path) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for file in rust_files(root)? {
        let name = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).with_context(|| format!("reading {name}"))?;
        complaints.extend(check_file(&name, &text)?);
    }
    complaints.extend(forged_permits(root)?);
    for (name, _) in LONG_FILES {
        if !root.join(name).exists() {
            complaints.push(format!("xtask/src/tidy.rs: LONG_FILES names {name}, which does not exist"));
        }
    }
    Ok(complaints)
}

/// What makes permits without a gate, for tests and the fuzzer. It is there under `cfg(test)` and `cfg(fuzzing)`, which
/// cargo-fuzz sets; nothing of ours may.
const FORGES: (&str, [&str; 2]) = ("agent/src/gate/staged.rs", ["fn for_test(", "fn take_bytes("]);

fn forged_permits(root: &Path) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    let (name, forges) = FORGES;
    let text = fs::read_to_string(root.join(name)).with_context(|| format!("reading {name}"))?;
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    for forge in forges {
        let at = lines.iter().position(|line| line.contains(forge));
        let guarded = at.and_then(|at| lines.get(at.checked_sub(1)?)) == Some(&"#[cfg(any(test, fuzzing))]");
        if !guarded {
            complaints.push(format!("{name}: `{forge}` belongs behind #[cfg(any(test, fuzzing))]"));
        }
    }
    let manifests =
        ["Cargo.toml", ".cargo/config.toml", "agent/Cargo.toml", "agent/sql/Cargo.toml", "agent/build.rs"];
    for name in manifests {
        let text = fs::read_to_string(root.join(name)).with_context(|| format!("reading {name}"))?;
        let sets =
            |line: &&str| line.contains("fuzzing") && !line.starts_with('#') && !line.contains("check-cfg");
        complaints.extend(text.lines().filter(sets).map(|line| format!("{name}: sets fuzzing: {line}")));
    }
    Ok(complaints)
}

fn check_file(name: &str, text: &str) -> Result<Vec<String>> {
    let source = scan::scan(text).with_context(|| format!("reading {name} as Rust"))?;
    let mut complaints = Vec::new();
    if !is_test_file(name) && !text.lines().take(20).any(|line| line.starts_with("//!")) {
        complaints.push(format!("{name}: no `//!` that says what the module owns"));
    }
    let lines = text.lines().count();
    if lines > MOST_LINES && !LONG_FILES.iter().any(|(listed, _)| *listed == name) {
        complaints.push(format!("{name}: {lines} lines; the ceiling is {MOST_LINES}"));
    }
    if !UNSAFE_BELOW.iter().any(|below| name.starts_with(below)) {
        complaints.extend(source.unsafe_lines.iter().map(|line| {
            format!(
                "{name}:{line}: `unsafe` belongs into ebpf/, agent/src/intercept or a wrapper listed in tidy"
            )
        }));
    }
    if is_pure(name) {
        complaints.extend(impure_names(name, &source));
    }
    complaints.extend(broken_arrows(name, &source));
    Ok(complaints)
}

fn is_pure(name: &str) -> bool {
    PURE.iter().any(|folder| name.starts_with(folder))
        && !NOT_PURE.iter().any(|file| name.ends_with(&format!("/{file}")))
        && !is_test_file(name)
}

/// Tests of a pure machine may read files and keep time.
fn is_test_file(name: &str) -> bool {
    name.ends_with("/tests.rs") || name.contains("/tests/")
}

fn impure_names(name: &str, source: &scan::Source) -> Vec<String> {
    let found = source.paths.iter().filter_map(|path| {
        let hit = IMPURE_PATHS.iter().find(|bad| {
            path.words.windows(bad.len()).any(|window| window.iter().zip(bad.iter()).all(|(a, b)| a == b))
        })?;
        Some(format!("{name}:{}: a pure machine names {}", path.line, hit.join("::")))
    });
    found.collect::<BTreeSet<_>>().into_iter().collect()
}

fn broken_arrows(name: &str, source: &scan::Source) -> Vec<String> {
    let Some(inside) = name.strip_prefix("agent/src/") else { return Vec::new() };
    let folders: Vec<&str> =
        inside.trim_end_matches(".rs").split('/').filter(|part| *part != "mod").collect();
    let Some(module) = folders.first().copied().filter(|module| !matches!(*module, "lib" | "main")) else {
        return Vec::new();
    };
    let Some((_, may_name)) = ARROWS.iter().find(|(from, _)| *from == module) else {
        return vec![format!("{name}: module `{module}` is not in the table of arrows in xtask/src/tidy.rs")];
    };
    let mut complaints = BTreeSet::new();
    for path in &source.paths {
        let Some(named) = module_named(&path.words, folders.len()) else { continue };
        let allowed = named == module || may_name.contains(&"*") || may_name.contains(&named);
        if ARROWS.iter().any(|(known, _)| *known == named) && !allowed {
            complaints.insert(format!("{name}:{}: `{module}` may not name `{named}`", path.line));
        }
    }
    complaints.into_iter().collect()
}

/// The top-level module a path leads to: `crate::x`, or as many `super` as it takes to leave the folder.
fn module_named(words: &[String], depth: usize) -> Option<&str> {
    let (first, rest) = words.split_first()?;
    match first.as_str() {
        "crate" | "chaperone" => rest.first().map(String::as_str),
        "super" => {
            let up = words.iter().take_while(|word| *word == "super").count();
            (up >= depth).then(|| words.get(up).map(String::as_str)).flatten()
        }
        _ => None,
    }
}

fn rust_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = SOURCES.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                if entry.file_name() != "target" {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_tree_keeps_the_house_rules() {
        let complaints = check(&sh::root()).unwrap();
        assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
    }

    #[test]
    fn each_rule_finds_its_breach_and_nothing_else() {
        let long = format!("//! Long.\n{}", "fn a() {}\n".repeat(MOST_LINES));
        for (name, text, expect) in [
            ("agent/src/gate/mod.rs", "//! G.\nuse crate::record::Journal;\n", None),
            (
                "agent/src/gate/mod.rs",
                "//! G.\nuse crate::session::Registry;\n",
                Some("may not name `session`"),
            ),
            ("agent/src/gate/a.rs", "//! G.\nuse crate::{record, session::{self, X}};\n", Some("`session`")),
            ("agent/src/gate/a.rs", "//! G.\nfn f() { super::super::session::x() }\n", Some("`session`")),
            ("agent/src/gate/a.rs", "//! G.\nfn f() { super::session::x() }\n", None),
            ("agent/src/gate.rs", "//! G.\nfn f() { super::session::x() }\n", Some("`session`")),
            ("agent/src/gate.rs", "//! G. crate::session\nconst A: &str = \"crate::session::x\";\n", None),
            ("agent/src/app.rs", "//! A.\nuse crate::session;\n", None),
            ("agent/src/fresh.rs", "//! N.\n", Some("not in the table")),
            ("agent/src/record/mod.rs", "fn a() {}\n", Some("no `//!`")),
            ("policy/src/lib.rs", "//! P.\nuse std::{fmt, fs};\n", Some("std::fs")),
            ("policy/src/lib.rs", "//! P.\nfn f() { std::time::Instant::now(); }\n", Some("Instant::now")),
            ("agent/src/protocol/postgres/codec.rs", "//! C.\nuse tokio::io;\n", Some("tokio")),
            (
                "agent/src/protocol/postgres/codec.rs",
                "//! C.\n#[cfg(test)]\nmod t { use tokio::io; }\n",
                None,
            ),
            ("agent/src/protocol/relay.rs", "//! R.\nuse tokio::io;\n", None),
            ("agent/src/record/a.rs", "//! R.\nfn f() { unsafe { g() } }\n", Some(":2: `unsafe`")),
            ("agent/src/record/a.rs", "//! R.\n#![forbid(unsafe_code)]\n// unsafe\n", None),
            ("agent/src/intercept/a.rs", "//! I.\nfn f() { unsafe { g() } }\n", None),
            ("policy/src/lib.rs", long.as_str(), Some("lines; the ceiling")),
        ] {
            let complaints = check_file(name, text).unwrap();
            match expect {
                None => assert!(complaints.is_empty(), "{name}: {text}: {complaints:?}"),
                Some(part) => assert!(
                    complaints.len() == 1 && complaints[0].contains(part),
                    "{name}: {text}: expected `{part}`, got {complaints:?}"
                ),
            }
        }
    }
}
