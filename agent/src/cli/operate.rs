//! Commands that talk to the agent, and those that check before it runs.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Failure, login, sign, whole};
use crate::app;
use crate::authority;
use crate::config::Config;
use crate::control::{ClientError, Request, Response, call, call_draining};
use crate::gate::{AccessTerms, Blast, Held, HoldInfo};
use crate::identity;
use crate::intercept;
use crate::places::{self, PlacesError};
use crate::record::Journal;
use crate::record::event::Event;

pub(super) fn check(path: &Path, out: &mut dyn Write) -> Result<(), Failure> {
    let config = Config::load(path)?;
    let mut wrong = Vec::new();
    let policies = app::checked_policies(&config).map_err(|error| wrong.push(whole(&error)));
    for target in &config.targets {
        wrong.extend(app::checked_credentials(target).err().map(|error| whole(&error)));
    }
    let keys = identity::check_keys(&config.providers, &config.identities);
    wrong.extend(keys.err().map(|error| error.to_string()));
    wrong.extend(authority::check(&config.authorities).err().map(|error| error.to_string()));
    wrong.extend(app::Outlets::prepare(&config).err().map(|error| whole(&error)));
    match places::remarks(&config) {
        Ok(remarks) => {
            for remark in remarks {
                writeln!(std::io::stderr(), "chaperone: {remark}")?;
            }
        }
        // Whoever checks a file need not be root; the agent is.
        Err(PlacesError::Read { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {}
        Err(error) => wrong.push(error.to_string()),
    }
    match policies {
        Ok(policies) if wrong.is_empty() => writeln!(
            out,
            "{}: {} targets, {} identities, {} policies: ok",
            path.display(),
            config.targets.len(),
            config.identities.len(),
            policies.ids().count()
        )?,
        _ => return Err(Failure::Usage(wrong.join("\n"))),
    }
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
    if let Some(Response::Status(before)) = ask_draining(path, &Request::Status)? {
        writeln!(out, "draining   pid {} ({}), {} sessions", before.pid, before.version, before.sessions)?;
    }
    for (name, value) in status.kernel {
        writeln!(out, "kernel     {name} {value}")?;
    }
    Ok(())
}

pub(super) fn approvals(path: &Path, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let Response::Approvals { mut holds } = ask(path, &Request::Approvals)? else { return Err(unexpected()) };
    if let Some(Response::Approvals { holds: before }) = ask_draining(path, &Request::Approvals)? {
        holds.extend(before);
    }
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
    let groups = match hold.identity.groups.as_slice() {
        [] => "no groups".to_owned(),
        groups => groups.join(", "),
    };
    writeln!(out, "  who        {} ({groups})", hold.identity.name)?;
    writeln!(out, "  where      {}/{}", hold.target, hold.database)?;
    writeln!(out, "  why        {} [{}]", hold.reason.as_deref().unwrap_or("-"), hold.policies.join(", "))?;
    if let Some(workload) = &hold.workload {
        let exe = workload.exe.as_deref().unwrap_or("-");
        let cgroup = workload.cgroup.as_deref().unwrap_or("-");
        let process =
            format!("{} (pid {}, uid {}, {exe}) in {cgroup}", workload.comm, workload.pid, workload.uid);
        writeln!(out, "  process    {}", process.escape_debug())?;
        if !workload.argv.is_empty() {
            writeln!(out, "  called as  {}", workload.argv.join(" ").escape_debug())?;
        }
        let ancestors: Vec<&str> =
            workload.ancestors.iter().filter_map(|ancestor| ancestor.exe.as_deref()).collect();
        if !ancestors.is_empty() {
            writeln!(out, "  run by     {}", ancestors.join(" < ").escape_debug())?;
        }
    }
    for need in &hold.needs {
        writeln!(out, "  approvers  {} of {} ({})", need.quorum, need.groups.join(", "), need.rule)?;
    }
    if !hold.given.is_empty() {
        let given: Vec<&str> = hold.given.iter().map(|given| given.by.as_str()).collect();
        writeln!(out, "  approved   {}", given.join(", ").escape_debug())?;
    }
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    writeln!(out, "  expires in {} s", hold.expires_unix_s.saturating_sub(now))?;
    // Exactly what will run; a control character must not be able to show something else.
    match hold.what {
        Held::Statement => writeln!(out, "  statement  {}", hold.sql.escape_debug())?,
        Held::Access => writeln!(out, "  asks for   a connection")?,
    }
    if let Some(blast) = &hold.blast {
        print_blast(blast, out)?;
    }
    if let Some(found) = &hold.in_the_way {
        let who = found.who.join(", ");
        let line = format!("{} sessions for {} s: {who}", found.sessions, found.seconds);
        writeln!(out, "  waited for {}", line.escape_debug())?;
    }
    for (index, bind) in hold.binds.iter().enumerate() {
        writeln!(out, "  ${}         {}", index + 1, format!("{bind:?}").escape_debug())?;
    }
    if !hold.settings.is_empty() {
        let set: Vec<String> = hold.settings.iter().map(|(name, value)| format!("{name} {value}")).collect();
        writeln!(out, "  under      {}", set.join("; ").escape_debug())?;
    }
    Ok(())
}

/// What the statement says is exact; this is the target's guess.
fn print_blast(blast: &Blast, out: &mut dyn Write) -> std::io::Result<()> {
    if !blast.tables.is_empty() {
        writeln!(out, "  touches    {}", blast.tables.join(", ").escape_debug())?;
    }
    match (&blast.rows, &blast.unknown) {
        (Some(1), _) => writeln!(out, "  planned    about 1 row")?,
        (Some(rows), _) => writeln!(out, "  planned    about {rows} rows")?,
        (None, Some(why)) => writeln!(out, "  planned    not known: {}", why.escape_debug())?,
        (None, None) => {}
    }
    for reference in &blast.references {
        writeln!(out, "  reference  {}", reference.escape_debug())?;
    }
    Ok(())
}

/// A yes, as typed.
#[derive(Debug, clap::Args)]
pub(super) struct Approval {
    id: String,
    #[arg(long)]
    comment: Option<String>,
    /// Sign with this key.
    #[arg(long)]
    key: Option<PathBuf>,
    /// For a connection: how long it is granted, such as 20m.
    #[arg(long = "for", value_parser = humantime::parse_duration)]
    length: Option<Duration>,
    /// For a connection: how many sessions may begin.
    #[arg(long)]
    uses: Option<u64>,
    /// For a connection: how many rows may be served.
    #[arg(long)]
    rows: Option<u64>,
    /// For a connection: the ticket it belongs to.
    #[arg(long)]
    ticket: Option<String>,
}

pub(super) fn approve(path: &Path, typed: &Approval, out: &mut dyn Write) -> Result<(), Failure> {
    let terms = AccessTerms {
        for_s: typed.length.map(|length| length.as_secs()),
        max_uses: typed.uses,
        max_rows: typed.rows,
        ticket: typed.ticket.clone(),
    };
    let id = typed.id.clone();
    let request = Request::Resolve { id: id.clone(), approve: true, comment: typed.comment.clone(), terms };
    let config = Config::load(path)?;
    if typed.key.is_none() && config.login.is_none() {
        return done(path, &request, out);
    }
    // What is said yes to is what is held now, by its digest.
    let Response::Approvals { mut holds } = ask(path, &Request::Approvals)? else { return Err(unexpected()) };
    if let Some(Response::Approvals { holds: before }) = ask_draining(path, &Request::Approvals)? {
        holds.extend(before);
    }
    let binding = holds.into_iter().find(|hold| hold.id == id).map(|hold| hold.binding);
    // A yes that comes too late is the agent's to refuse, and to record.
    let binding = binding.unwrap_or_default();
    let request = match &typed.key {
        Some(key) => sign::sign(key, request, Some(binding))?,
        None => login::said(&config, request, Some(binding))?,
    };
    done(path, &request, out)
}

pub(super) fn deny(path: &Path, id: &str, comment: Option<&str>, out: &mut dyn Write) -> Result<(), Failure> {
    let (id, comment) = (id.to_owned(), comment.map(str::to_owned));
    let request = Request::Resolve { id, approve: false, comment, terms: AccessTerms::default() };
    done(path, &login::said(&Config::load(path)?, request, None)?, out)
}

pub(super) fn kill(path: &Path, id: &str, reason: &str, out: &mut dyn Write) -> Result<(), Failure> {
    done(path, &Request::Kill { id: id.to_owned(), reason: reason.to_owned() }, out)
}

pub(super) fn detach(path: &Path, out: &mut dyn Write) -> Result<(), Failure> {
    // Without a file an agent that was installed had the defaults, and was never started with anything else.
    let config = if path.exists() { Config::load(path)? } else { Config::parse(path, "")? };
    let by = format!("uid {} pid {}", nix::unistd::getuid(), std::process::id());
    if let Err(why) = app::require_operator(&config) {
        let why = whole(&why);
        // Where an agent runs it has the journal, and is not let go of anyway.
        if let Ok(journal) = Journal::open(&app::journal_options(&config)) {
            journal.append(&[Event::Control { by, action: format!("refused: detach: {why}") }])?;
            journal.close()?;
        }
        return Err(Failure::Failed(why));
    }
    // The journal's lock is the proof that no agent runs, and the act is recorded like any other.
    let journal = Journal::open(&app::journal_options(&config))?;
    let removed =
        intercept::detach(&config.intercept.bpffs).map_err(|error| Failure::Failed(error.to_string()))?;
    app::forget_programs(&config.state_dir);
    journal.append(&[Event::Control { by, action: format!("detach: {removed} links removed") }])?;
    journal.close()?;
    writeln!(out, "{removed} links removed; nothing is intercepted any more")?;
    Ok(())
}

/// Longest wait for the new agent to serve; reading the end of a long journal takes most of it.
const UPGRADE: Duration = Duration::from_secs(60);

pub(super) fn upgrade(path: &Path, out: &mut dyn Write) -> Result<(), Failure> {
    let Response::Done { what: pid } = ask(path, &Request::Upgrade)? else { return Err(unexpected()) };
    let process = Path::new("/proc").join(&pid);
    let started = Instant::now();
    while started.elapsed() < UPGRADE {
        if let Ok(Response::Status(status)) = ask(path, &Request::Status)
            && status.pid.to_string() == pid
        {
            writeln!(out, "chaperone {} runs as pid {pid}", status.version)?;
            if let Some(Response::Status(before)) = ask_draining(path, &Request::Status)? {
                writeln!(out, "pid {} still has {} sessions to end", before.pid, before.sessions)?;
            }
            return Ok(());
        }
        if !process.exists() {
            let why = "the new agent ended before it served; why is in its log, and the old one goes on";
            return Err(Failure::Failed(why.to_owned()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(Failure::Failed(format!("the new agent (pid {pid}) does not serve yet; its log tells more")))
}

pub(super) fn done(path: &Path, request: &Request, out: &mut dyn Write) -> Result<(), Failure> {
    // What the agent does not know may be one of the agent before it, while that one has sessions left.
    let response = match ask(path, request) {
        Err(failure) => ask_draining(path, request).ok().flatten().ok_or(failure)?,
        Ok(response) => {
            if matches!(request, Request::Revoke { .. } | Request::Signed { .. } | Request::LoggedIn { .. }) {
                // A grant may have sessions there, too; one that it does not know is no failure.
                let _ = ask_draining(path, request);
            }
            response
        }
    };
    let Response::Done { what } = response else { return Err(unexpected()) };
    writeln!(out, "{}", what.escape_debug())?;
    Ok(())
}

pub(super) fn ask(path: &Path, request: &Request) -> Result<Response, Failure> {
    let config = Config::load(path)?;
    call(&config.run_dir, request).map_err(|error: ClientError| Failure::Failed(error.to_string()))
}

fn ask_draining(path: &Path, request: &Request) -> Result<Option<Response>, Failure> {
    let config = Config::load(path)?;
    call_draining(&config.run_dir, request).map_err(|error: ClientError| Failure::Failed(error.to_string()))
}

pub(super) fn unexpected() -> Failure {
    Failure::Failed("the agent answered something else than was asked; are both of one version?".into())
}

pub(super) fn print_json<T: serde::Serialize>(value: &T, out: &mut dyn Write) -> Result<(), Failure> {
    serde_json::to_writer_pretty(&mut *out, value).map_err(|error| Failure::Failed(error.to_string()))?;
    writeln!(out)?;
    Ok(())
}
