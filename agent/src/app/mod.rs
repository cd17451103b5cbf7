//! Wiring: the only place that constructs. Starts the agent, reloads it, ends it.

mod accept;
mod announce;
mod kernel;
mod namespaces;
mod warden;
mod world;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use self::kernel::Kernel;
use crate::config::Config;
use crate::control::{self, Callers, Known, Operator};
use crate::gate::{self, Gate, Grants};
use crate::intercept::{self, Intercept, Namespaces, Redirects};

use crate::record::event::Event;
use crate::record::{self, Journal};
use crate::registry::{Command, Registry};
use crate::session::Shared;
use crate::workload::Provenance;

pub use world::{checked_credentials, checked_policies, ssh_host_keys};

/// How long live sessions get to end when the agent does.
const DRAIN: Duration = Duration::from_secs(5);

/// How long the start waits for the network namespaces that exist. Their first connections wait by themselves.
const SETTLE: Duration = Duration::from_secs(10);

/// Everything a running agent holds.
struct Agent {
    config_path: PathBuf,
    shared: Arc<Shared<Redirects>>,
    intercept: Arc<Mutex<Intercept>>,
    namespaces: Arc<Namespaces>,
}

/// Runs the agent until it is told to stop.
///
/// # Errors
/// When it cannot start. Once it runs, errors end sessions, not the agent.
pub fn run(config_path: &Path) -> Result<()> {
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
    runtime.block_on(async move { tokio::spawn(start_and_serve(path, config)).await? })
}

async fn start_and_serve(config_path: PathBuf, config: Config) -> Result<()> {
    // The record first: from here on, what happens is written.
    let journal = Journal::open(&record::Options::new(&config.state_dir, config.record.max_bytes))
        .context("cannot open the journal")?;
    let journal = Arc::new(journal);
    let policies = checked_policies(&config)?;
    let policy_sha256 = policies.digest().to_owned();
    let grants = Grants::open(&config.state_dir).context("cannot open the grants")?;
    let hooks = config.webhooks.iter().map(announce::Hook::load).collect::<Result<Vec<_>>>()?;
    let (announce_tx, announce_rx) = tokio::sync::mpsc::channel(announce::QUEUE);
    let announce_tx = (!hooks.is_empty()).then_some(announce_tx);
    let announcing = tokio::spawn(announce::run(hooks, hostname(), announce_rx));
    let options = gate::Options {
        hold_timeout: config.hold.timeout,
        longest_grant: config.grants.longest,
        approvers: config.approvers.clone(),
        announce_tx,
    };
    let gate = Arc::new(Gate::new(policies, grants, options));
    let world = world::build(config.clone(), None)?;
    let registry = Arc::new(Registry::default());

    journal
        .append(&[Event::AgentStart {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: hostname(),
            pid: std::process::id(),
            config_sha256: config.sha256.clone(),
            policy_sha256,
            predecessor: None,
        }])
        .context("cannot record")?;

    let options = world::intercept_options(&config)?;
    let (mut intercept, listeners) = Intercept::attach(&options).context("cannot attach to the kernel")?;
    let (namespaces, notice_rx) = intercept.namespaces().context("cannot serve network namespaces")?;
    let namespaces = Arc::new(namespaces);
    let kernel = Kernel::new(&mut intercept, Arc::clone(&namespaces))?;
    let provenance = Provenance::new(intercept.processes()?, intercept::cgroup2_mount()?);
    let shared = Arc::new(Shared {
        lookup: intercept.redirects(),
        provenance,
        gate: Arc::clone(&gate),
        journal: Arc::clone(&journal),
        registry: Arc::clone(&registry),
        world: RwLock::new(Arc::new(world)),
    });
    let intercept = Arc::new(Mutex::new(intercept));
    let agent =
        Agent { config_path, shared: Arc::clone(&shared), intercept: Arc::clone(&intercept), namespaces };

    let heartbeat = tokio::spawn(beat(Arc::clone(&intercept), Arc::clone(&shared), kernel));
    let warden = tokio::spawn(warden::watch(Arc::clone(&shared)));
    let acceptor = accept::Acceptor::start(&shared, config.limits.sessions)?;
    let mut accepting = acceptor.listen(listeners)?;
    let (settled_tx, settled_rx) = oneshot::channel();
    accepting.push(tokio::spawn(namespaces::follow(notice_rx, acceptor, Arc::clone(&journal), settled_tx)));
    if tokio::time::timeout(SETTLE, settled_rx).await.is_err() {
        warn!("the network namespaces of governed processes are not all served yet");
    }
    let control = control::serve(&config.run_dir, Arc::new(operator(&agent, &config)))
        .with_context(|| format!("cannot open the control socket in {}", config.run_dir.display()))?;
    let hosts = control::serve_hosts(&config.run_dir, Arc::new(world::host_book(&shared, &config)))
        .with_context(|| format!("cannot open the hosts socket in {}", config.run_dir.display()))?;
    notify_systemd("READY=1");
    info!(targets = config.targets.len(), identities = config.identities.len(), "ready");

    let reason = wait_for_signals(&agent).await?;
    info!(reason, "stopping");
    notify_systemd("STOPPING=1");
    for task in accepting {
        task.abort();
    }
    drain(&registry).await;
    control.abort();
    hosts.abort();
    warden.abort();
    announcing.abort();
    heartbeat.abort();
    journal.append(&[Event::AgentStop { reason: reason.to_owned() }]).context("cannot record the stop")?;
    journal.close().context("cannot close the journal")?;
    Ok(())
}

