//! `chaperone login` and `logout`: who a person is at the identity provider, kept for the commands that say yes or no.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::Failure;
use crate::config::{Config, Login, ProviderRule};
use crate::control::{Bearer, Request};
use crate::identity::make_provider;
use crate::identity::person::{self, Person};

/// More than a token may be long.
const LARGEST: u64 = 32 << 10;

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    issuer: String,
    audience: String,
    token: Bearer,
    expires_unix_s: u64,
}

pub(super) fn login(path: &Path, out: &mut dyn Write) -> Result<(), Failure> {
    let config = Config::load(path)?;
    let (rule, login) = of(&config).ok_or_else(|| {
        Failure::Usage("the configuration has no [login], which says where people log in".into())
    })?;
    let file = place()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (token, person) = runtime.block_on(at_the_provider(rule, login, out))?;
    let kept = Kept {
        issuer: rule.issuer.clone(),
        audience: rule.audience.clone(),
        token: Bearer(token),
        expires_unix_s: person.expires,
    };
    keep(&file, &kept).map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))?;
    let groups = if person.groups.is_empty() {
        "in no group that approves".to_owned()
    } else {
        person.groups.into_iter().collect::<Vec<_>>().join(", ")
    };
    let left = Duration::from_secs(person.expires.saturating_sub(now_s()));
    writeln!(out, "logged in as {} ({groups}) for {}", person.name, humantime::format_duration(left))?;
    Ok(())
}

async fn at_the_provider(
    rule: &ProviderRule,
    login: &Login,
    out: &mut dyn Write,
) -> Result<(String, Person), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(error.to_string());
    let provider = make_provider(rule).map_err(|error| failed(&error))?;
    let started = person::begin(&provider, login).await.map_err(|error| failed(&error))?;
    // Whatever the provider sends, it is shown as text.
    writeln!(out, "open  {}", started.verification_uri.escape_debug())?;
    writeln!(out, "code  {}", started.user_code.escape_debug())?;
    if let Some(complete) = &started.verification_uri_complete {
        writeln!(out, "or    {}", complete.escape_debug())?;
    }
    out.flush()?;
    let token = person::wait(&provider, login, &started).await.map_err(|error| failed(&error))?;
    // As the agent will: better refused now than with the first approval.
    let person = person::who(&provider, login, &token).await.map_err(|error| failed(&error))?;
    Ok((token, person))
}

pub(super) fn logout(out: &mut dyn Write) -> Result<(), Failure> {
    let file = place()?;
    match std::fs::remove_file(&file) {
        Ok(()) => writeln!(out, "logged out")?,
        Err(error) if error.kind() == ErrorKind::NotFound => writeln!(out, "nobody was logged in")?,
        Err(error) => return Err(Failure::Failed(format!("{}: {error}", file.display()))),
    }
    Ok(())
}

/// The request as said by whoever is logged in; as it is where nobody is.
pub(super) fn said(config: &Config, request: Request, binding: Option<String>) -> Result<Request, Failure> {
    let Some((rule, _)) = of(config) else { return Ok(request) };
    let file = place()?;
    let kept = kept(&file).map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))?;
    Ok(match kept.filter(|kept| kept.issuer == rule.issuer && kept.audience == rule.audience) {
        // The agent is told of nobody whose login has ended, and says what to do.
        Some(kept) if kept.expires_unix_s > now_s() => {
            Request::LoggedIn { token: kept.token, binding, request: Box::new(request) }
        }
        _ => request,
    })
}

fn of(config: &Config) -> Option<(&ProviderRule, &Login)> {
    let login = config.login.as_ref()?;
    Some((config.providers.iter().find(|provider| provider.name == login.provider)?, login))
}

/// Of the user, not of the host: several people may be root here, one after another.
fn place() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    let state = state
        .ok_or_else(|| Failure::Usage("neither XDG_STATE_HOME nor HOME says where to keep a login".into()))?;
    Ok(state.join("chaperone/login.json"))
}

fn keep(file: &Path, kept: &Kept) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let fresh = file.with_extension(format!("{}.new", std::process::id()));
    let write = || {
        let mut target = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        target.write_all(&serde_json::to_vec(kept)?)?;
        target.sync_all()?;
        std::fs::rename(&fresh, file)
    };
    write().inspect_err(|_| {
        let _ = std::fs::remove_file(&fresh);
    })
}

fn kept(file: &Path) -> std::io::Result<Option<Kept>> {
    let opened = match std::fs::File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let about = opened.metadata()?;
    if about.uid() != nix::unistd::geteuid().as_raw() || about.mode() & 0o077 != 0 {
        let why = "the login may be read by others, or is another user's; `chaperone logout`, then `login`";
        return Err(std::io::Error::other(why));
    }
    let mut text = Vec::new();
    opened.take(LARGEST).read_to_end(&mut text)?;
    Ok(Some(serde_json::from_slice(&text)?))
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
