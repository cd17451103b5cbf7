//! The socket on which ssh asks whether it is about to meet Chaperone, and with which keys.
//!
//! Everybody may ask. Only a process that is governed gets an answer, and only about a host that is a target: for
//! all others ssh behaves as if nobody had been asked. What is told are public keys.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::caller::{Caller, below};

/// Name of the socket in the run directory.
pub const HOSTS_SOCKET: &str = "hosts.sock";

/// Longest question; a host name has at most 253 characters.
const LINE_MAX: u64 = 512;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Questions at once, since everybody may ask; more of them wait.
const AT_ONCE: usize = 32;

/// The keys that a governed client of this name, port and these addresses will see: algorithm and base64 each.
pub type KeysOf = Box<dyn Fn(&str, u16, &[IpAddr]) -> Vec<String> + Send + Sync>;

/// What is answered from. Paths are below the cgroup2 mount.
pub struct HostBook {
    pub governed: String,
    /// True for a cgroup that is exempt, asked each time.
    pub bypassed: Box<dyn Fn(&str) -> bool + Send + Sync>,
    pub keys: KeysOf,
}

/// Opens the socket and answers until the task is dropped.
///
/// # Errors
/// When the socket cannot be made.
pub fn serve_hosts(run_dir: &Path, book: Arc<HostBook>) -> std::io::Result<tokio::task::JoinHandle<()>> {
    std::fs::create_dir_all(run_dir)?;
    let path = run_dir.join(HOSTS_SOCKET);
    // As with the control socket: one that is there is a dead agent's.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
    let places = Arc::new(Semaphore::new(AT_ONCE));
    Ok(tokio::spawn(async move {
        loop {
            // Never closed, so it is always had.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            match listener.accept().await {
                Ok((stream, _)) => {
                    let book = Arc::clone(&book);
                    tokio::spawn(async move {
                        if let Ok(Err(error)) = tokio::time::timeout(TIMEOUT, answer(stream, &book)).await {
                            debug!(%error, "a question about a host was not answered");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(%error, "hosts socket: accept failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }))
}

async fn answer(stream: UnixStream, book: &HostBook) -> std::io::Result<()> {
    let caller = Caller::of(&stream);
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(LINE_MAX)).read_line(&mut line).await?;
    let governed = caller.is_ok_and(|caller| book.governs(&caller.cgroup));
    let asked = line.trim();
    let Some((name, port)) = host_and_port(asked).filter(|_| governed) else { return Ok(()) };
    let addresses = match name.parse() {
        Ok(address) => vec![address],
        Err(_) => resolved(name, port).await,
    };
    let keys = (book.keys)(name, port, &addresses);
    let text: String = keys.iter().map(|key| format!("{asked} {key}\n")).collect();
    write.write_all(text.as_bytes()).await
}

impl HostBook {
    fn governs(&self, cgroup: &str) -> bool {
        below(cgroup, &self.governed) && !(self.bypassed)(cgroup)
    }
}

/// `name`, or `[name]:port`, as ssh writes a host of another port than 22.
fn host_and_port(asked: &str) -> Option<(&str, u16)> {
    let (name, port) = match asked.strip_prefix('[') {
        Some(rest) => {
            let (name, port) = rest.split_once("]:")?;
            (name, port.parse().ok()?)
        }
        None => (asked, 22),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:%".contains(c);
    (!name.is_empty() && name.chars().all(plain)).then_some((name, port))
}

/// As this host resolves it; the client asked the same resolver.
async fn resolved(name: &str, port: u16) -> Vec<IpAddr> {
    let found = tokio::time::timeout(Duration::from_secs(2), tokio::net::lookup_host((name, port))).await;
    found.ok().and_then(Result::ok).map(|all| all.map(|address| address.ip()).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_ssh_writes_them() {
        for (asked, expect) in [
            ("web1", Some(("web1", 22))),
            ("[web1]:2222", Some(("web1", 2222))),
            ("[::1]:22", Some(("::1", 22))),
            ("10.0.0.1", Some(("10.0.0.1", 22))),
            ("", None),
            ("[web1]:x", None),
            ("[web1", None),
            ("web1 ssh-ed25519 AAAA", None),
            ("web*", None),
            ("web1,web2", None),
        ] {
            assert_eq!(host_and_port(asked), expect, "{asked}");
        }
    }

    #[test]
    fn only_what_is_governed_is_told() {
        let book = HostBook {
            governed: "/agents".into(),
            bypassed: Box::new(|cgroup| below(cgroup, "/agents/free")),
            keys: Box::new(|_, _, _| Vec::new()),
        };
        assert!(book.governs("/agents/bot") && book.governs("/agents"));
        assert!(!book.governs("/agents/free/x") && !book.governs("/user.slice") && !book.governs("/agents2"));
    }
}
