//! A connection from its first packet to its session, and what the sessions of a target share: cancel keys and
//! catalogues.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;
use tracing::{info, warn};

use super::access;
use super::catalogue::{self, Catalogue};
use super::client_tls::ClientTls;
use super::decide::Decider;
use super::greeting::{Client, LoginFailure};
use super::options::{self, OptionsError};
use super::powers::Powers;
use super::relay::{End, Relay, Totals};
use super::response::{Report, sqlstate};
use super::startup::{self, CancelKey, Opening, Replication, Startup, StartupError};
use super::{codec, open};
use crate::config::LeastPrivilege;
use crate::gate::{Admission, Gate, Place};
use crate::places::Places;
use crate::protocol::asking::Asking;
use crate::protocol::wire::Wire;
use crate::protocol::{Admitted, Services};
use crate::record::Journal;
use crate::record::event::Event;
use crate::registry::{Command, Registry, SessionInfo};

/// Longest time a client gets to take its last message.
pub(super) const GOODBYE: Duration = Duration::from_secs(1);

/// What the sessions of one target share.
#[derive(Clone)]
pub struct Postgres {
    shared: Arc<Shared>,
}

struct Shared {
    catalogues: Mutex<HashMap<String, Arc<Catalogue>>>,
    cancels: Mutex<HashMap<CancelKey, CancelRoute>>,
    tls: Option<ClientTls>,
    places: Arc<Places>,
}

/// Where a cancel request with a key of ours goes.
#[derive(Clone)]
struct CancelRoute {
    session: String,
    identity: String,
    address: std::net::SocketAddr,
    key: CancelKey,
}

/// Takes a session's cancel key out of the map, however the session ended.
struct CancelEntry<'a> {
    shared: &'a Shared,
    key: CancelKey,
}

impl Drop for CancelEntry<'_> {
    fn drop(&mut self) {
        lock(&self.shared.cancels).remove(&self.key);
    }
}

/// What the opening packets came to.
enum Opened {
    Startup(Startup),
    Cancel(CancelKey),
}

impl Postgres {
    /// State for a target; with `tls`, clients that ask for it are served encrypted.
    #[must_use]
    pub fn new(tls: Option<ClientTls>, places: Arc<Places>) -> Self {
        let shared = Shared { catalogues: Mutex::default(), cancels: Mutex::default(), tls, places };
        Self { shared: Arc::new(shared) }
    }

    /// Serves one connection to its end.
    pub async fn serve(&self, services: Services<'_>, admitted: Admitted, stream: TcpStream) {
        let Services { gate, journal, registry } = services;
        let mut client = Client::new(stream);
        let opening = async {
            let opened = self.opening(&mut client, admitted.destination.ip()).await?;
            if let Opened::Startup(startup) = &opened {
                client.authenticate(startup, admitted.backend.credentials.client_password.as_ref()).await?;
            }
            Ok(opened)
        };
        let opened = match tokio::time::timeout(admitted.login_timeout, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(LoginFailure::Slow),
        };
        match opened {
            Ok(Opened::Cancel(key)) => self.cancel(registry, journal, &admitted, &key).await,
            Ok(Opened::Startup(startup)) => {
                self.session(gate, journal, registry, admitted, client, startup).await;
            }
            Err(failure) => refuse_login(journal, &admitted, client, &failure, &[]).await,
        }
    }

    /// Reads opening packets up to a login or a cancel request; answers the requests for encryption.
    async fn opening(&self, client: &mut Client, address: IpAddr) -> Result<Opened, LoginFailure> {
        loop {
            if client.opens_with_tls().await? {
                let Some(tls) = &self.shared.tls else { return Err(LoginFailure::NoTls) };
                client.encrypt(tls, address, true).await?;
                continue;
            }
            match startup::take_opening(&mut client.input)? {
                Some(Opening::Ssl) if !client.is_tls() => match &self.shared.tls {
                    // Bytes behind the request would be read as if they had come encrypted.
                    Some(_) if !client.input.is_empty() => return Err(LoginFailure::ClearBehindRequest),
                    Some(tls) => {
                        client.write(b"S").await?;
                        client.encrypt(tls, address, false).await?;
                    }
                    None => client.write(b"N").await?,
                },
                Some(Opening::Ssl | Opening::GssEnc) => client.write(b"N").await?,
                Some(Opening::Cancel(key)) => return Ok(Opened::Cancel(key)),
                Some(Opening::Startup(startup)) => return Ok(Opened::Startup(startup)),
                None => client.read().await?,
            }
        }
    }

