//! What this host has and lacks, and how to mend it.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use super::Failure;
use super::operate::print_json;
use crate::app;
use crate::config::Config;
use crate::control::{Request, call};
use crate::intercept::probe;
use crate::places;
use crate::record;

#[derive(Debug, Serialize)]
struct Finding {
    name: String,
    ok: bool,
    /// Without it the agent does not start.
    required: bool,
    why: String,
    /// What to do about it, or what is lost without it.
    cure: String,
}

impl From<probe::Feature> for Finding {
    fn from(feature: probe::Feature) -> Self {
        let probe::Feature { name, ok, required, why, otherwise } = feature;
        Self { name, ok, required, why: why.to_owned(), cure: otherwise }
    }
}

pub(super) fn doctor(path: &Path, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let mut findings: Vec<Finding> = probe::features().into_iter().map(Finding::from).collect();
    findings.extend(configuration(path));
    if json {
        print_json(&findings, out)?;
    } else {
        print(&findings, out)?;
    }
    if findings.iter().all(|finding| finding.ok || !finding.required) { Ok(()) } else { Err(Failure::Said) }
}

fn print(findings: &[Finding], out: &mut dyn Write) -> std::io::Result<()> {
    for finding in findings {
        let mark = match (finding.ok, finding.required) {
            (true, _) => "ok     ",
            (false, true) => "MISSING",
            (false, false) => "absent ",
        };
        writeln!(out, "{mark}  {}", finding.name)?;
        if !finding.ok {
            writeln!(out, "           why   {}", finding.why)?;
            writeln!(out, "           cure  {}", finding.cure)?;
        }
    }
    Ok(())
}

/// What the configuration names and this host should have.
fn configuration(path: &Path) -> Vec<Finding> {
    let required = |name: String, problem: Option<String>, why: &str| Finding {
        name,
        ok: problem.is_none(),
        required: true,
        why: why.to_owned(),
        cure: problem.unwrap_or_default(),
    };
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error) => {
            let cure = if path.exists() {
                error.to_string()
            } else {
                "write one: README.md shows it, docs/configuration.md has every key; `chaperone install` puts one there \
                 to begin with"
                    .to_owned()
            };
            let name = format!("configuration {}", path.display());
            return vec![required(name, Some(cure), "the agent does not start without one")];
        }
    };
    let mut findings = vec![required(format!("configuration {}", path.display()), None, "")];
    let policies = app::checked_policies(&config).err().map(|error| super::whole(&error));
    let name = format!("policies {}", config.policy_dir.display());
    findings.push(required(name, policies, "without a valid policy everything is denied"));
    for target in &config.targets {
        let problem = app::checked_credentials(target).err().map(|error| super::whole(&error));
        let name = format!("credentials of target {}", target.name);
        findings.push(required(name, problem, "the agent logs in with them in the place of the client's"));
        findings.extend(reachable(target));
    }
    findings.extend(labels(&config));
    findings.extend(probe::in_force(&config.intercept.bpffs).into_iter().map(Finding::from));
    findings.push(Finding {
        name: format!("the run directory {} is in memory", config.run_dir.display()),
        ok: record::in_memory(&config.run_dir),
        required: false,
        why: "elsewhere each record is a write of its own, and statements cost more".to_owned(),
        cure: "let run_dir be on a tmpfs that outlives the agent, as /run/chaperone is by default".to_owned(),
    });
    let running = call(&config.run_dir, &Request::Status).err().map(|error| error.to_string());
    findings.push(Finding {
        name: "agent".to_owned(),
        ok: running.is_none(),
        required: false,
        why: "while it does not run, governed connections to targets are refused".to_owned(),
        cure: running.unwrap_or_default(),
    });
    findings
}

/// What labels name, by what the agent read of databases so far.
fn labels(config: &Config) -> Vec<Finding> {
    let remarks = match places::remarks(config) {
        Ok(remarks) => remarks,
        Err(error) => {
            return vec![Finding {
                name: "what labels cover".to_owned(),
                ok: false,
                required: true,
                why: "the agent does not start when it does not know".to_owned(),
                cure: error.to_string(),
            }];
        }
    };
    let found = remarks.into_iter().map(|remark| Finding {
        name: remark,
        ok: false,
        required: false,
        why: "what a label does not name is masked only as far as the agent remembers it".to_owned(),
        cure: "correct the label in the configuration, or remove it".to_owned(),
    });
    found.collect()
}

/// Whether somebody answers at those addresses of a target that are single hosts.
fn reachable(target: &crate::config::Target) -> Vec<Finding> {
    let hosts = target
        .addresses
        .iter()
        .filter(|network| network.prefix == if network.address.is_ipv4() { 32 } else { 128 });
    hosts
        .map(|network| {
            let address = std::net::SocketAddr::new(network.address, target.port);
            let dialled = std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_secs(3));
            Finding {
                name: format!("target {} answers at {address}", target.name),
                ok: dialled.is_ok(),
                required: false,
                why: "sessions with it will fail".to_owned(),
                cure: dialled.err().map(|error| error.to_string()).unwrap_or_default(),
            }
        })
        .collect()
}
