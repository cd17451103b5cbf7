//! The control socket: listening, one line in, one line out.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tracing::warn;

use super::caller::Caller;
use super::operator::{Operator, Successor};
use super::{Request, Response, SOCKET};

/// Longest request.
const LINE_MAX: u64 = 64 << 10;

const TIMEOUT: Duration = Duration::from_secs(5);

/// The socket, made but not yet where callers look for it: an agent that is being replaced has its own there.
pub struct Socket {
    listener: UnixListener,
    made_at: PathBuf,
    path: PathBuf,
}

impl Socket {
    /// # Errors
    /// When it cannot be made.
    pub fn bind(run_dir: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(run_dir)?;
        let made_at = run_dir.join(format!("{SOCKET}.{}", std::process::id()));
        // Only a process of the same id could have left it.
        let _ = std::fs::remove_file(&made_at);
        let listener = UnixListener::bind(&made_at)?;
        std::fs::set_permissions(&made_at, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, made_at, path: run_dir.join(SOCKET) })
    }

    /// Puts the socket in its place, whatever a dead agent left there, and answers until the task is dropped.
    ///
    /// # Errors
    /// When it cannot be put there.
    pub fn serve(self, operator: Arc<Operator>) -> std::io::Result<tokio::task::JoinHandle<()>> {
        std::fs::rename(&self.made_at, &self.path)?;
        let listener = self.listener;
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
}

async fn answer(mut stream: UnixStream, operator: &Arc<Operator>) -> std::io::Result<()> {
    let caller = Caller::of(&stream);
    let mut line = String::new();
    BufReader::new((&mut stream).take(LINE_MAX)).read_line(&mut line).await?;
    let response = match (caller, serde_json::from_str(&line)) {
        (Err(why), _) => Response::Refused { why },
        (Ok(_), Err(error)) => Response::Refused { why: format!("not a request: {error}") },
        (Ok(caller), Ok(request)) => match (operator.may(&caller, &request), request) {
            (Err(why), _) => operator.refuse(&caller, why),
            (Ok(()), Request::TakeOver { version, layout }) => {
                let stream = stream.into_std()?;
                stream.set_nonblocking(false)?;
                (operator.take_over)(Successor { stream, pid: caller.pid, version, layout });
                return Ok(());
            }
            (Ok(()), request @ Request::Prune { .. }) => {
                // Reads what it removes.
                let operator = Arc::clone(operator);
                tokio::task::spawn_blocking(move || operator.answer(&caller, request)).await?
            }
            (Ok(()), Request::LoggedIn { token, binding, request }) => {
                operator.answer_person(&caller, token, binding, *request).await
            }
            (Ok(()), request) => operator.answer(&caller, request),
        },
    };
    let mut bytes = serde_json::to_vec(&response)?;
    bytes.push(b'\n');
    stream.write_all(&bytes).await
}