    async fn session(
        &self,
        gate: &Arc<Gate>,
        journal: &Arc<Journal>,
        registry: &Arc<Registry>,
        admitted: Admitted,
        mut client: Client,
        startup: Startup,
    ) {
        let info = SessionInfo {
            id: admitted.id.clone(),
            identity: admitted.principal.name().to_owned(),
            target: admitted.backend.target.name.clone(),
            database: startup.database.clone(),
            pid: admitted.workload.pid,
            cgroup: admitted.workload.cgroup.clone(),
            pod: admitted.workload.pod.clone(),
            groups: admitted.principal.groups().to_vec(),
        };
        // Entered first, decided then: a policy change in between is not lost.
        let policy_rx = gate.subscribe();
        let (_registration, mut command_rx) = registry.enter(info);
        let target = &admitted.backend.target;
        let place =
            Place { target: &target.name, env: &target.env, database: &startup.database, host: false };
        let asking = Asking { gate, journal, admitted: &admitted, place, claimed_user: &startup.user };
        let ready = match asking.enter(&mut client, &mut command_rx).await {
            Ok(admission) => self.decider(gate, journal, &admitted, admission, &startup).await,
            Err((no, policies)) => Err((access::failure(no, &admitted.id), policies)),
        };
        let (mut decider, search_path) = match ready {
            Ok(ready) => ready,
            Err((failure, policies)) => {
                return refuse_login(journal, &admitted, client, &failure, &policies).await;
            }
        };
        let address = admitted.destination;
        let search_path = match path_for(&mut decider, &startup, &search_path) {
            Ok(search_path) => search_path,
            Err(error) => {
                let failure = LoginFailure::Startup(StartupError::Options(error));
                return refuse_login(journal, &admitted, client, &failure, &[]).await;
            }
        };
        let opened = match open::open(&admitted.backend, address, &startup, search_path).await {
            Ok(opened) => opened,
            Err(error) => {
                warn!(%error, "upstream login failed");
                let report = error.report(&admitted.backend.target.name);
                let failure = LoginFailure::Refused(Box::new(report));
                return refuse_login(journal, &admitted, client, &failure, &[]).await;
            }
        };
        // Policy may have moved while the target was dialled.
        if let Err(why) = decider.recheck().await {
            let report = Report::new(sqlstate::INVALID_AUTHORIZATION, why);
            let failure = LoginFailure::Refused(Box::new(report));
            return refuse_login(journal, &admitted, client, &failure, &[]).await;
        }
        if let Err(error) = journal.append(&start_events(&admitted, &startup, &decider)) {
            warn!(%error, "no record, no access");
            let report = End::from(error).report_for_login();
            return client.goodbye(&report).await;
        }
        let key = CancelKey { pid: registry.next_pid(), secret: random_secret(startup.minor) };
        let mut welcome = BytesMut::new();
        if !client.welcomed {
            startup::put_welcome(&mut welcome);
        }
        welcome.extend_from_slice(&opened.welcome.parameters);
        let upstream_key = opened.welcome.key.clone();
        let settings = opened.welcome.settings;
        decider.serves(upstream_key.as_ref().map(|key| key.pid));
        let _cancel = opened.welcome.key.map(|upstream_key| {
            let route = CancelRoute {
                session: admitted.id.clone(),
                identity: admitted.principal.name().to_owned(),
                address,
                key: upstream_key,
            };
            lock(&self.shared.cancels).insert(key.clone(), route);
            CancelEntry { shared: &self.shared, key: key.clone() }
        });
        startup::put_key_data(&mut welcome, &key);
        codec::put(&mut welcome, b'Z', |out| out.extend_from_slice(b"I"));
        let Some(stream) = client.stream.take() else { return };
        let mut wire = Wire::new(stream, opened.stream);
        wire.to_client = welcome;
        wire.from_client = client.input;
        wire.from_upstream = opened.rest;
        info!(database = %startup.database, "session started");
        let cancel_route = upstream_key.clone().map(|key| open::CancelAt { address, key });
        let relay = Relay::new(wire, decider, journal, &admitted.id, cancel_route, settings);
        // Boxed: it is most of what a session is made of, and is moved around once more without.
        let (end, totals) = Box::pin(relay.run(&mut command_rx, policy_rx)).await;
        if let (End::Killed(_) | End::Revoked(_), Some(key)) = (&end, &upstream_key) {
            // Whoever may not see the end of a statement shall not have it run either.
            open::cancel(open::CancelAt { address, key: key.clone() }).await;
        }
        finish(journal, &admitted, &end, totals);
    }

