//! A container engine that speaks Docker's API on a unix socket: Docker itself, and Podman for root.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Answer, Authority, Claim, Doubt, holds_process};
use crate::http::{self, HttpError};
use crate::workload::Pod;

pub(super) struct Engine {
    name: &'static str,
    socket: PathBuf,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    state: State,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    running: bool,
    pid: i32,
}

impl Engine {
    pub(super) fn new(name: &'static str, socket: &Path) -> Self {
        Self { name, socket: socket.to_owned() }
    }

    async fn ask(&self, claim: &Claim) -> Result<Option<Pod>, Doubt> {
        let authority = self.name;
        let otherwise = |why: String| Doubt::Otherwise { authority, why };
        let id = claim.placement.container.as_deref().ok_or(Doubt::NobodyToAsk)?;
        // Without a version in the path the engine answers in its own; these fields are in every one.
        let body =
            http::get_local(&self.socket, &format!("/containers/{id}/json")).await.map_err(|error| {
                match error {
                    HttpError::Status { status, .. } if status == hyper::StatusCode::NOT_FOUND => {
                        otherwise("there is no such container".to_owned())
                    }
                    error => Doubt::Unreachable { authority, why: error.to_string() },
                }
            })?;
        let found: Inspected = serde_json::from_slice(&body).map_err(|error| Doubt::Unreachable {
            authority,
            why: format!("its answer cannot be read: {error}"),
        })?;
        if found.id != id {
            return Err(otherwise(format!(
                "it answered about another container, {}",
                found.id.escape_debug()
            )));
        }
        if !found.state.running || found.state.pid <= 0 {
            return Err(otherwise("the container does not run".to_owned()));
        }
        holds_process(&claim.root, found.state.pid).map_err(otherwise).map(|()| None)
    }
}

impl Authority for Engine {
    fn name(&self) -> &'static str {
        self.name
    }

    fn confirm<'a>(&'a self, claim: &'a Claim) -> Answer<'a> {
        Box::pin(self.ask(claim))
    }
}
