//! The closed set of protocols: which one serves a target, and one match that hands a connection to it.

use std::sync::Arc;

use tokio::net::TcpStream;

use super::Admitted;
use super::postgres::{self, Postgres};
use super::ssh::{self, Ssh};
use crate::gate::Gate;
use crate::record::Journal;
use crate::registry::Registry;

/// What a protocol's sessions use of the agent.
#[derive(Clone, Copy)]
pub struct Services<'a> {
    pub gate: &'a Arc<Gate>,
    pub journal: &'a Arc<Journal>,
    pub registry: &'a Arc<Registry>,
}

/// The protocol of one target, with what its sessions share.
#[derive(Clone)]
pub enum Protocol {
    Postgres(Postgres),
    Ssh(Ssh),
}

impl Protocol {
    /// Serves one connection to its end.
    pub async fn serve(&self, services: Services<'_>, admitted: Admitted, stream: TcpStream) {
        match self {
            Self::Postgres(postgres) => postgres.serve(services, admitted, stream).await,
            Self::Ssh(ssh) => Box::pin(ssh.serve(services, admitted, stream)).await,
        }
    }

    /// Tells a client, in its own protocol, that its connection is refused.
    pub async fn refuse(&self, stream: TcpStream, reason: &str) {
        match self {
            Self::Postgres(_) => postgres::refuse(stream, reason).await,
            Self::Ssh(_) => ssh::refuse(stream, reason).await,
        }
    }
}