    /// Whether the session may be, and everything its statements will be decided with.
    async fn decider(
        &self,
        gate: &Arc<Gate>,
        journal: &Arc<Journal>,
        admitted: &Admitted,
        admission: Admission,
        startup: &Startup,
    ) -> Result<(Decider, String), (LoginFailure, Vec<String>)> {
        let refused = |report: Report| LoginFailure::Refused(Box::new(report));
        if startup.replication == Some(Replication::Physical) {
            let nowhere = Arc::new(self.catalogue(startup, admitted, journal));
            let mut decider = Decider::new(
                Arc::clone(gate),
                admitted,
                admission,
                &startup.database,
                nowhere,
                Catalogue::nowhere(),
            )
            .map_err(|report| (refused(report), Vec::new()))?;
            decider.replicate(Replication::Physical).map_err(|report| (refused(report), Vec::new()))?;
            return Ok((decider, String::new()));
        }
        let catalogue = {
            let mut catalogues = lock(&self.shared.catalogues);
            let made = || Arc::new(self.catalogue(startup, admitted, journal));
            Arc::clone(catalogues.entry(startup.database.clone()).or_insert_with(made))
        };
        let backend = &admitted.backend;
        let strict = backend.target.least_privilege == LeastPrivilege::Refuse;
        let read = match catalogue.fresh(backend).await {
            // Whoever takes rights away need not wait for the next reading to be let in.
            Ok(snapshot) if strict && !snapshot.powers.is_empty() => catalogue.for_unknown(backend).await,
            read => read,
        };
        let snapshot = read.map_err(|error| {
            warn!(%error, "the catalogue cannot be read");
            let report = match &error {
                catalogue::CatalogueError::Open(error) => error.report(&admitted.backend.target.name),
                error => Report::new(
                    sqlstate::CANNOT_CONNECT,
                    format!(
                        "the catalogue of target \"{}\" cannot be read: {error}",
                        admitted.backend.target.name
                    ),
                ),
            };
            (refused(report), Vec::new())
        })?;
        let powers = Powers { target: &backend.target, database: &startup.database };
        powers.tell(&catalogue, &snapshot, journal).map_err(|report| (refused(report), Vec::new()))?;
        let search_path = snapshot.search_path.clone();
        let mut decider =
            Decider::new(Arc::clone(gate), admitted, admission, &startup.database, catalogue, snapshot)
                .map_err(|report| (refused(report), Vec::new()))?;
        if let Some(kind) = startup.replication {
            decider.replicate(kind).map_err(|report| (refused(report), Vec::new()))?;
        }
        Ok((decider, search_path))
    }

    fn catalogue(&self, startup: &Startup, admitted: &Admitted, journal: &Arc<Journal>) -> Catalogue {
        let places = Arc::clone(&self.shared.places);
        Catalogue::new(&startup.database, admitted.destination, places, Arc::clone(journal))
    }

    /// A cancel request comes on a connection of its own; it counts only from the identity whose session it is.
    async fn cancel(&self, registry: &Registry, journal: &Journal, admitted: &Admitted, key: &CancelKey) {
        let route = lock(&self.shared.cancels).get(key).cloned();
        let Some(route) = route.filter(|route| route.identity == admitted.principal.name()) else {
            warn!("cancel request with an unknown key, or of another identity");
            let event =
                refused_event(admitted, "cancel request with an unknown key, or of another identity", &[]);
            let _ = journal.append(&[event]);
            return;
        };
        info!(session_cancelled = route.session, "cancel request");
        let event = Event::Control {
            by: admitted.principal.name().to_owned(),
            action: format!("cancel session {}", route.session),
        };
        if journal.append(&[event]).is_err() {
            return;
        }
        registry.command(&route.session, Command::Withdraw);
        open::cancel(open::CancelAt { address: route.address, key: route.key }).await;
    }
}

/// The `search_path` that is sent to the target; none is the account's own. A client's counts where it could SET it, too, or
/// is the pinned one; anything else is an error.
fn path_for<'a>(
    decider: &mut Decider,
    startup: &'a Startup,
    pinned: &'a str,
) -> Result<Option<&'a str>, OptionsError> {
    let pins = decider.pins_settings();
    match startup.search_path.as_deref() {
        Some(asked) if !pins => Ok(Some(asked)),
        Some(asked) if !options::is_pinned_path(asked, pinned) => {
            Err(OptionsError::Setting("search_path".into()))
        }
        // In no database there is nothing to look up.
        _ => Ok((pins && !pinned.is_empty()).then_some(pinned)),
    }
}

