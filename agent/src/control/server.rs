//! The agent's side of the control socket.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use procfs::process::Process;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tracing::warn;

use super::{Request, Response, SOCKET, Status};
use crate::gate::{Gate, Resolution};
use crate::record::Journal;
use crate::record::event::Event;
use crate::registry::{Command, Registry};

/// Longest request.
const LINE_MAX: u64 = 64 << 10;

const TIMEOUT: Duration = Duration::from_secs(5);

/// What the socket operates on.
pub struct Operator {
    pub gate: Arc<Gate>,
    pub journal: Arc<Journal>,
    pub registry: Arc<Registry>,
    pub callers: Callers,
    pub stats: Box<dyn Fn() -> Vec<(String, u64)> + Send + Sync>,
}

/// Which cgroups may ask. Paths are below the cgroup2 mount.
pub struct Callers {
    pub governed: String,
    pub bypass: Vec<String>,
    pub operators: Vec<String>,
    /// True for a cgroup that belongs to an identity.
    pub identified: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

impl Callers {
    /// What is governed may not ask. Where the whole host is governed, somebody has to: the cgroups that the
    /// configuration names for operators, and never those of an identity.
    fn allows(&self, cgroup: &str) -> bool {
        let any = |roots: &[String]| roots.iter().any(|root| below(cgroup, root));
        let outside = !below(cgroup, &self.governed) || any(&self.bypass);
        let operator = self.governed == "/" && (cgroup == "/" || any(&self.operators));
        (outside || operator) && !(self.identified)(cgroup)
    }
}

/// Who calls, as the kernel says.
struct Caller {
    uid: u32,
    pid: i32,
    cgroup: String,
    exe: String,
}

impl Caller {
    fn describe(&self) -> String {
        format!("uid {} pid {} exe {} cgroup {}", self.uid, self.pid, self.exe, self.cgroup)
    }
}

/// Opens the socket and answers until the task is dropped.
///
/// # Errors
/// When the socket cannot be made.
pub fn serve(run_dir: &Path, operator: Arc<Operator>) -> std::io::Result<tokio::task::JoinHandle<()>> {
    std::fs::create_dir_all(run_dir)?;
    let path = run_dir.join(SOCKET);
    // The journal's lock says that no other agent runs, so a socket that is there is a dead one's.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let operator = Arc::clone(&operator);
                    tokio::spawn(async move {
                        let answered = tokio::time::timeout(TIMEOUT, answer(stream, &operator)).await;
                        if let Ok(Err(error)) = answered {
                            warn!(%error, "control connection failed");
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "control socket: accept failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }))
}

async fn answer(stream: UnixStream, operator: &Operator) -> std::io::Result<()> {
    let caller = caller(&stream);
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(LINE_MAX)).read_line(&mut line).await?;
    let response = match (caller, serde_json::from_str(&line)) {
        (Err(why), _) => Response::Refused { why },
        (Ok(_), Err(error)) => Response::Refused { why: format!("not a request: {error}") },
        (Ok(caller), Ok(request)) => operator.answer(&caller, request),
    };
    let mut bytes = serde_json::to_vec(&response)?;
    bytes.push(b'\n');
    write.write_all(&bytes).await
}

fn caller(stream: &UnixStream) -> Result<Caller, String> {
    let credentials = stream.peer_cred().map_err(|error| format!("cannot tell who calls: {error}"))?;
    let pid = credentials.pid().ok_or("cannot tell which process calls")?;
    let process = Process::new(pid).map_err(|error| format!("the calling process is gone: {error}"))?;
    let cgroups = process.cgroups().map_err(|error| format!("cannot read the caller's cgroup: {error}"))?;
    let cgroup = cgroups
        .into_iter()
        .find(|group| group.hierarchy == 0)
        .map(|group| group.pathname)
        .ok_or("the caller has no cgroup in the unified hierarchy")?;
    let exe = process.exe().map_or_else(|_| "?".to_owned(), |path| path.display().to_string());
    Ok(Caller { uid: credentials.uid(), pid, cgroup, exe })
}

impl Operator {
    fn answer(&self, caller: &Caller, request: Request) -> Response {
        if let Err(why) = self.may(caller, &request) {
            warn!(caller = %caller.describe(), "control request refused");
            let event = Event::Control { by: caller.describe(), action: format!("refused: {why}") };
            let _ = self.journal.append(&[event]);
            return Response::Refused { why };
        }
        match request {
            Request::Status => Response::Status(self.status()),
            Request::Approvals => Response::Approvals { holds: self.gate.holds().list() },
            Request::Sessions => Response::Sessions { sessions: self.registry.list() },
            Request::Resolve { id, approve, comment } => {
                // The session writes the record of it, with the statement it belongs to.
                let resolution = Resolution { approved: approve, by: caller.describe(), comment };
                match self.gate.holds().resolve(&id, resolution) {
                    Ok(info) => {
                        let what = if approve { "approved" } else { "denied" };
                        Response::Done { what: format!("{what} {id}: {}", info.sql) }
                    }
                    Err(error) => Response::Refused { why: error.to_string() },
                }
            }
            Request::Kill { id, reason } => self.kill(caller, &id, reason),
        }
    }

    fn kill(&self, caller: &Caller, id: &str, reason: String) -> Response {
        let event = Event::Control { by: caller.describe(), action: format!("kill session {id}: {reason}") };
        if let Err(error) = self.journal.append(&[event]) {
            return Response::Refused { why: format!("cannot record: {error}") };
        }
        if self.registry.command(id, Command::Kill(reason)) {
            Response::Done { what: format!("killed {id}") }
        } else {
            Response::Refused { why: format!("no session {id} lives") }
        }
    }

    /// A governed process may ask nothing here, root or not.
    fn may(&self, caller: &Caller, request: &Request) -> Result<(), String> {
        if caller.uid != 0 {
            return Err("only root may use the control socket".into());
        }
        if matches!(request, Request::Status) || self.callers.allows(&caller.cgroup) {
            return Ok(());
        }
        Err(format!("cgroup {} is governed; ask from a shell outside of it", caller.cgroup))
    }

    fn status(&self) -> Status {
        let policies = self.gate.policies();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            policy_sha256: policies.set.digest().to_owned(),
            policies: policies.set.ids().count(),
            sessions: self.registry.len(),
            holds: self.gate.holds().list().len(),
            journal_percent: self.journal.usage() * 100.0,
            kernel: (self.stats)(),
        }
    }
}

fn below(path: &str, root: &str) -> bool {
    root == "/" || path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_governed_may_not_approve() {
        let check = |governed: &str, cgroup: &str, expect: bool| {
            let callers = Callers {
                governed: governed.into(),
                bypass: vec!["/agents/bypassed".into()],
                operators: vec!["/user.slice".into()],
                identified: Box::new(|cgroup| {
                    below(cgroup, "/agents/bot") || below(cgroup, "/user.slice/ai")
                }),
            };
            assert_eq!(callers.allows(cgroup), expect, "{cgroup} where {governed} is governed");
        };
        check("/agents", "/user.slice/me", true);
        check("/agents", "/", true);
        check("/agents", "/agents/bot", false);
        check("/agents", "/agents/unknown", false);
        check("/agents", "/agents/bypassed/x", true);
        check("/", "/user.slice/me", true);
        check("/", "/", true);
        check("/", "/user.slice/ai/tool", false);
        check("/", "/system.slice/docker-0.scope", false);
        check("/", "/agents/bypassed", true);
    }
}
