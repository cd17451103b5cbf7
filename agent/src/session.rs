//! The life of a connection, from accept to its last record, and the registry of those that live.
//!
//! One async function, top to bottom: original destination, workload, identity, protocol. Every way out is one
//! record. What the bytes mean is the protocol's business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chaperone_policy::Principal;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tracing::{info, info_span, warn};
use uuid::Uuid;

use crate::authority::Authorities;
use crate::config::Config;
use crate::gate::Gate;
use crate::identity::{Identities, IdentityError, Word};
use crate::intercept::Lookup;
use crate::log::InSpan;
use crate::protocol::{Admitted, Protocol, Services, TunnelTo};
use crate::record::Journal;
use crate::record::event::{Event, Workload};
use crate::registry::{Place, Registry};
use crate::upstream::Backend;
use crate::workload::{self, Provenance};

/// From this share of the journal's ceiling on, what is left is for the sessions that live.
const FULL: f64 = 0.95;

/// A target, and what its protocol's sessions share.
#[derive(Clone)]
pub struct Service {
    pub backend: Arc<Backend>,
    pub protocol: Protocol,
}

/// What of the configuration a new session uses; replaced as one on reload.
pub struct World {
    pub config: Config,
    pub identities: Identities,
    pub authorities: Authorities,
    pub services: Vec<Service>,
}

impl World {
    /// Where a host is that a client names, by its address or as one of a target's names.
    fn named(&self, host: &str, port: u16) -> Option<SocketAddr> {
        if let Ok(ip) = host.parse() {
            return Some(reachable(SocketAddr::new(ip, port)));
        }
        let target = self.config.targets.iter().find(|target| {
            let names = target.ssh.iter().flat_map(|ssh| &ssh.host_names).chain(&target.client_names);
            target.port == port && names.into_iter().any(|name| name.eq_ignore_ascii_case(host))
        })?;
        let [address] = target.addresses.as_slice() else { return None };
        address.is_one().then(|| SocketAddr::new(address.address, port))
    }

    fn service(&self, destination: SocketAddr) -> Option<&Service> {
        let target = self.config.target_for(destination.ip(), destination.port())?;
        self.services.iter().find(|service| service.backend.target.name == target.name)
    }
}

/// Everything sessions share.
pub struct Shared<L> {
    pub lookup: L,
    pub provenance: Provenance,
    pub gate: Arc<Gate>,
    pub journal: Arc<Journal>,
    pub registry: Arc<Registry>,
    /// One for each session at once.
    pub places: Arc<Semaphore>,
    pub world: RwLock<Arc<World>>,
}

impl<L> Shared<L> {
    #[must_use]
    pub fn world(&self) -> Arc<World> {
        Arc::clone(&self.world.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn services(&self) -> Services<'_> {
        Services { gate: &self.gate, journal: &self.journal, registry: &self.registry }
    }
}

/// Why a connection did not become a session.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("no redirected connection is known from {0}; the listener is not dialled directly")]
    NoFlow(SocketAddr),
    #[error("cannot look up the connection: {0}")]
    Lookup(crate::intercept::InterceptError),
    #[error("{0} belongs to no configured target")]
    NoTarget(SocketAddr),
    #[error("{0}")]
    Identity(#[from] IdentityError),
    #[error("the journal is {0:.1} % full, and new sessions are refused from 95 % on")]
    JournalFull(f64),
}

/// Serves one accepted connection to its end.
pub async fn serve<L: Lookup>(shared: Arc<Shared<L>>, stream: TcpStream, client: SocketAddr) {
    let id = Uuid::now_v7().simple().to_string();
    let span = info_span!("session", id, identity = tracing::field::Empty, target = tracing::field::Empty);
    let here = span.clone();
    InSpan::new(span, async move {
        let _ = stream.set_nodelay(true);
        let _unfinished = Unfinished { journal: Arc::clone(&shared.journal), session: id.clone() };
        let world = shared.world();
        let mut seen = Seen::default();
        match admit(&shared, &world, &stream, client, &id, &mut seen).await {
            Ok((admitted, protocol)) => {
                here.record("identity", admitted.principal.name());
                here.record("target", &admitted.backend.target.name);
                protocol.serve(shared.services(), admitted, stream).await;
            }
            Err(refusal) => {
                warn!(%client, reason = %refusal, "connection refused");
                let protocol = seen.protocol.take();
                let told = refused(&shared.journal, id, client, seen, refusal.to_string());
                match protocol {
                    Some(protocol) if told.is_ok() => protocol.refuse(stream, &refusal.to_string()).await,
                    // Nobody of ours to talk to, or no telling in which language: a reset says enough.
                    _ => drop(socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))),
                }
            }
        }
    })
    .await;
}

