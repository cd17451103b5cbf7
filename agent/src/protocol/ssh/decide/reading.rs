//! A request in words, and what policy is asked about it. Pure.

use chaperone_policy::{self as policy, Action, HostFacts};

use super::super::exec::{self, Analysis, Template};
use super::super::machine::{Asked, COMMAND_MAX, Way};
use super::super::sftp::{Access, FileOp};
use crate::record::event::Step;

/// One thing policy is asked about a request, with what is known of it besides the command.
pub(super) struct Ask<'a> {
    pub(super) action: Action,
    pub(super) facts: HostFacts<'a>,
}

/// A request in words and in policy's terms.
pub(super) struct Reading<'a> {
    pub(super) text: String,
    pub(super) step: Step,
    pub(super) asks: Vec<Ask<'a>>,
    pub(super) analysis: Analysis,
    /// Refused whatever policy says.
    pub(super) never: Option<String>,
    /// Said with a denial of policy.
    pub(super) why: Option<String>,
}

/// A command line, if it is text.
pub(super) fn command_of(what: &Asked) -> Option<&str> {
    match what {
        Asked::Exec(bytes) => std::str::from_utf8(bytes).ok().filter(|text| text.len() <= COMMAND_MAX),
        _ => None,
    }
}

pub(super) fn reading<'a>(what: &'a Asked, command: Option<&'a str>) -> Reading<'a> {
    let mut reading = Reading {
        text: String::new(),
        step: Step::Feature,
        asks: Vec::new(),
        analysis: Analysis::default(),
        never: None,
        why: None,
    };
    match what {
        Asked::Exec(bytes) => {
            reading.step = Step::Exec;
            reading.text = String::from_utf8_lossy(bytes).into_owned();
            match command {
                Some(command) => read_command(command, &mut reading),
                None => reading.never = Some("the command is not text, or too long".to_owned()),
            }
        }
        Asked::Shell => {
            (reading.step, reading.text) = (Step::Shell, "shell".to_owned());
            reading.asks = plain(Action::Shell);
        }
        Asked::Pty => {
            (reading.step, reading.text) = (Step::Pty, "terminal".to_owned());
            reading.asks = plain(Action::Pty);
        }
        Asked::Subsystem(name) => {
            (reading.step, reading.text) = (Step::Subsystem, format!("subsystem {name}"));
            match name.as_str() {
                "sftp" => reading.asks = plain(Action::Sftp),
                _ => reading.never = Some(format!("the subsystem {name} is not known")),
            }
        }
        Asked::Env { name, value } => {
            reading.text = format!("env {name}={value}");
            let facts = HostFacts { name, value, ..HostFacts::default() };
            reading.asks = vec![Ask { action: Action::Env, facts }];
        }
        Asked::Forward(Way { host, port, target, session: _ }) => {
            reading.text = format!("direct-tcpip to {host}:{port}");
            let forward = policy::Forward { host, port: *port, target };
            let facts = HostFacts { forward, ..HostFacts::default() };
            reading.asks = vec![Ask { action: Action::Forward, facts }];
        }
        Asked::Tunnel { kind, destination } => reading.text = format!("{kind} to {destination}"),
        Asked::Feature(name) => reading.text.clone_from(name),
        Asked::File(FileOp { verb, accesses }) => {
            reading.step = Step::File;
            let paths: Vec<&str> = {
                let mut paths: Vec<&str> = accesses.iter().map(|(_, path)| path.as_str()).collect();
                paths.dedup();
                paths
            };
            reading.text = format!("{verb} {}", paths.join(" -> "));
            reading.asks = accesses
                .iter()
                .map(|(access, path)| {
                    let action = match access {
                        Access::List => Action::FileList,
                        Access::Read => Action::FileRead,
                        Access::Write => Action::FileWrite,
                        Access::Remove => Action::FileRemove,
                    };
                    on(action, path, "sftp")
                })
                .collect();
        }
    }
    reading
}

/// A command line: a transfer that is known by its form, a command that says what it runs, or one that does not.
fn read_command<'a>(command: &'a str, reading: &mut Reading<'a>) {
    reading.analysis = exec::analyse(command);
    let template = reading.analysis.template();
    let transfer = |action, path: &str, via| (action, path.to_owned(), via);
    let known = match &template {
        Some(Template::Rsync { sends: true, path, .. }) => transfer(Action::FileRead, path, "rsync"),
        Some(Template::Rsync { sends: false, path, .. }) => transfer(Action::FileWrite, path, "rsync"),
        Some(Template::Git { writes: false, repository }) => transfer(Action::FileRead, repository, "git"),
        Some(Template::Git { writes: true, repository }) => transfer(Action::FileWrite, repository, "git"),
        None => {
            let action = if reading.analysis.dynamic.is_some() { Action::ExecDynamic } else { Action::Exec };
            reading.why.clone_from(&reading.analysis.dynamic);
            reading.asks = plain(action);
            return;
        }
    };
    let (action, path, via) = known;
    // The path is a part of the command, and stands in it as it was sent.
    match command.find(&path).and_then(|start| command.get(start..start + path.len())) {
        Some(path) if !path.split('/').any(|part| part == "..") => {
            reading.asks = vec![on(action, path, via)];
            if makes_links(&reading.analysis) {
                reading.asks.push(on(Action::FileLink, path, via));
                let without = "without links and devices it goes: --no-links --no-D, or --safe-links --no-D";
                reading.why = Some(without.to_owned());
            }
            let deletes = |word: &String| word.starts_with("--delete") || word == "--force";
            if reading.analysis.commands.iter().flatten().any(deletes) {
                reading.asks.push(on(Action::FileRemove, path, via));
            }
        }
        _ => reading.never = Some("the path cannot be told from the command".to_owned()),
    }
}

/// A transfer that makes links or devices, by which a later one gets anywhere, or that follows links.
fn makes_links(analysis: &Analysis) -> bool {
    let Some(Template::Rsync { sends, options, .. }) = analysis.template() else { return false };
    let short = options.iter().filter(|option| !option.starts_with("--"));
    let letters: String = short.filter_map(|option| option.split('e').next()).collect();
    let safe = options.iter().any(|option| option == "--safe-links");
    match sends {
        true => letters.contains(['L', 'k']),
        false => letters.contains(['K', 'D']) || (letters.contains('l') && !safe),
    }
}

fn plain<'a>(action: Action) -> Vec<Ask<'a>> {
    vec![Ask { action, facts: HostFacts::default() }]
}

fn on<'a>(action: Action, path: &'a str, via: &'a str) -> Ask<'a> {
    Ask { action, facts: HostFacts { path, via, ..HostFacts::default() } }
}