/// Serves SIGHUP until SIGTERM or SIGINT.
async fn wait_for_signals(agent: &Agent) -> Result<&'static str> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            _ = hangup.recv() => agent.reload(),
            _ = terminate.recv() => return Ok("SIGTERM"),
            _ = interrupt.recv() => return Ok("SIGINT"),
        }
    }
}

impl Agent {
    /// Reads configuration and policies again; on any error everything stays as it was.
    fn reload(&self) {
        notify_systemd("RELOADING=1");
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
        notify_systemd("READY=1");
    }

    fn try_reload(&self) -> Result<()> {
        let config = Config::load(&self.config_path)?;
        let before = self.shared.world();
        world::may_change(&before.config, &config)?;
        let policies = checked_policies(&config)?;
        let options = world::intercept_options(&config)?;
        let next = world::build(config, Some(&before))?;
        // The kernel first: a target it does not know yet is not redirected, and one it knows is refused
        // by a session that does not.
        {
            let mut intercept = self.intercept.lock().unwrap_or_else(PoisonError::into_inner);
            intercept.reconfigure(&options)?;
            intercept.inform(&self.namespaces);
        }
        self.shared.gate.replace_approvers(next.config.approvers.clone());
        let next = Arc::new(next);
        *self.shared.world.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&next);
        warden::end_changed(&self.shared.registry, &next.identities);
        self.shared.gate.replace(policies);
        Ok(())
    }
}

/// Once a second: the kernel learns that the agent lives, the journal gets a signature.
async fn beat(intercept: Arc<Mutex<Intercept>>, shared: Arc<Shared<Redirects>>, mut kernel: Kernel) {
    let mut interval = tokio::time::interval(Duration::from_secs(1));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let watchdog = std::env::var_os("WATCHDOG_USEC").is_some();
    loop {
        interval.tick().await;
        if let Err(error) = intercept.lock().unwrap_or_else(PoisonError::into_inner).beat() {
            error!(%error, "heartbeat failed; the kernel will refuse connections");
        }
        kernel.drain(&shared);
        kernel.tend();
        let journal = Arc::clone(&shared.journal);
        match tokio::task::spawn_blocking(move || journal.checkpoint()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => warn!(%error, "checkpoint failed"),
            Err(error) => warn!(%error, "checkpoint panicked"),
        }
        if watchdog {
            notify_systemd("WATCHDOG=1");
        }
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

fn operator(agent: &Agent, config: &Config) -> Operator {
    let intercept = Arc::clone(&agent.intercept);
    let shared = Arc::clone(&agent.shared);
    let known = Arc::clone(&agent.shared);
    Operator {
        gate: Arc::clone(&agent.shared.gate),
        journal: Arc::clone(&agent.shared.journal),
        registry: Arc::clone(&agent.shared.registry),
        callers: Callers {
            governed: config.intercept.cgroup.clone(),
            bypass: config.intercept.bypass.clone(),
            operators: config.intercept.operators.clone(),
            identified: Box::new(move |cgroup| shared.world().identities.claimed(cgroup)),
        },
        known: Box::new(move |name| {
            let world = known.world();
            let owner = world.identities.owner(name).map(str::to_owned);
            world.identities.has(name).then_some(Known { owner })
        }),
        stats: Box::new(move || {
            let intercept = intercept.lock().unwrap_or_else(PoisonError::into_inner);
            match intercept.stats() {
                Ok(stats) => stats
                    .counters
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .chain([("flows".to_owned(), stats.flows as u64)])
                    .chain([("namespaces".to_owned(), stats.namespaces as u64)])
                    .chain(stats.guard_dropped.map(|dropped| ("guard_dropped".to_owned(), dropped)))
                    .collect(),
                Err(_) => Vec::new(),
            }
        }),
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

fn hostname() -> String {
    nix::unistd::gethostname().map_or_else(|_| "?".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Tells systemd, when it started us with Type=notify (sd_notify(3)).
fn notify_systemd(state: &str) {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let name = path.as_encoded_bytes();
    let address = match name.strip_prefix(b"@") {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name),
        None => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        warn!(%error, "cannot notify systemd");
    }
}