/// Ends the record of a session that ends by a panic: the others on its thread go on.
struct Unfinished {
    journal: Arc<Journal>,
    session: String,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let event = Event::SessionEnd {
            session: std::mem::take(&mut self.session),
            reason: "the agent failed by a bug; its log says where".to_owned(),
            statements: 0,
            rows: 0,
            client_bytes: 0,
            upstream_bytes: 0,
        };
        if let Err(error) = self.journal.append(&[event]) {
            warn!(%error, "the end of the session could not be recorded");
        }
    }
}

/// What was learned of a connection before it was refused.
#[derive(Default)]
struct Seen {
    destination: Option<SocketAddr>,
    target: Option<String>,
    protocol: Option<Protocol>,
    workload: Option<Workload>,
}

async fn admit<L: Lookup>(
    shared: &Shared<L>,
    world: &Arc<World>,
    stream: &TcpStream,
    client: SocketAddr,
    id: &str,
    seen: &mut Seen,
) -> Result<(Admitted, Protocol), Refusal> {
    let origin = shared.lookup.take(stream.as_fd(), client).map_err(Refusal::Lookup)?;
    let origin = origin.ok_or(Refusal::NoFlow(client))?;
    let destination = reachable(origin.destination.0);
    seen.destination = Some(destination);
    let mut workload = shared.provenance.describe(&origin).await;
    seen.workload = Some(workload.clone());
    let service = world.service(destination).ok_or(Refusal::NoTarget(destination))?;
    seen.target = Some(service.backend.target.name.clone());
    seen.protocol = Some(service.protocol.clone());
    let found = find(world, &mut workload).await;
    seen.workload = Some(workload.clone());
    let (principal, word) = found?;
    let confirmed = confirm(world, &principal, word, &mut workload).await;
    seen.workload = Some(workload.clone());
    confirmed?;
    let principal = principal.through(workload::facts(&workload));
    let full = shared.journal.usage();
    if full >= FULL {
        return Err(Refusal::JournalFull(full * 100.0));
    }
    info!(%destination, pid = workload.pid, comm = %workload.comm, identity = principal.name(), "connection");
    let login_timeout = world.config.limits.login;
    let admitted = Admitted {
        id: id.to_owned(),
        client,
        destination,
        workload,
        owner: world.identities.owner(principal.name()).map(str::to_owned),
        retry: world.identities.retries(principal.name()),
        principal,
        backend: Arc::clone(&service.backend),
        login_timeout,
        place: None,
        tunnel_to: tunnel_to(Arc::clone(world), Arc::clone(&shared.places)),
    };
    Ok((admitted, service.protocol.clone()))
}

/// Who it is by the configuration, and by its pod where that matters.
async fn find(world: &World, workload: &mut Workload) -> Result<(Principal, Word), IdentityError> {
    let cgroup = workload.cgroup.clone();
    let asked = match &cgroup {
        Some(cgroup) if world.identities.needs_pod(cgroup) => {
            Some(world.authorities.confirm(workload.cgroup_id, cgroup).await)
        }
        _ => None,
    };
    workload.pod = asked.as_ref().and_then(|asked| asked.as_ref().ok()?.pod.clone());
    let found = world.identities.find(cgroup.as_deref(), workload.pod.as_ref());
    match (found, asked) {
        (Err(IdentityError::PodUnknown { identity, cgroup }), Some(Err(doubt))) => {
            let why = doubt.to_string();
            workload.unverified = Some(why.clone());
            Err(IdentityError::Unverified { identity, cgroup, why })
        }
        (found, _) => found,
    }
}

