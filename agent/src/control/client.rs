//! The command line's side of the control socket. Blocking: a command asks one thing and ends.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{DRAINING, Request, Response, SOCKET};

const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "cannot reach the agent at {path}: {source}; is `chaperone run` running, with this configuration?"
    )]
    Connect { path: PathBuf, source: std::io::Error },
    #[error("talking to the agent failed: {0}")]
    Io(#[from] std::io::Error),
    #[error("the agent's answer cannot be read: {0}")]
    Answer(#[from] serde_json::Error),
    #[error("{0}")]
    Refused(String),
}

/// Asks the agent one thing.
///
/// # Errors
/// When there is no agent, or it refuses.
pub fn call(run_dir: &Path, request: &Request) -> Result<Response, ClientError> {
    call_at(run_dir.join(SOCKET), request)
}

/// Asks the agent that was taken over from, while it still has sessions; `None` when there is none.
///
/// # Errors
/// When it refuses.
pub fn call_draining(run_dir: &Path, request: &Request) -> Result<Option<Response>, ClientError> {
    match call_at(run_dir.join(DRAINING), request) {
        Ok(response) => Ok(Some(response)),
        // None, or just gone.
        Err(ClientError::Connect { .. } | ClientError::Io(_) | ClientError::Answer(_)) => Ok(None),
        Err(error @ ClientError::Refused(_)) => Err(error),
    }
}

fn call_at(path: PathBuf, request: &Request) -> Result<Response, ClientError> {
    let mut stream =
        UnixStream::connect(&path).map_err(|source| ClientError::Connect { path: path.clone(), source })?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    match serde_json::from_str(&answer)? {
        Response::Refused { why } => Err(ClientError::Refused(why)),
        response => Ok(response),
    }
}
