//! Wiring: the only place that constructs. Starts the agent, reloads it, replaces it, ends it.

mod accept;
mod alive;
mod announce;
mod beat;
mod kernel;
mod login;
mod namespaces;
mod outlets;
mod presence;
mod systemd;
mod takeover;
mod warden;
mod world;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tracing::{debug, error, info, warn};

use self::kernel::Kernel;
use crate::config::Config;
use crate::control::{self, Callers, Known, Operator};
use crate::gate::{self, Gate, Grants};
use crate::identity::Identities;
use crate::intercept::{self, Intercept, Namespaces, Redirects};
use crate::places::Places;
use crate::record::Journal;
use crate::record::event::{Event, HoldOutcome};
use crate::registry::{Command, Registry};
use crate::session::Shared;
use crate::workload::Provenance;

use accept::Acceptor;
pub use outlets::Outlets;
pub use presence::forget as forget_programs;
use takeover::{Phase, Predecessor, Takeover};
pub use world::{checked_credentials, checked_policies, journal_options, own_cgroup, ssh_host_keys};

/// How long live sessions get to end when the agent does.
const DRAIN: Duration = Duration::from_secs(5);

/// How long the start waits for the network namespaces that exist. Their first connections wait by themselves.
const SETTLE: Duration = Duration::from_secs(10);
/// How long a replaced agent goes on accepting: for connections that were on their way to it.
const LINGER: Duration = Duration::from_secs(2);

/// Everything a running agent holds.
struct Agent {
    config_path: PathBuf,
    shared: Arc<Shared<Redirects>>,
    intercept: Arc<Mutex<Intercept>>,
    /// `None` before the start is done, and when another agent has taken over.
    namespaces: Mutex<Option<Arc<Namespaces>>>,
    takeover: Takeover,
    places: Arc<Places>,
}

/// The signals an agent obeys. Taken hold of before it touches the kernel: one that comes while it starts would end it
/// without a word otherwise, and a SIGHUP too.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn take() -> Result<Self> {
        let take = |kind| signal(kind).context("cannot wait for signals");
        Ok(Self {
            hangup: take(SignalKind::hangup())?,
            terminate: take(SignalKind::terminate())?,
            interrupt: take(SignalKind::interrupt())?,
        })
    }
}

/// Why an agent ends.
enum Ended {
    Signal(&'static str),
    /// Another one serves in its place.
    HandedOver,
}

/// Runs the agent until it is told to stop, or another one took over and its sessions have ended.
///
/// # Errors
/// When it cannot start. Once it runs, errors end sessions, not the agent.
pub fn run(config_path: &Path) -> Result<()> {
    alive::contain_panics();
    spare_from_oom();
    let config = Config::load(config_path)?;
    raise_descriptor_limit();
    // For what is not a session: accepting, the heartbeat, the control socket. Sessions have threads of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .thread_stack_size(accept::STACK)
        .build()
        .context("cannot start the runtime")?;
    // On a worker, not on this thread: its stack is whatever the shell gave it.
    let path = config_path.to_owned();
    let outcome = runtime.block_on(async move { tokio::spawn(start_and_serve(path, config)).await? });
    // Not waiting for what blocks: the process ends.
    runtime.shutdown_background();
    outcome
}

/// While the agent is dead nothing is served: the kernel should find somebody else when memory runs out.
fn spare_from_oom() {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-900") {
        debug!(%error, "cannot lower the agent's OOM score");
    }
}

