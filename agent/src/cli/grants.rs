//! `chaperone grants`, `grant` and `revoke`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::operate::{ask, done, print_json, unexpected};
use super::{Failure, login, sign};
use crate::config::Config;
use crate::control::{GrantInfo, Request, Response};
use crate::gate::{Hours, Terms};

/// What is granted, as typed.
#[derive(Debug, clap::Args)]
pub(super) struct Typed {
    /// The identity it is for.
    identity: String,
    /// Only on this target; default: every target.
    #[arg(long)]
    target: Option<String>,
    /// Only this database.
    #[arg(long)]
    database: Option<String>,
    /// A group lent while it lasts; may be given several times.
    #[arg(long = "group")]
    groups: Vec<String>,
    /// How long, such as 20m or 4h.
    #[arg(long = "for", value_parser = humantime::parse_duration)]
    length: Duration,
    /// Only at these hours of the day, UTC, such as 08:00-18:00.
    #[arg(long)]
    hours: Option<Hours>,
    /// Sessions that may begin.
    #[arg(long)]
    uses: Option<u64>,
    /// Rows all its sessions together may be served.
    #[arg(long)]
    rows: Option<u64>,
    #[arg(long)]
    reason: String,
    #[arg(long)]
    ticket: Option<String>,
    /// Sign with this key.
    #[arg(long)]
    key: Option<PathBuf>,
    #[arg(long)]
    json: bool,
}

pub(super) fn list(config: &Path, all: bool, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let Response::Grants { grants } = ask(config, &Request::Grants { all })? else {
        return Err(unexpected());
    };
    if json {
        return print_json(&grants, out);
    }
    if grants.is_empty() {
        writeln!(out, "{}", if all { "nothing was ever granted" } else { "nothing is granted" })?;
    }
    for grant in &grants {
        print(grant, out)?;
    }
    Ok(())
}

pub(super) fn grant(config: &Path, typed: &Typed, out: &mut dyn Write) -> Result<(), Failure> {
    let terms = Terms {
        identity: typed.identity.clone(),
        target: typed.target.clone(),
        database: typed.database.clone(),
        groups: typed.groups.clone(),
        for_s: typed.length.as_secs(),
        hours: typed.hours,
        max_uses: typed.uses,
        max_rows: typed.rows,
        reason: typed.reason.clone(),
        ticket: typed.ticket.clone(),
    };
    let request = Request::Grant { terms };
    let request = match &typed.key {
        Some(key) => sign::sign(key, request, None)?,
        None => login::said(&Config::load(config)?, request, None)?,
    };
    let Response::Granted { grant } = ask(config, &request)? else { return Err(unexpected()) };
    if typed.json {
        return print_json(&grant, out);
    }
    print(&grant, out)?;
    Ok(())
}

pub(super) fn revoke(config: &Path, id: &str, reason: &str, out: &mut dyn Write) -> Result<(), Failure> {
    done(config, &Request::Revoke { id: id.to_owned(), reason: reason.to_owned() }, out)
}

fn print(grant: &GrantInfo, out: &mut dyn Write) -> std::io::Result<()> {
    let any = |name: &Option<String>| name.clone().unwrap_or_else(|| "any".into());
    writeln!(out, "{}", grant.id)?;
    writeln!(out, "  who        {}", grant.identity)?;
    writeln!(out, "  where      {}/{}", any(&grant.target), any(&grant.database))?;
    if !grant.groups.is_empty() {
        writeln!(out, "  lends      {}", grant.groups.join(", "))?;
    }
    match &grant.ended {
        Some(why) => writeln!(out, "  ended      {}", why.escape_debug())?,
        None => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let left =
                grant.expires_unix_ms.saturating_sub(i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
            writeln!(out, "  ends in    {:.1} s", left.max(0) as f64 / 1000.0)?;
        }
    }
    if let Some(hours) = grant.hours {
        writeln!(out, "  hours      {hours} UTC")?;
    }
    let of = |most: Option<u64>| most.map(|most| format!(" of {most}")).unwrap_or_default();
    writeln!(
        out,
        "  used       {}{} sessions, {}{} rows",
        grant.uses,
        of(grant.max_uses),
        grant.rows,
        of(grant.max_rows)
    )?;
    let by: Vec<&str> = grant.given.iter().map(|given| given.by.as_str()).collect();
    writeln!(out, "  by         {}", by.join(", ").escape_debug())?;
    writeln!(out, "  reason     {}", grant.reason.escape_debug())?;
    if let Some(ticket) = &grant.ticket {
        writeln!(out, "  ticket     {}", ticket.escape_debug())?;
    }
    Ok(())
}
