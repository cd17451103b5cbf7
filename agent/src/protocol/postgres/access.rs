//! How a client is told that its connection waits for access, or why it does not get it.
//!
//! The client is logged in as far as its protocol goes, so that it can be told something and hangs up cleanly.

use std::time::Duration;

use bytes::BytesMut;

use super::greeting::{Client, LoginFailure};
use super::response::{Report, sqlstate};
use super::startup;
use crate::gate::{GrantError, HoldInfo};
use crate::protocol::asking::{No, Waiting, approvers};

impl Waiting for Client {
    type Failure = LoginFailure;

    async fn tell(&mut self, info: &HoldInfo, timeout: Duration) -> Result<(), LoginFailure> {
        let mut out = BytesMut::new();
        startup::put_welcome(&mut out);
        Report::new("01000", format!("access asked for, request {}", info.id))
            .detail(format!("{} needs an approval by {}", info.policies.join(", "), approvers(info)))
            .hint(format!(
                "Wait: the connection goes on when it is granted, and is refused after {} s.",
                timeout.as_secs()
            ))
            .put_notice(&mut out);
        self.welcomed = true;
        self.write(&out).await
    }

    async fn read(&mut self) -> Result<(), LoginFailure> {
        Self::read(self).await
    }

    fn ahead(&self) -> usize {
        Self::ahead(self)
    }
}

/// In PostgreSQL's words.
pub(super) fn failure(no: No<LoginFailure>, session: &str) -> LoginFailure {
    let denied = |message: String| Report::new(sqlstate::INVALID_AUTHORIZATION, message);
    let report = match no {
        No::Client(failure) => return failure,
        No::Denied(decision) => {
            let message = format!("connection denied by policy \"{}\": {}", decision.rule(), decision.reason);
            let mut report = denied(message).detail(format!("session {session}"));
            report.hint = decision.hint;
            report
        }
        No::Grant(error) => storage(&error),
        No::Unrecorded => {
            Report::new(sqlstate::DISK_FULL, "the request cannot be recorded, so it cannot be granted")
        }
        No::Parked { id, why, stands } => denied(format!("access asked for, request {id}"))
            .detail(format!("{}: {}", why.policies.join(", "), why.reason))
            .hint(format!(
                "Connect again once it is granted; the request stands for {} s.",
                stands.as_secs()
            )),
        No::NotParked(error) => denied(error.to_string()),
        No::TooMany(most) => denied(format!("{most} connections of this identity wait for access already")),
        No::TooMuchAhead => Report::new(sqlstate::PROTOCOL_VIOLATION, "the client talks before it is let in"),
        No::Killed(why) => Report::new(sqlstate::ADMIN_SHUTDOWN, format!("terminated: {why}")),
        No::Expired(id) => denied("nobody granted access in time".to_owned())
            .detail(format!("request {id}"))
            .hint("Ask an approver, then connect again."),
        No::Refused { id, comment } => {
            let why = comment.map(|comment| format!(": {comment}")).unwrap_or_default();
            denied(format!("an approver denied access{why}")).detail(format!("request {id}"))
        }
        No::NeedsMore => denied("access was granted, and policy asks for more by now".to_owned()),
    };
    LoginFailure::Refused(Box::new(report))
}

fn storage(error: &GrantError) -> Report {
    tracing::warn!(%error, "grants");
    Report::new(sqlstate::INVALID_AUTHORIZATION, format!("the grant cannot be used: {error}"))
        .hint("Connect again; if it stays, tell whoever runs this host.")
}