async fn start_and_serve(config_path: PathBuf, config: Config) -> Result<()> {
    // First whatever can fail without touching what a running agent has.
    let policies = checked_policies(&config)?;
    let policy_sha256 = policies.digest().to_owned();
    let outlets = Outlets::prepare(&config)?;
    let places = Places::open(&config.state_dir).context("it is not known what labels cover")?;
    let places = Arc::new(places);
    let world = world::build(config.clone(), &places, None)?;
    let options = world::intercept_options(&config)?;
    let own = own_cgroup()?;
    let cgroup2 = intercept::cgroup2_mount()?;
    let prepared = Intercept::prepare(&options).context("cannot use the kernel")?;
    let socket = control::Socket::bind(&config.run_dir)
        .with_context(|| format!("cannot open the control socket in {}", config.run_dir.display()))?;

    let mut predecessor = Predecessor::find(&config.run_dir)?;
    if let Some(predecessor) = &mut predecessor {
        predecessor.begin()?;
    }
    // The record before anything else: its lock says whether another agent has this directory, and from here on, what
    // happens is written.
    let journal = Journal::open(&world::journal_options(&config)).context("cannot open the journal")?;
    let journal = Arc::new(journal);
    journal.start_scribe()?;
    let grants = Grants::open(&config.state_dir).context("cannot open the grants")?;
    let hooks = config.webhooks.iter().map(announce::Hook::load).collect::<Result<Vec<_>>>()?;
    let (announce_tx, announce_rx) = tokio::sync::mpsc::channel(announce::QUEUE);
    let announce_tx = (!hooks.is_empty()).then_some(announce_tx);
    let announcing = tokio::spawn(announce::run(hooks, hostname(), announce_rx));
    let gate_options = gate::Options {
        hold_timeout: config.hold.timeout,
        lock_patience: config.hold.lock_wait,
        longest_grant: config.grants.longest,
        approvers: config.approvers.clone(),
        announce_tx,
    };
    let gate = Arc::new(Gate::new(policies, grants, gate_options));
    gate.set_lock_action(config.hold.lock_action);
    let registry = Arc::new(Registry::default());
    journal
        .append(&[Event::AgentStart {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: hostname(),
            pid: std::process::id(),
            config_sha256: config.sha256.clone(),
            policy_sha256,
            predecessor: predecessor.as_ref().map(|predecessor| predecessor.pid),
        }])
        .context("cannot record")?;

    let signals = Signals::take()?;
    let draining = predecessor.as_ref().map(Predecessor::draining);
    let (intercept, listeners) = prepared.attach(draining).context("cannot attach to the kernel")?;
    let bpffs = &config.intercept.bpffs;
    if let Some(found) = presence::gone(&config.state_dir, bpffs, intercept.attached()) {
        warn!(found, "tampering: nothing was in force in between");
        journal.append(&[Event::Tampered { found, error: None }]).context("cannot record")?;
    }
    presence::note(&config.state_dir, bpffs);
    let provenance = Provenance::new(intercept.processes()?, cgroup2);
    let shared = Arc::new(Shared {
        places: Arc::new(Semaphore::new(config.limits.sessions)),
        lookup: intercept.redirects(),
        provenance,
        gate: Arc::clone(&gate),
        journal: Arc::clone(&journal),
        registry: Arc::clone(&registry),
        world: RwLock::new(Arc::new(world)),
    });
    let agent = Arc::new(Agent {
        config_path,
        shared: Arc::clone(&shared),
        intercept: Arc::new(Mutex::new(intercept)),
        namespaces: Mutex::new(None),
        takeover: Takeover::new()?,
        places,
    });
    let warden = tokio::spawn(warden::watch(Arc::clone(&shared)));
    let acceptor = accept::Acceptor::start(&shared, config.limits.sessions)?;
    let mut accepting = acceptor.listen(listeners)?;
    if let Some(predecessor) = predecessor {
        info!(pid = predecessor.pid, "taking over");
        predecessor.serving(&agent)?;
    }
    beat::start(&agent, acceptor.pulse.clone())?;
    let control =
        socket.serve(Arc::new(operator(&agent, &config, own))).context("cannot use the control socket")?;
    // Only now, when nobody takes anything back: the listeners of other network namespaces change hands. Until each
    // does, first packets from there are held.
    let (settled_tx, settled_rx) = oneshot::channel();
    let (namespaces, notice_rx) = agent.serve_namespaces()?;
    let kernel = Kernel::new(&mut agent.intercept(), namespaces)?;
    let keeper = tokio::spawn(beat::keep(Arc::clone(&agent), kernel));
    accepting.push(tokio::spawn(namespaces::follow(
        notice_rx,
        acceptor.clone(),
        Arc::clone(&journal),
        settled_tx,
    )));
    if tokio::time::timeout(SETTLE, settled_rx).await.is_err() {
        warn!("the network namespaces of governed processes are not all served yet");
    }
    let hosts = control::serve_hosts(&config.run_dir, Arc::new(world::host_book(&shared, &config)))
        .with_context(|| format!("cannot open the hosts socket in {}", config.run_dir.display()))?;
    outlets.open(&config, &agent)?;
    // Only now that nothing keeps the agent from serving: one that takes everything back has the configuration of before.
    agent.places.follow(&config);
    journal.settle().context("cannot record")?;
    systemd::notify("READY=1");
    info!(targets = config.targets.len(), identities = config.identities.len(), "ready");

    let reason = match wait_for_the_end(&agent, signals).await? {
        Ended::Signal(name) => {
            info!(reason = name, "stopping");
            systemd::notify("STOPPING=1");
            stop(&accepting);
            drain(&registry).await;
            name
        }
        Ended::HandedOver => {
            see_off(&agent, &acceptor, &accepting).await?;
            let _ = std::fs::remove_file(config.run_dir.join(control::DRAINING));
            "another agent took over"
        }
    };
    control.abort();
    hosts.abort();
    warden.abort();
    announcing.abort();
    keeper.abort();
    let parked = agent.shared.gate.holds().withdraw_parked();
    warden::record_ends(&journal, parked, HoldOutcome::Withdrawn, Some("the agent ended"));
    journal.append(&[Event::AgentStop { reason: reason.to_owned() }]).context("cannot record the stop")?;
    journal.close().context("cannot close the journal")?;
    Ok(())
}

