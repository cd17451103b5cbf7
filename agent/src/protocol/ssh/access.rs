//! How a client is told that its connection waits for access, or why it does not get it.
//!
//! It waits for the answer to its login, and is told by a banner meanwhile, which ssh shows on standard error.

use std::time::Duration;

use bytes::BufMut as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::codec::{msg, put_string};
use super::serve::{Client, LoginFailure};
use crate::gate::HoldInfo;
use crate::protocol::asking::{No, Waiting, approvers};

impl Waiting for Client {
    type Failure = LoginFailure;

    async fn tell(&mut self, info: &HoldInfo, timeout: Duration) -> Result<(), LoginFailure> {
        let text = format!(
            "chaperone: access asked for, request {}: {} (by {}; waits {} s at most)\r\n",
            info.id,
            info.reason.as_deref().unwrap_or("it needs an approval"),
            approvers(info),
            timeout.as_secs()
        );
        let mut banner = vec![msg::USERAUTH_BANNER];
        put_string(&mut banner, text.as_bytes());
        banner.put_u32(0);
        self.transport.send(&banner, &mut self.output)?;
        self.stream.write_all(&self.output).await?;
        self.output.clear();
        Ok(())
    }

    /// Only the transport has something to say before the answer to a login: new keys, a sign of life, a goodbye.
    async fn read(&mut self) -> Result<(), LoginFailure> {
        loop {
            let before = self.input.len();
            if self.transport.receive(&mut self.input, &mut self.output)?.is_some() {
                return Err(LoginFailure::Ahead);
            }
            if !self.output.is_empty() {
                // A write that is cut off goes on where it was.
                while !self.output.is_empty() {
                    let count = self.stream.write(&self.output).await?;
                    bytes::Buf::advance(&mut self.output, count);
                }
            }
            self.ahead += before - self.input.len();
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(LoginFailure::Closed);
            }
            if self.ahead() > 0 {
                return Ok(());
            }
        }
    }

    fn ahead(&self) -> usize {
        self.ahead + self.input.len()
    }
}

/// In words.
pub(super) fn failure(no: No<LoginFailure>, user: &str) -> LoginFailure {
    LoginFailure::Refused(match no {
        No::Client(failure) => return failure,
        No::Denied(decision) => {
            let rule = decision.rule();
            format!("connection as {user} denied by policy \"{rule}\": {}", decision.reason)
        }
        No::Grant(error) => format!("the grant cannot be used: {error}"),
        No::Unrecorded => "the request cannot be recorded, so it cannot be granted".to_owned(),
        No::Parked { id, why, stands } => format!(
            "access asked for, request {id}: {}; connect again once it is granted, within {} s",
            why.reason,
            stands.as_secs()
        ),
        No::NotParked(error) => error.to_string(),
        No::TooMany(most) => format!("{most} connections of this identity wait for access already"),
        No::TooMuchAhead => "the client talks before it is let in".to_owned(),
        No::Killed(why) => format!("terminated: {why}"),
        No::Expired(id) => format!("nobody granted access in time (request {id})"),
        No::Refused { id, comment } => {
            let why = comment.map(|comment| format!(": {comment}")).unwrap_or_default();
            format!("an approver denied access{why} (request {id})")
        }
        No::NeedsMore => "access was granted, and policy asks for more by now".to_owned(),
    })
}