/// Refuses a connection that never came to a login, with a FATAL the client can show.
pub(in crate::protocol) async fn refuse(stream: TcpStream, reason: &str) {
    let mut client = Client::new(stream);
    // A client that asked for encryption reads one byte first; answering before it asked would confuse it.
    let asked = async {
        loop {
            match startup::take_opening(&mut client.input) {
                Ok(Some(Opening::Ssl | Opening::GssEnc)) => client.write(b"N").await?,
                Ok(None) => client.read().await?,
                Ok(Some(Opening::Startup(_) | Opening::Cancel(_))) | Err(_) => {
                    return Ok::<_, LoginFailure>(());
                }
            }
        }
    };
    if tokio::time::timeout(Duration::from_secs(5), asked).await.is_ok() {
        let report = Report::new(sqlstate::INVALID_AUTHORIZATION, format!("connection refused: {reason}"))
            .hint("Only identities named in the agent's configuration may use this target.");
        client.goodbye(&report).await;
    }
}

async fn refuse_login(
    journal: &Journal,
    admitted: &Admitted,
    client: Client,
    failure: &LoginFailure,
    policies: &[String],
) {
    warn!(reason = %failure, "login refused");
    let recorded = journal.append(&[refused_event(admitted, &failure.to_string(), policies)]);
    match (failure.report(), recorded) {
        (Some(report), Ok(_)) => client.goodbye(&report).await,
        (_, Err(error)) => client.goodbye(&End::from(error).report_for_login()).await,
        (None, Ok(_)) => {}
    }
}

fn refused_event(admitted: &Admitted, reason: &str, policies: &[String]) -> Event {
    Event::SessionRefused {
        session: admitted.id.clone(),
        target: Some(admitted.backend.target.name.clone()),
        original_destination: Some(admitted.destination.to_string()),
        client: admitted.client.to_string(),
        workload: Some(Box::new(admitted.workload.clone())),
        identity: Some(admitted.identity()),
        policies: policies.to_vec(),
        reason: reason.to_owned(),
    }
}

/// The record of a session's start, with what it lives on.
fn start_events(admitted: &Admitted, startup: &Startup, decider: &Decider) -> Vec<Event> {
    let grants = decider.used_events(None);
    let foreign = foreign_event(admitted, startup);
    std::iter::once(start_event(admitted, startup, decider)).chain(foreign).chain(grants).collect()
}

/// A client may say it is anybody: its rights are its own. But saying so is told.
fn foreign_event(admitted: &Admitted, startup: &Startup) -> Option<Event> {
    let identity = admitted.principal.name();
    let belongs_to = admitted.backend.target.foreign.get(&startup.user)?;
    (startup.user != identity).then(|| {
        warn!(claimed_user = startup.user, belongs_to, "somebody else's login name was presented");
        Event::ForeignCredential {
            session: admitted.id.clone(),
            identity: identity.to_owned(),
            claimed_user: startup.user.clone(),
            belongs_to: belongs_to.clone(),
        }
    })
}

fn start_event(admitted: &Admitted, startup: &Startup, decider: &Decider) -> Event {
    Event::SessionStart {
        session: admitted.id.clone(),
        protocol: admitted.backend.target.protocol.as_str().to_owned(),
        target: admitted.backend.target.name.clone(),
        original_destination: admitted.destination.to_string(),
        client: admitted.client.to_string(),
        workload: Box::new(admitted.workload.clone()),
        identity: decider.identity().clone(),
        claimed_user: startup.user.clone(),
        database: startup.database.clone(),
        application: startup.application.clone(),
        settings: startup.parameters.clone(),
        upstream_user: admitted.backend.target.user.clone(),
    }
}

fn finish(journal: &Journal, admitted: &Admitted, end: &End, totals: Totals) {
    info!(reason = %end, statements = totals.statements, rows = totals.rows, "session ended");
    let event = Event::SessionEnd {
        session: admitted.id.clone(),
        reason: end.to_string(),
        statements: totals.statements,
        rows: totals.rows,
        client_bytes: totals.client_bytes,
        upstream_bytes: totals.upstream_bytes,
    };
    if let Err(error) = journal.append(&[event]) {
        warn!(%error, "the end of the session could not be recorded");
    }
}

/// The secret of a cancel key: 4 bytes in protocol 3.0, as long as servers make them from 3.2 on.
fn random_secret(minor: u16) -> Bytes {
    use ring::rand::SecureRandom as _;

    let mut secret = vec![0; if minor >= 2 { 32 } else { 4 }];
    // Without randomness nobody can cancel: the key is never handed out.
    match ring::rand::SystemRandom::new().fill(&mut secret) {
        Ok(()) => secret.into(),
        Err(_) => Bytes::new(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