/// Serves SIGHUP until it is time to end.
async fn wait_for_the_end(agent: &Agent, mut signals: Signals) -> Result<Ended> {
    let Signals { hangup, terminate, interrupt } = &mut signals;
    loop {
        tokio::select! {
            _ = hangup.recv() => agent.reload(),
            _ = terminate.recv() => return Ok(Ended::Signal("SIGTERM")),
            _ = interrupt.recv() => return Ok(Ended::Signal("SIGINT")),
            () = agent.takeover.handed_over.notified() => return Ok(Ended::HandedOver),
        }
    }
}

/// Brings a replaced agent's sessions to their ends: their own, until the time is up.
async fn see_off(agent: &Arc<Agent>, acceptor: &Acceptor, accepting: &[JoinHandle<()>]) -> Result<()> {
    let limit = agent.shared.world().config.limits.drain;
    info!(sessions = acceptor.connections(), seconds = limit.as_secs(), "another agent took over; draining");
    let deadline = tokio::time::Instant::now() + limit;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::time::sleep(LINGER).await;
    stop(accepting);
    agent.intercept().retire();
    agent.namespaces().take();
    let mut look = tokio::time::interval(Duration::from_millis(100));
    while acceptor.connections() > 0 {
        tokio::select! {
            _ = look.tick() => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = tokio::time::sleep_until(deadline) => {
                warn!(sessions = acceptor.connections(), "the time to drain is up");
                break;
            }
        }
        if agent.takeover.successor_is_gone() {
            error!("the agent that records for this one is gone: nothing more may be served");
            break;
        }
    }
    drain(&agent.shared.registry).await;
    Ok(())
}

/// Closes the listeners.
fn stop(accepting: &[JoinHandle<()>]) {
    for task in accepting {
        task.abort();
    }
}

impl Agent {
    fn namespaces(&self) -> MutexGuard<'_, Option<Arc<Namespaces>>> {
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve_namespaces(&self) -> Result<(Arc<Namespaces>, tokio::sync::mpsc::Receiver<intercept::Notice>)> {
        let (namespaces, notice_rx) =
            self.intercept().namespaces().context("cannot serve network namespaces")?;
        let namespaces = Arc::new(namespaces);
        *self.namespaces() = Some(Arc::clone(&namespaces));
        Ok((namespaces, notice_rx))
    }

    fn intercept(&self) -> MutexGuard<'_, Intercept> {
        self.intercept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads configuration and policies again; on any error everything stays as it was.
    fn reload(&self) {
        systemd::notify("RELOADING=1");
        let outcome = self.try_reload();
        let policy_sha256 = self.shared.gate.policies().set.digest().to_owned();
        let error = outcome.as_ref().err().map(|error| format!("{error:#}"));
        match &error {
            None => info!(policy_sha256, "reloaded"),
            Some(error) => error!(error, "reload refused; the last good configuration stays in force"),
        }
        if let Err(error) = self.shared.journal.append(&[Event::Reload { policy_sha256, error }]) {
            warn!(%error, "the reload could not be recorded");
        }
        systemd::notify("READY=1");
    }

