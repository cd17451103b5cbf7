//! Protocols, one folder each: pure machines and one relay that does the I/O.
//!
//! A protocol takes a connection over when it is known whose it is and where it was going, and serves it to its end.
//! It does not know how that was found out. The set is closed: a new protocol is one folder and its
//! arms in `serve`.

mod asking;
pub mod postgres;
mod serve;
pub mod ssh;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chaperone_policy::Principal;

pub use serve::{Protocol, Services};

use crate::record::event::{Identity, Workload};
use crate::registry::Place;
use crate::upstream::Backend;

/// What is known of a connection when its protocol takes over.
pub struct Admitted {
    pub id: String,
    pub client: SocketAddr,
    pub destination: SocketAddr,
    pub workload: Workload,
    pub principal: Principal,
    /// The person behind the identity.
    pub owner: Option<String>,
    /// What needs an approval is refused, to be sent again after it.
    pub retry: bool,
    pub backend: Arc<Backend>,
    pub login_timeout: Duration,
    /// Its place among the sessions at once, where it has one to itself: a connection that was accepted has it elsewhere.
    pub place: Option<Place>,
    pub tunnel_to: TunnelTo,
}

/// Finds the target that a tunnel out of a session leads to, as a connection of the same identity; or says why it leads to none.
pub type TunnelTo = Arc<dyn Fn(&Admitted, &str, u16) -> Result<(Admitted, Protocol), String> + Send + Sync>;

impl Admitted {
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity { name: self.principal.name().to_owned(), groups: self.principal.groups().to_vec() }
    }
}
