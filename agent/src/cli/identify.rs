//! `chaperone identify`: what a process or a cgroup is taken for, and why. Asks no agent, only the configuration and the
//! authorities that it names.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use super::Failure;
use super::operate::print_json;
use crate::authority::{Authorities, Confirmed, Doubt};
use crate::config::Config;
use crate::identity::{Identities, IdentityError, Word};
use crate::intercept;
use crate::workload::Pod;
use crate::workload::grammar::{self, Options, Parsed};

#[derive(Serialize)]
struct Answer {
    cgroup: String,
    #[serde(flatten)]
    parsed: Parsed,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<Vec<String>>,
    /// Why there is no identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    nobody: Option<String>,
    /// The authority that says the cgroup is what it is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    confirmed_by: Option<&'static str>,
    /// What is known of the pod to that authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_pod: Option<Pod>,
    /// Why none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    unverified: Option<String>,
}

pub(super) fn identify(
    config: &Path,
    pid: Option<u32>,
    cgroup: Option<&str>,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let text = match (pid, cgroup) {
        (Some(pid), _) => {
            let path = format!("/proc/{pid}/cgroup");
            std::fs::read_to_string(&path).map_err(|error| Failure::Failed(format!("{path}: {error}")))?
        }
        // A bare path means the unified hierarchy, which is what the agent itself goes by.
        (None, Some(path)) if path.starts_with('/') => format!("0::{path}"),
        (None, Some(lines)) => lines.replace("\\n", "\n"),
        (None, None) => return Err(Failure::Usage("say --pid or --cgroup".into())),
    };
    // Without tokens: what an identity provider would add is known to the running agent alone.
    let config = Config::load(config)?;
    let identities = Identities::new(config.identities.clone());
    let unified = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().to_owned();
    let asked = ask(&config, &unified)?;
    let pod = asked.as_ref().ok().and_then(|confirmed| confirmed.pod.clone());
    let found = identities.find(Some(&unified), pod.as_ref());
    let found = found.and_then(|(principal, word)| match (&asked, word) {
        (Err(doubt), Word::Name { suffices: false }) => Err(IdentityError::Unverified {
            identity: principal.name().to_owned(),
            cgroup: unified.clone(),
            why: doubt.to_string(),
        }),
        _ => Ok(principal),
    });
    let answer = Answer {
        cgroup: unified,
        parsed: grammar::parse_lines(&text, Options::default()),
        identity: found.as_ref().ok().map(|principal| principal.name().to_owned()),
        groups: found.as_ref().ok().map(|principal| principal.groups().to_vec()),
        nobody: found.err().map(|error| error.to_string()),
        confirmed_by: asked.as_ref().ok().map(|confirmed| confirmed.by),
        in_pod: pod,
        unverified: asked.err().filter(|doubt| *doubt != Doubt::NobodyToAsk).map(|doubt| doubt.to_string()),
    };
    if json {
        return print_json(&answer, out);
    }
    print(&answer, out)?;
    Ok(())
}

fn ask(config: &Config, cgroup: &str) -> Result<Result<Confirmed, Doubt>, Failure> {
    let mount = intercept::cgroup2_mount().map_err(|error| Failure::Failed(error.to_string()))?;
    let authorities = Authorities::new(&config.authorities, &mount);
    let authorities = authorities.map_err(|error| Failure::Usage(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(authorities.ask(cgroup)))
}

fn print(answer: &Answer, out: &mut dyn Write) -> std::io::Result<()> {
    let kind = serde_json::to_value(answer.parsed.placement.kind).unwrap_or_default();
    writeln!(out, "cgroup     {}", answer.cgroup.escape_debug())?;
    writeln!(out, "is         {}", kind.as_str().unwrap_or_default())?;
    let facts = serde_json::to_value(&answer.parsed.placement).unwrap_or_default();
    for (name, value) in facts.as_object().into_iter().flatten().filter(|(name, _)| *name != "kind") {
        writeln!(out, "{name:<10} {}", value.to_string().trim_matches('"'))?;
    }
    writeln!(out, "because    {}", answer.parsed.why)?;
    if let Some(authority) = answer.confirmed_by {
        writeln!(out, "confirmed  by {authority}")?;
    }
    if let Some(pod) = &answer.in_pod {
        let account = pod.service_account.as_deref().unwrap_or("not told");
        let labels: Vec<String> = pod.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        writeln!(out, "namespace  {}", pod.namespace.escape_debug())?;
        writeln!(out, "name       {}", pod.name.escape_debug())?;
        writeln!(out, "account    {}", account.escape_debug())?;
        writeln!(out, "labels     {}", labels.join(" ").escape_debug())?;
    }
    if let Some(why) = &answer.unverified {
        writeln!(out, "unverified {}", why.escape_debug())?;
    }
    match (&answer.identity, &answer.nobody) {
        (Some(name), _) => {
            let groups = answer.groups.as_deref().unwrap_or_default().join(", ");
            writeln!(out, "identity   {name} ({groups})")
        }
        (None, why) => writeln!(out, "identity   none: {}", why.as_deref().unwrap_or("-").escape_debug()),
    }
}