    fn try_reload(&self) -> Result<()> {
        let config = Config::load(&self.config_path)?;
        let policies = checked_policies(&config)?;
        if self.takeover.phase() == Phase::Draining {
            // Its sessions obey new policies; the kernel and new sessions are the successor's.
            self.shared.gate.replace_approvers(config.approvers.clone());
            self.shared.gate.set_lock_action(config.hold.lock_action);
            let world = self.shared.world();
            let identities = Identities::new(config.identities.clone()).sharing(&world.identities);
            warden::end_changed(&self.shared.registry, &identities);
            self.shared.gate.replace(policies);
            return Ok(());
        }
        let before = self.shared.world();
        world::may_change(&before.config, &config)?;
        let options = world::intercept_options(&config)?;
        let run_dir = config.run_dir.clone();
        let next = world::build(config, &self.places, Some(&before))?;
        // The kernel first: a target it does not know yet is not redirected, and one it knows is refused
        // by a session that does not.
        {
            let mut intercept = self.intercept();
            intercept.reconfigure(&options)?;
            if let Some(namespaces) = &*self.namespaces() {
                intercept.inform(namespaces);
            }
        }
        self.shared.gate.replace_approvers(next.config.approvers.clone());
        self.shared.gate.set_lock_action(next.config.hold.lock_action);
        let next = Arc::new(next);
        self.places.follow(&next.config);
        *self.shared.world.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&next);
        warden::end_changed(&self.shared.registry, &next.identities);
        self.shared.gate.replace(policies);
        // Sessions of the agent before this one, if there are any left.
        if let Err(error) = control::call_draining(&run_dir, &control::Request::Reload) {
            warn!(%error, "the agent that is being replaced did not reload: its sessions keep the policies they had");
        }
        Ok(())
    }
}

async fn drain(registry: &Registry) {
    registry.command_all(&Command::Kill("the agent is shutting down".to_owned()));
    let deadline = tokio::time::Instant::now() + DRAIN;
    while !registry.is_empty() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if !registry.is_empty() {
        warn!(sessions = registry.len(), "sessions did not end in time");
    }
}

fn operator(agent: &Arc<Agent>, config: &Config, own: String) -> Operator {
    let [shared, exempting, known, sited, people] = std::array::from_fn(|_| Arc::clone(&agent.shared));
    let identified = move |cgroup: &str| shared.world().identities.claimed(cgroup);
    let bypassed = move |cgroup: &str| world::is_bypassed(&exempting.world().config, cgroup);
    let [stats, draining, take_over, upgrade, reload] = std::array::from_fn(|_| Arc::clone(agent));
    Operator {
        gate: Arc::clone(&agent.shared.gate),
        journal: Arc::clone(&agent.shared.journal),
        registry: Arc::clone(&agent.shared.registry),
        callers: callers(config, own, Box::new(identified), Box::new(bypassed)),
        known: Box::new(move |name| {
            let world = known.world();
            let owner = world.identities.owner(name).map(str::to_owned);
            let groups = world.identities.groups(name);
            world.identities.has(name).then_some(Known { owner, groups })
        }),
        sites: Box::new(move || world::sites(&sited.world().config)),
        people_log_in: Box::new(move || people.world().config.login.is_some()),
        who_logged_in: login::who(Arc::clone(&agent.shared)),
        stats: Box::new(move || outlets::counters(&stats.intercept())),
        draining: Box::new(move || draining.takeover.phase() == Phase::Draining),
        take_over: Box::new(move |successor| takeover::begin(&take_over, successor)),
        upgrade: Box::new(move || takeover::upgrade(&upgrade)),
        reload: Box::new(move || reload.reload()),
    }
}

/// Sessions take two descriptors each and network namespaces four: the soft limit of a shell, 1024, is soon reached.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "cannot raise the limit of open files");
    }
}

type Test = Box<dyn Fn(&str) -> bool + Send + Sync>;

fn callers(config: &Config, own: String, identified: Test, bypassed: Test) -> Callers {
    let (governed, operators) = (config.intercept.cgroup.clone(), config.intercept.operators.clone());
    Callers { governed, bypassed, operators, own, identified }
}

/// Whether this process may do what an operator does without asking a running agent: let go of the kernel.
///
/// # Errors
/// Says why not: it is not root, or in a governed cgroup, whatever capabilities it has.
pub fn require_operator(config: &Config) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "only root may do this");
    ensure!(
        intercept::in_initial_cgroup_namespace(),
        "this process has a cgroup namespace of its own, as in a container: what it is cannot be told; use a shell of \
         the host"
    );
    let own = own_cgroup()?;
    let identities = Identities::new(config.identities.clone());
    let identified = move |cgroup: &str| identities.claimed(cgroup);
    let exempting = config.clone();
    let bypassed = move |cgroup: &str| world::is_bypassed(&exempting, cgroup);
    let allowed = callers(config, own.clone(), Box::new(identified), Box::new(bypassed)).allows(&own);
    ensure!(allowed, "cgroup {own} is governed; use a shell outside of it");
    Ok(())
}

fn hostname() -> String {
    nix::unistd::gethostname().map_or_else(|_| "?".to_owned(), |name| name.to_string_lossy().into_owned())
}
