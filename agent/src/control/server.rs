//! The control socket: listening, one line in, one line out.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tracing::warn;

use super::caller::Caller;
use super::operator::Operator;
use super::{Response, SOCKET};

/// Longest request.
const LINE_MAX: u64 = 64 << 10;

const TIMEOUT: Duration = Duration::from_secs(5);

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
    let caller = Caller::of(&stream);
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