/// Has it confirmed that the cgroup is what its name says, where the identity rests on that.
async fn confirm(
    world: &World,
    principal: &Principal,
    word: Word,
    workload: &mut Workload,
) -> Result<(), IdentityError> {
    let Word::Name { suffices } = word else { return Ok(()) };
    let cgroup = workload.cgroup.clone().ok_or(IdentityError::CgroupGone)?;
    match world.authorities.confirm(workload.cgroup_id, &cgroup).await {
        Ok(confirmed) => {
            workload.confirmed_by = Some(confirmed.by.to_owned());
            workload.pod = confirmed.pod;
            Ok(())
        }
        Err(doubt) => {
            workload.unverified = Some(doubt.to_string());
            let (identity, why) = (principal.name().to_owned(), doubt.to_string());
            if suffices { Ok(()) } else { Err(IdentityError::Unverified { identity, cgroup, why }) }
        }
    }
}

/// Tunnels out of a session: a destination that is a target is a connection to it, made from here.
fn tunnel_to(world: Arc<World>, places: Arc<Semaphore>) -> TunnelTo {
    Arc::new(move |outer: &Admitted, host: &str, port: u16| {
        let destination =
            world.named(host, port).ok_or("it is no target, or one without a single address")?;
        // A loopback address means the host it is asked of; the agent's own is meant where that is the same.
        if destination.ip().is_loopback() && !outer.destination.ip().is_loopback() {
            return Err("a loopback address is the host's own".to_owned());
        }
        let service = world.service(destination).ok_or("it is no target")?;
        let place = Place::take(&places).ok_or("there are as many sessions as there may be at once")?;
        let inner = Admitted {
            id: Uuid::now_v7().simple().to_string(),
            client: outer.client,
            destination,
            workload: outer.workload.clone(),
            principal: outer.principal.clone(),
            owner: outer.owner.clone(),
            retry: outer.retry,
            backend: Arc::clone(&service.backend),
            login_timeout: outer.login_timeout,
            place: Some(place),
            tunnel_to: Arc::clone(&outer.tunnel_to),
        };
        Ok((inner, service.protocol.clone()))
    })
}

fn refused(
    journal: &Journal,
    session: String,
    client: SocketAddr,
    seen: Seen,
    reason: String,
) -> Result<(), crate::record::RecordError> {
    let event = Event::SessionRefused {
        session,
        target: seen.target,
        original_destination: seen.destination.map(|address| address.to_string()),
        client: client.to_string(),
        workload: seen.workload.map(Box::new),
        identity: None,
        policies: Vec::new(),
        reason,
    };
    journal.append(&[event]).map(drop)
}

/// A destination as it can be dialled: v4-mapped addresses are v4, the unspecified address means loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip().to_canonical() {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Body, Check, Options, Reader};

    #[test]
    fn a_session_that_panics_has_an_end_in_the_record() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new(dir.path(), 1 << 30);
        let journal = Arc::new(Journal::open(&options).unwrap());
        let begin = |id: &str| Unfinished { journal: Arc::clone(&journal), session: id.to_owned() };
        drop(begin("well"));
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _unfinished = begin("badly");
            panic!("a bug");
        }));
        assert!(failed.is_err());
        let events: Vec<Event> = Reader::open(&options.dir, Check::Chain)
            .unwrap()
            .filter_map(|record| match record.unwrap().body {
                Body::Event(event) => Some(*event),
                _ => None,
            })
            .collect();
        let ended = |event: &Event| matches!(event, Event::SessionEnd { session, .. } if session == "badly");
        assert!(events.len() == 1 && events.iter().all(ended), "{events:?}");
    }
}
