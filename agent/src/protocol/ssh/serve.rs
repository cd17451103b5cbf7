//! A connection from its version line to its session.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use chaperone_policy::{Action, Decision, Effect};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tracing::{info, warn};

use super::access;
use super::auth::{self, AuthError, Claim, Door, Knock};
use super::decide::Decider;
use super::keys::HostKeys;
use super::open::{self, Shared, SshError};
use super::relay::{End, Relay, Totals};
use super::transport::{Local, Transport, TransportError, reason};
use crate::config::{SshTarget, Target};
use crate::gate::{Gate, Now, Place, connect};
use crate::protocol::asking::Asking;
use crate::protocol::wire::Wire;
use crate::protocol::{Admitted, Services};
use crate::record::Journal;
use crate::record::event::Event;
use crate::registry::SessionInfo;

/// Longest time a client gets to take its last message.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long a client that is refused gets to say its version, which it does at once.
const REFUSED: Duration = Duration::from_secs(5);

/// SSH with one target.
#[derive(Clone)]
pub struct Ssh {
    shared: Arc<Shared>,
}

/// Why a login did not become a session.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoginFailure {
    #[error("the client closed the connection during login")]
    Closed,
    #[error("the client took too long to log in")]
    Slow,
    #[error("client connection: {0}")]
    Io(#[from] std::io::Error),
    #[error("client: {0}")]
    Transport(#[from] TransportError),
    #[error("client: {0}")]
    Auth(#[from] AuthError),
    #[error("the client talks before it is let in")]
    Ahead,
    #[error("{0}")]
    Refused(String),
}

impl Ssh {
    /// Reads the target's keys.
    ///
    /// # Errors
    /// When a file cannot be read, is readable by others, or no host key of the target is known.
    pub fn load(target: &Target, ssh: &SshTarget, host_keys: &Arc<HostKeys>) -> Result<Self, SshError> {
        let shared = open::load(target, ssh, Arc::clone(host_keys))?;
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The keys that clients see, algorithm and base64 each.
    #[must_use]
    pub fn host_key_lines(&self) -> Vec<String> {
        self.shared.host_keys.lines()
    }

    /// Serves one connection to its end.
    pub(in crate::protocol) async fn serve(
        &self,
        services: Services<'_>,
        admitted: Admitted,
        stream: TcpStream,
    ) {
        let Some(ssh) = admitted.backend.target.ssh.clone() else { return };
        let accounts: Vec<&str> =
            std::iter::once(&admitted.backend.target.user).chain(&ssh.logins).map(String::as_str).collect();
        // When no account is permitted, the client hears it before it has to trust a host key.
        if let Some(decision) = hopeless(services.gate, &admitted, &accounts) {
            let why = format!("connection denied by policy \"{}\": {}", decision.rule(), decision.reason);
            warn!(reason = why, "connection refused");
            match services.journal.append(&[refused_event(&admitted, &why, &decision.policies)]) {
                Ok(_) => refuse(stream, &format!("{why} (session {})", admitted.id)).await,
                Err(error) => warn!(%error, "the refusal could not be recorded"),
            }
            return;
        }
        let mut client = match Client::start(stream, &self.shared.host_keys) {
            Ok(client) => client,
            Err(error) => return warn!(%error, "cannot begin"),
        };
        let claim = match tokio::time::timeout(admitted.login_timeout, client.login()).await {
            Ok(claim) => claim,
            Err(_) => Err(LoginFailure::Slow),
        };
        match claim {
            Ok(claim) => self.session(services, admitted, client, claim, &ssh).await,
            Err(failure) => refuse_login(services.journal, &admitted, client, &failure, &[]).await,
        }
    }

    async fn session(
        &self,
        services: Services<'_>,
        admitted: Admitted,
        mut client: Client,
        claim: Claim,
        ssh: &SshTarget,
    ) {
        let Services { gate, journal, registry } = services;
        let backend = &admitted.backend;
        // An account that was asked for and is listed is used; any other name means the usual one.
        let user = if ssh.logins.contains(&claim.user) { &claim.user } else { &backend.target.user };
        let info = SessionInfo {
            id: admitted.id.clone(),
            identity: admitted.principal.name().to_owned(),
            target: backend.target.name.clone(),
            database: user.clone(),
            pid: admitted.workload.pid,
            cgroup: admitted.workload.cgroup.clone(),
            pod: admitted.workload.pod.clone(),
            groups: admitted.principal.groups().to_vec(),
        };
        // Entered first, decided then: a policy change in between is not lost.
        let policy_rx = gate.subscribe();
        let (_registration, mut command_rx) = registry.enter(info);
        let asking = Asking {
            gate,
            journal,
            admitted: &admitted,
            place: place(&admitted, user),
            claimed_user: &claim.user,
        };
        let admission = match asking.enter(&mut client, &mut command_rx).await {
            Ok(admission) => admission,
            Err((no, policies)) => {
                let failure = access::failure(no, user);
                return refuse_login(journal, &admitted, client, &failure, &policies).await;
            }
        };
        let mut decider = Decider::new(
            Arc::clone(gate),
            &admitted,
            admission,
            (user, &claim.user),
            self.shared.masks.clone(),
        );
        let pty = decider.plainly(Action::Pty);
        let login = open::Upstream { shared: &self.shared, admitted: &admitted, user };
        let opened = match open::open(login, open::Asking { pty, command: None }).await {
            Ok(opened) => opened,
            Err(error) => {
                warn!(%error, "upstream login failed");
                let target = &backend.target.name;
                let failure = LoginFailure::Refused(format!("target \"{target}\" cannot be used: {error}"));
                return refuse_login(journal, &admitted, client, &failure, &[]).await;
            }
        };
        // Policy may have moved while the target was dialled.
        if let Err(why) = decider.recheck() {
            return refuse_login(journal, &admitted, client, &LoginFailure::Refused(why), &[]).await;
        }
        let mut start =
            vec![start_event(&admitted, &claim, &decider, user, &client.transport, &opened.transport)];
        start.extend(decider.used_events(&admitted.id));
        if let Err(error) = journal.append(&start) {
            warn!(%error, "no record, no access");
            return client.goodbye("the session cannot be recorded, so it cannot begin").await;
        }
        for banner in &opened.banners {
            // Too long a banner is one the client does not get.
            let _ = client.transport.send(banner, &mut client.output);
        }
        if let Err(error) = client.transport.send(&auth::success(), &mut client.output) {
            return warn!(%error, "cannot let the client in");
        }
        let mut wire = Wire::new(client.stream, opened.stream);
        wire.to_client = client.output;
        wire.from_client = client.input;
        wire.from_upstream = opened.input;
        wire.to_upstream = opened.output;
        info!(account = user, "session started");
        let transports = (client.transport, opened.transport);
        let relay = Relay::new(wire, transports, decider, services, login);
        let (end, totals) = Box::pin(relay.run(&mut command_rx, policy_rx)).await;
        finish(journal, &admitted, &end, totals);
    }
}

fn place<'a>(admitted: &'a Admitted, user: &'a str) -> Place<'a> {
    let target = &admitted.backend.target;
    Place { target: &target.name, env: &target.env, database: user, host: true }
}

/// The denial of every account, if neither a grant nor asking for one could change it.
fn hopeless(gate: &Gate, admitted: &Admitted, accounts: &[&str]) -> Option<Decision> {
    let (now, policies) = (Now::read(), gate.policies());
    let mut denial = None;
    for account in accounts {
        let place = place(admitted, account);
        let decision = connect(&policies, &admitted.principal, place, &[]);
        let grants = gate.grants().matching(&now, admitted.principal.name(), place.target, account);
        if decision.effect != Effect::Deny || !grants.is_empty() {
            return None;
        }
        denial.get_or_insert(decision);
    }
    denial
}

/// The client's side before the relay takes over.
pub(super) struct Client {
    pub(super) stream: TcpStream,
    pub(super) transport: Transport,
    pub(super) input: BytesMut,
    pub(super) output: BytesMut,
    /// What was said behind the login by a client that waits.
    pub(super) ahead: usize,
}

impl Client {
    fn start(stream: TcpStream, keys: &Arc<HostKeys>) -> Result<Self, TransportError> {
        let mut output = BytesMut::new();
        let transport = Transport::start(Local::Server(Arc::clone(keys)), &mut output)?;
        Ok(Self { stream, transport, input: BytesMut::new(), output, ahead: 0 })
    }

    /// Up to the point where all that is left is to let the client in.
    async fn login(&mut self) -> Result<Claim, LoginFailure> {
        let mut door = Door::default();
        loop {
            while let Some(payload) = self.transport.receive(&mut self.input, &mut self.output)? {
                match door.message(&payload)? {
                    Knock::Answer(answer) => self.transport.send(&answer, &mut self.output)?,
                    Knock::Claim(claim) => return Ok(claim),
                }
            }
            self.stream.write_all(&self.output).await?;
            self.output.clear();
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(LoginFailure::Closed);
            }
        }
    }

    /// Tells the client why it cannot be, and closes.
    async fn goodbye(mut self, why: &str) {
        self.transport.disconnect(reason::NOT_ALLOWED, &format!("chaperone: {why}"), &mut self.output);
        let said = async {
            self.stream.write_all(&self.output).await?;
            self.stream.shutdown().await
        };
        let _ = tokio::time::timeout(GOODBYE, said).await;
    }
}

/// Refuses a connection before key exchange: the reason reaches the user without a host key being trusted.
pub(in crate::protocol) async fn refuse(mut stream: TcpStream, why: &str) {
    let mut output = BytesMut::new();
    let keys = Arc::new(HostKeys::none());
    let Ok(mut transport) = Transport::start(Local::Server(keys), &mut output) else { return };
    let said = async {
        stream.write_all(&output).await?;
        // A client takes the version for granted, not what comes before its own was read.
        let mut line = [0; 256];
        if stream.read(&mut line).await? == 0 {
            return Ok(());
        }
        output.clear();
        transport.disconnect(reason::NOT_ALLOWED, &format!("chaperone: {why}"), &mut output);
        stream.write_all(&output).await?;
        stream.shutdown().await?;
        // Closing with something unread resets the connection, and the words with it.
        while stream.read(&mut line).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    let _ = tokio::time::timeout(REFUSED, said).await;
}

async fn refuse_login(
    journal: &Journal,
    admitted: &Admitted,
    client: Client,
    failure: &LoginFailure,
    policies: &[String],
) {
    warn!(reason = %failure, "login refused");
    match journal.append(&[refused_event(admitted, &failure.to_string(), policies)]) {
        Ok(_) => client.goodbye(&format!("{failure} (session {})", admitted.id)).await,
        Err(error) => {
            warn!(%error, "the refusal could not be recorded");
            client.goodbye("the session cannot be recorded, so it cannot begin").await;
        }
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

fn start_event(
    admitted: &Admitted,
    claim: &Claim,
    decider: &Decider,
    user: &str,
    client: &Transport,
    upstream: &Transport,
) -> Event {
    let application = format!(
        "{} (offered {}; {}; target {} {} {})",
        client.their_version(),
        claim.offered,
        client.method,
        upstream.their_version(),
        upstream.host_key.as_deref().unwrap_or_default(),
        upstream.method,
    );
    Event::SessionStart {
        session: admitted.id.clone(),
        protocol: admitted.backend.target.protocol.as_str().to_owned(),
        target: admitted.backend.target.name.clone(),
        original_destination: admitted.destination.to_string(),
        client: admitted.client.to_string(),
        workload: Box::new(admitted.workload.clone()),
        identity: decider.identity().clone(),
        claimed_user: claim.user.clone(),
        database: user.to_owned(),
        application: Some(application),
        settings: Vec::new(),
        upstream_user: user.to_owned(),
    }
}

fn finish(journal: &Journal, admitted: &Admitted, end: &End, totals: Totals) {
    info!(reason = %end, requests = totals.requests, "session ended");
    let event = Event::SessionEnd {
        session: admitted.id.clone(),
        reason: end.to_string(),
        statements: totals.requests,
        rows: 0,
        client_bytes: totals.client_bytes,
        upstream_bytes: totals.upstream_bytes,
    };
    if let Err(error) = journal.append(&[event]) {
        warn!(%error, "the end of the session could not be recorded");
    }
}
