//! Commands that talk to the agent, and those that check before it runs.

use std::io::Write;
use std::path::Path;

use super::Failure;
use crate::app;
use crate::config::Config;
use crate::control::{ClientError, Request, Response, call};
use crate::gate::HoldInfo;
use crate::intercept;
use crate::record::event::Event;
use crate::record::{self, Journal};

pub(super) fn check(path: &Path, out: &mut dyn Write) -> Result<(), Failure> {
    let config = Config::load(path)?;
    let policies = app::checked_policies(&config).map_err(|error| Failure::Usage(format!("{error:#}")))?;
    for target in &config.targets {
        app::checked_credentials(target).map_err(|error| Failure::Usage(format!("{error:#}")))?;
    }
    writeln!(
        out,
        "{}: {} targets, {} identities, {} policies: ok",
        path.display(),
        config.targets.len(),
        config.identities.len(),
        policies.ids().count()
    )?;
    Ok(())
}

pub(super) fn status(path: &Path, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let Response::Status(status) = ask(path, &Request::Status)? else { return Err(unexpected()) };
    if json {
        return print_json(&status, out);
    }
    writeln!(out, "chaperone {} runs as pid {}", status.version, status.pid)?;
    writeln!(out, "policies   {} (sha256 {})", status.policies, status.policy_sha256)?;
    writeln!(out, "sessions   {}", status.sessions)?;
    writeln!(out, "held       {}", status.holds)?;
    writeln!(out, "journal    {:.1} % of its ceiling", status.journal_percent)?;
    for (name, value) in status.kernel {
        writeln!(out, "kernel     {name} {value}")?;
    }
    Ok(())
}

pub(super) fn approvals(path: &Path, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let Response::Approvals { holds } = ask(path, &Request::Approvals)? else { return Err(unexpected()) };
    if json {
        return print_json(&holds, out);
    }
    if holds.is_empty() {
        writeln!(out, "nothing is held")?;
    }
    for hold in holds {
        print_hold(&hold, out)?;
    }
    Ok(())
}

fn print_hold(hold: &HoldInfo, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{}", hold.id)?;
    writeln!(out, "  who        {} ({})", hold.identity.name, hold.identity.groups.join(", "))?;
    writeln!(out, "  where      {}/{}", hold.target, hold.database)?;
    writeln!(out, "  why        {} [{}]", hold.reason.as_deref().unwrap_or("-"), hold.policies.join(", "))?;
    writeln!(out, "  approvers  {}", hold.groups.join(", "))?;
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    writeln!(out, "  expires in {} s", hold.expires_unix_s.saturating_sub(now))?;
    // Exactly what will run; a control character must not be able to show something else.
    writeln!(out, "  statement  {}", hold.sql.escape_debug())?;
    for (index, bind) in hold.binds.iter().enumerate() {
        writeln!(out, "  ${}         {}", index + 1, format!("{bind:?}").escape_debug())?;
    }
    Ok(())
}

pub(super) fn resolve(
    path: &Path,
    id: &str,
    approve: bool,
    comment: Option<&str>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let request = Request::Resolve { id: id.to_owned(), approve, comment: comment.map(str::to_owned) };
    done(path, &request, out)
}

pub(super) fn kill(path: &Path, id: &str, reason: &str, out: &mut dyn Write) -> Result<(), Failure> {
    done(path, &Request::Kill { id: id.to_owned(), reason: reason.to_owned() }, out)
}

pub(super) fn detach(path: &Path, out: &mut dyn Write) -> Result<(), Failure> {
    let config = Config::load(path)?;
    // The journal's lock is the proof that no agent runs, and the act is recorded like any other.
    let journal = Journal::open(&record::Options::new(&config.state_dir, config.record.max_bytes))?;
    let removed =
        intercept::detach(&config.intercept.bpffs).map_err(|error| Failure::Failed(error.to_string()))?;
    let by = format!("uid {} pid {}", nix::unistd::getuid(), std::process::id());
    journal.append(&[Event::Control { by, action: format!("detach: {removed} links removed") }])?;
    journal.close()?;
    writeln!(out, "{removed} links removed; nothing is intercepted any more")?;
    Ok(())
}

fn done(path: &Path, request: &Request, out: &mut dyn Write) -> Result<(), Failure> {
    let Response::Done { what } = ask(path, request)? else { return Err(unexpected()) };
    writeln!(out, "{}", what.escape_debug())?;
    Ok(())
}

fn ask(path: &Path, request: &Request) -> Result<Response, Failure> {
    let config = Config::load(path)?;
    call(&config.run_dir, request).map_err(|error: ClientError| Failure::Failed(error.to_string()))
}

fn unexpected() -> Failure {
    Failure::Failed("the agent answered something else than was asked; are both of one version?".into())
}

pub(super) fn print_json<T: serde::Serialize>(value: &T, out: &mut dyn Write) -> Result<(), Failure> {
    serde_json::to_writer_pretty(&mut *out, value).map_err(|error| Failure::Failed(error.to_string()))?;
    writeln!(out)?;
    Ok(())
}
