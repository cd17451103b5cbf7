//! One unary gRPC call over a unix socket of this host: bounded in size and time, no stream, no second try. Does not
//! know what it carries.

use std::path::Path;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HeaderMap, TE};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::http::{self, HttpError};

/// From the connection to the last byte of the answer.
const LONGEST: Duration = Duration::from_secs(5);

const LARGEST: usize = 1 << 20;

/// A byte that says whether the message is compressed, and four of its length.
const PREFIX: usize = 5;

#[derive(Debug, thiserror::Error)]
pub enum GrpcError {
    #[error("{0}")]
    Http(#[from] HttpError),
    #[error("{method}: {source}")]
    Talk { method: &'static str, source: hyper::Error },
    #[error("{method} was answered with {status}, which is not gRPC")]
    Status { method: &'static str, status: StatusCode },
    #[error("{method} was refused with code {code}: {message}")]
    Refused { method: &'static str, code: u16, message: String },
    #[error("{0} was answered with more than 1 MiB, or the answer broke off")]
    Body(&'static str),
    #[error("{0} was not answered within 5 s")]
    Slow(&'static str),
}

/// Calls a method with an encoded message, and returns the encoded answer.
///
/// # Errors
/// When there is no good answer in time.
pub async fn call(
    socket: &Path,
    method: &'static str,
    metadata: &[(&'static str, &str)],
    message: &[u8],
) -> Result<Bytes, GrpcError> {
    let called = talk(socket, method, metadata, message);
    tokio::time::timeout(LONGEST, called).await.unwrap_or(Err(GrpcError::Slow(method)))
}

async fn talk(
    socket: &Path,
    method: &'static str,
    metadata: &[(&'static str, &str)],
    message: &[u8],
) -> Result<Bytes, GrpcError> {
    let failed = |source| GrpcError::Talk { method, source };
    let stream = http::local(socket).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(failed)?;
    let driver = tokio::spawn(connection);
    let _ended = scopeguard(driver.abort_handle());
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://localhost{method}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers");
    for (name, value) in metadata {
        request = request.header(*name, *value);
    }
    let mut body = BytesMut::with_capacity(PREFIX + message.len());
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).map_err(|_| GrpcError::Body(method))?);
    body.put_slice(message);
    let request = request
        .body(Full::new(body.freeze()))
        .map_err(|_| HttpError::Address(socket.display().to_string()))?;
    let response = sender.send_request(request).await.map_err(failed)?;
    let status = response.status();
    if status != StatusCode::OK {
        return Err(GrpcError::Status { method, status });
    }
    // An answer without a message has its end in the headers.
    let headers = response.headers().clone();
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    let body = body.map_err(|_| GrpcError::Body(method))?;
    let ended = body.trailers().filter(|trailers| trailers.contains_key(STATUS)).unwrap_or(&headers);
    accepted(method, ended)?;
    unframed(body.to_bytes()).ok_or(GrpcError::Body(method))
}

const STATUS: &str = "grpc-status";

fn accepted(method: &'static str, ended: &HeaderMap) -> Result<(), GrpcError> {
    let text = |name: &str| ended.get(name).and_then(|value| value.to_str().ok());
    match text(STATUS).and_then(|code| code.parse().ok()) {
        Some(0) => Ok(()),
        Some(code) => {
            let message = text("grpc-message").unwrap_or("-").escape_debug().to_string();
            Err(GrpcError::Refused { method, code, message })
        }
        None => Err(GrpcError::Body(method)),
    }
}

/// The one message of the answer.
fn unframed(mut body: Bytes) -> Option<Bytes> {
    let (prefix, message) = body.split_first_chunk::<PREFIX>()?;
    let [0, length @ ..] = *prefix else { return None };
    let whole = usize::try_from(u32::from_be_bytes(length)).ok()? == message.len();
    whole.then(|| body.split_off(PREFIX))
}

/// Ends the task behind a call however the call ends.
fn scopeguard(task: tokio::task::AbortHandle) -> impl Drop {
    struct Guard(tokio::task::AbortHandle);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.abort();
        }
    }
    Guard(task)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_whole_message_that_is_not_compressed() {
        let check = |body: &[u8], expect: Option<&[u8]>| {
            assert_eq!(unframed(Bytes::copy_from_slice(body)).as_deref(), expect, "{body:?}");
        };
        check(&[0, 0, 0, 0, 2, 7, 8], Some(&[7, 8]));
        check(&[0, 0, 0, 0, 0], Some(&[]));
        check(&[1, 0, 0, 0, 2, 7, 8], None);
        check(&[0, 0, 0, 0, 3, 7, 8], None);
        check(&[0, 0, 0, 0, 1, 7, 8], None);
        check(&[0, 0, 0, 0], None);
        check(&[], None);
    }
}
