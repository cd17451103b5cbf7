//! Interception: which connections reach the agent, and what the kernel knows about each.
//!
//! Owns the BPF object, its links and maps, the listeners (in the host's network namespace and in those of governed
//! processes) and the origin of an accepted connection. Knows nothing
//! of protocols, identities or policy: targets are numbers to it, cgroups are ids.
//!
//! Links and maps are pinned: dropping an [`Intercept`], or dying, leaves everything in force, and connections to
//! targets are refused until an agent takes over. Only [`detach`] lets go.
//!
//! `unsafe` lives here (libbpf's C interface, two system calls, one read of kernel bytes), and beside it in one wrapper of a
//! system call (`workload::verity`).

mod bpffs;
mod btf;
mod cgroup;
mod error;
mod events;
mod guard;
mod guard_log;
mod guard_rules;
mod keep;
mod keeper;
mod listener;
mod netns;
mod options;
mod origin;
pub mod probe;
mod process;
mod programs;
mod settings;
mod sightings;
mod state;
mod unix;

use std::{
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData, SockMap},
};
pub use chaperone_ebpf::LAYOUT;
use chaperone_ebpf::{Config, Stat, process::Offsets};

pub use cgroup::{cgroup_id, cgroup_path, cgroup2_mount};
pub use error::InterceptError;
pub use events::{Events, KernelLog, Refusal};
pub use guard::GuardMode;
pub use guard_log::{GuardDrop, GuardLog};
pub use keeper::Keeper;
pub use listener::Listeners;
pub use netns::{Namespaces, Notice, OldConnection};
pub use options::{CgroupMode, NetRaw, Options, Target};
pub use origin::{Lookup, OrigDst, Origin, Redirects};
pub use process::{Chain, FileId, Image, Processes, Step};
pub use programs::Attached;
pub use sightings::{Sighting, Sightings, What};
pub use unix::UnixSockets;

use bpffs::Pins;
use guard::Guard;
use keep::Held;
use netns::{Governed, Inodes};
use programs::Places;
use state::State;

/// The kernel programs, or nothing when this binary was built without them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("CHAPERONE_EBPF_OBJECT"));

/// PROC_CGROUP_INIT_INO, include/linux/proc_ns.h.
const INITIAL_CGROUP_NAMESPACE: u64 = 0xefff_fffb;

/// PROC_PID_INIT_INO, include/linux/proc_ns.h.
const INITIAL_PID_NAMESPACE: u64 = 0xefff_fffc;

/// What the kernel programs counted since they were first attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    pub counters: Vec<(&'static str, u64)>,
    /// Connections announced to the agent whose handshake is not finished.
    pub flows: usize,
    /// Network namespaces with a listener, the host's own among them.
    pub namespaces: usize,
    /// Packets the guard dropped; `None` without one.
    pub guard_dropped: Option<u64>,
}

impl Stats {
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        self.counters.iter().find(|(counter, _)| *counter == name).map(|(_, value)| *value)
    }
}

/// Programs, maps and listeners, loaded and checked, with nothing of them in force yet.
pub struct Prepared {
    ebpf: Ebpf,
    pins: Pins,
    places: Places,
    state: State,
    slots: SockMap<MapData>,
    redirects: Redirects,
    listeners: Listeners,
    inodes: Inodes,
    host_inode: u64,
    config: Config,
    cgroup2: PathBuf,
    offsets: Offsets,
    /// Whether this kernel takes the tracepoints' programs.
    traced: bool,
    guard: Guard,
    options: Options,
}

/// An agent whose sessions live on after another one took over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draining {
    /// In the host's pid namespace, and in the agent's cgroup.
    pub tgid: u32,
    /// How long it may go on at most.
    pub limit: Duration,
}

/// The attached programs.
pub struct Intercept {
    ebpf: Ebpf,
    unix: unix::Guard,
    pins: Pins,
    places: Places,
    state: State,
    slots: SockMap<MapData>,
    redirects: Redirects,
    /// The listeners once more, to put back into their slots; `None` when another agent has taken over.
    listeners: Option<Listeners>,
    held: Held,
    cgroup2: PathBuf,
    offsets: Offsets,
    traced: bool,
    guard: Guard,
    guard_log: Option<GuardLog>,
    governed: Governed,
    inodes: Inodes,
    host_inode: u64,
    /// What is in the kernel's while nobody drains.
    config: Config,
    options: Options,
    attached: Attached,
}

impl Intercept {
    /// Loads and checks everything, and puts nothing in force: what runs and is pinned goes on as it was, also when
    /// this fails.
    pub fn prepare(options: &Options) -> Result<Prepared, InterceptError> {
        probe::require_floor()?;
        if OBJECT.is_empty() {
            return Err(InterceptError::NoObject);
        }
        state::check(&options.targets, options.listen_port)?;
        require_host_pids()?;
        unix::check(&options.unix)?;
        if !in_initial_cgroup_namespace() {
            return Err(InterceptError::CgroupNamespace);
        }
        let places = places(options)?;
        let guard = Guard::new(options.guard, &options.bpffs, &options.guard_exempt);
        let pins = Pins::new(&options.bpffs);
        pins.prepare()?;

        let mut ebpf = load_object(&pins, options.net_raw)?;
        let state = State::take(&mut ebpf)?;
        state.check_layout()?;
        let traced = programs::load(&mut ebpf)?;
        let slots = state::take(&mut ebpf, "LSOCK")?;
        let (host, host_inode) = netns::own()?;
        let inodes = Inodes::default();
        inodes.set(host, host_inode);
        let redirects = Redirects::new(state::take(&mut ebpf, "SKS")?, inodes.clone(), host);
        let listeners = listener::listen()?;
        let cgroup2 = cgroup2_mount()?;
        let types = btf::KernelTypes::load();
        let config = settings::config(options, host, types.as_ref())?;
        let offsets = if traced { settings::offsets(types.as_ref()) } else { Offsets::default() };
        Ok(Prepared {
            ebpf,
            pins,
            places,
            state,
            slots,
            redirects,
            listeners,
            inodes,
            host_inode,
            config,
            cgroup2,
            offsets,
            traced,
            guard,
            options: options.clone(),
        })
    }
}

impl Prepared {
    /// Puts the programs in force, or takes over those of an agent before this one, and returns the listeners.
    ///
    /// From the first heartbeat, made here, connections are redirected; [`Intercept::beat`] must follow every second.
    pub fn attach(self, draining: Option<Draining>) -> Result<(Intercept, Listeners), InterceptError> {
        let Self { mut ebpf, pins, places, mut state, mut slots, redirects, listeners, options, .. } = self;
        let Self { inodes, host_inode, config, cgroup2, offsets, traced, guard, .. } = self;
        listener::publish(&mut slots, &listeners)?;
        state.set_cgroups(&options.modes, &cgroup2)?;
        state.set_targets(&options.targets)?;
        guard.apply(&options.targets)?;
        let guard_log = guard.log();
        settings::announce(&mut state, config, draining)?;
        state.set_offsets(offsets)?;
        state.beat()?;
        let attached = programs::attach(&mut ebpf, &pins, &places, traced)?;
        programs::guard_net_raw(&mut ebpf, &pins, options.net_raw != NetRaw::Off)?;
        let mut unix = unix::Guard::open(&pins)?;
        unix.attach(&pins, &places, btf::KernelTypes::load().as_ref())?;
        unix.set(&options.unix)?;
        // Once more: one made before the tracepoint was there found nobody to apply its rule.
        state.set_cgroups(&options.modes, &cgroup2)?;
        let found = Keeper::open(&pins)?.find();
        tracing::debug!(found, "processes that ran before");
        let held = Held::take(&pins)?;
        if attached.taken_over > 0 {
            tracing::info!(links = attached.taken_over, fresh = attached.fresh, "took over pinned links");
        }
        if attached.moved > 0 {
            tracing::warn!(
                links = attached.moved,
                cgroup = %options.cgroup.display(),
                "the pinned links were attached elsewhere, or their cgroup is gone: attached anew"
            );
        }
        let again = Some(listeners.again()?);
        let intercept = Intercept {
            ebpf,
            unix,
            traced,
            guard,
            guard_log,
            pins,
            places,
            state,
            slots,
            redirects,
            listeners: again,
            held,
            governed: governed(&options, &cgroup2),
            cgroup2,
            offsets,
            inodes,
            host_inode,
            config,
            options,
            attached,
        };
        Ok((intercept, listeners))
    }
}

impl Intercept {
    /// How many links were new, and how many an earlier agent had left.
    #[must_use]
    pub fn attached(&self) -> Attached {
        self.attached
    }

    /// Replaces targets, cgroup policy, allowed unix sockets and the guard's exemptions; nothing that stays is
    /// unprotected in between.
    pub fn reconfigure(&mut self, options: &Options) -> Result<(), InterceptError> {
        let Options { targets, modes, unix, .. } = options;
        unix::check(unix)?;
        state::check(targets, self.options.listen_port)?;
        let guard = Guard::new(options.guard, &options.bpffs, &options.guard_exempt);
        guard.apply(targets)?;
        self.guard = guard;
        self.state.set_cgroups(modes, &self.cgroup2)?;
        self.unix.set(unix)?;
        self.state.set_targets(targets)?;
        self.governed.set(modes, &self.cgroup2);
        self.options.targets = targets.to_vec();
        self.options.modes = modes.to_vec();
        self.options.unix = unix.clone();
        Ok(())
    }

    /// Starts serving network namespaces other than this one, once. The notices have to be taken from then on.
    pub fn namespaces(
        &mut self,
    ) -> Result<(Namespaces, tokio::sync::mpsc::Receiver<Notice>), InterceptError> {
        netns::start(netns::Parts {
            asks: state::take(&mut self.ebpf, "ASKS")?,
            netns: state::take(&mut self.ebpf, "NETNS")?,
            config: state::pinned(&self.pins, "CFG", Map::Array)?,
            program: netns::LookupProgram::link(OBJECT, &self.pins)?,
            pins: self.pins.clone(),
            governed: self.governed.clone(),
            targets: self.options.targets.clone(),
            inodes: self.inodes.clone(),
            host: self.host_inode,
        })
    }

    /// Tells the thread what [`Self::reconfigure`] changed: connections older than a target are ended.
    pub fn inform(&self, namespaces: &Namespaces) {
        namespaces.reconfigure(self.governed.clone(), self.options.targets.clone());
    }

    /// Looks whether everything is still in force and pinned, and puts back what is not. What was found is in
    /// `found`, also when it could not be mended.
    pub fn mend(&mut self, found: &mut Vec<String>) -> Result<(), InterceptError> {
        self.held.mend(&mut self.ebpf, &self.pins, &self.places, found)
    }

    /// Puts everything in force again after another agent began to take over and failed.
    pub fn reassert(&mut self) -> Result<(), InterceptError> {
        if let Some(listeners) = &self.listeners {
            listener::publish(&mut self.slots, listeners)?;
        }
        self.state.set_cgroups(&self.options.modes, &self.cgroup2)?;
        self.state.set_targets(&self.options.targets)?;
        self.state.set_config(self.config)?;
        self.state.set_offsets(self.offsets)?;
        self.state.beat()?;
        self.attached = programs::attach(&mut self.ebpf, &self.pins, &self.places, self.traced)?;
        programs::guard_net_raw(&mut self.ebpf, &self.pins, self.options.net_raw != NetRaw::Off)?;
        self.unix.attach(&self.pins, &self.places, btf::KernelTypes::load().as_ref())?;
        self.unix.set(&self.options.unix)?;
        self.held = Held::take(&self.pins)?;
        Ok(())
    }

    /// The agent that was taken over from is gone: nobody but this process is exempt.
    pub fn drained(&mut self) -> Result<(), InterceptError> {
        let config = Config { drain_tgid: 0, drain_until: 0, ..self.state.config()? };
        self.state.set_config(config)
    }

    /// Another agent has taken over: what is pinned is its business. A tracepoint's link would run this one's program
    /// beside its own for as long as it is held.
    pub fn let_go(&mut self) {
        self.held = Held::nothing();
    }

    /// The listeners may close.
    pub fn retire(&mut self) {
        self.listeners = None;
    }

    #[must_use]
    pub fn agent_cgroup_id(&self) -> u64 {
        self.options.agent_cgroup_id
    }

    /// The agent was moved into another cgroup, and stays exempt there.
    pub fn follow(&mut self, agent_cgroup_id: u64) -> Result<(), InterceptError> {
        self.options.agent_cgroup_id = agent_cgroup_id;
        self.config.agent_cgroup = agent_cgroup_id;
        let config = Config { agent_cgroup: agent_cgroup_id, ..self.state.config()? };
        self.state.set_config(config)
    }

    /// Says that the agent is alive; without it for three seconds, governed connects to targets get EPERM.
    pub fn beat(&self) -> Result<(), InterceptError> {
        self.state.beat()
    }

    #[must_use]
    pub fn redirects(&self) -> Redirects {
        self.redirects.clone()
    }

    /// The ring of what was seen beside refusals, once.
    pub fn sightings(&mut self) -> Option<Sightings> {
        state::take(&mut self.ebpf, "NOTICES").ok().map(Sightings::new)
    }

    /// The kernel's notes on processes.
    pub fn processes(&self) -> Result<Processes, InterceptError> {
        Processes::open(&self.pins)
    }

    /// What keeps them whole.
    pub fn keeper(&self) -> Result<Keeper, InterceptError> {
        Keeper::open(&self.pins)
    }

    pub fn stats(&self) -> Result<Stats, InterceptError> {
        let counters = Stat::ALL
            .iter()
            .map(|stat| Ok((stat.name(), self.state.count(*stat)?)))
            .collect::<Result<_, InterceptError>>()?;
        Ok(Stats {
            counters,
            flows: self.state.flows()?,
            namespaces: self.inodes.count(),
            guard_dropped: self.guard.dropped(),
        })
    }

    /// How many refusals the kernel programs counted, of those that the ring of refusals tells of.
    pub fn refusals(&self) -> Result<u64, InterceptError> {
        events::TOLD.into_iter().map(|stat| self.state.count(stat)).sum()
    }

    /// The ring of refusals, once.
    pub fn events(&mut self) -> Option<Events> {
        state::take(&mut self.ebpf, "EVENTS").ok().map(Events::new)
    }

    /// What the guard drops, once; `None` without one.
    pub fn guard_log(&mut self) -> Option<GuardLog> {
        self.guard_log.take()
    }

    /// The programs' own log lines, once.
    pub fn log(&mut self) -> Option<KernelLog> {
        KernelLog::new(&mut self.ebpf)
    }
}

/// Removes all pins, and with them the links, and the guard: nothing is intercepted any more. Returns the number of
/// links removed. In the agent's network namespace.
pub fn detach(bpffs: &Path) -> Result<usize, InterceptError> {
    let links = Pins::new(bpffs).remove()?;
    guard::remove(bpffs)?;
    Ok(links)
}

/// The pinned links by name, each with the id of the cgroup (for `lookup`: the inode of the network namespace) it is
/// attached to; `None` when it is missing or its cgroup is gone.
pub fn pinned_links(bpffs: &Path) -> Result<Vec<(&'static str, Option<u64>)>, InterceptError> {
    programs::pinned(&Pins::new(bpffs))
}

fn load_object(pins: &Pins, net_raw: NetRaw) -> Result<Ebpf, InterceptError> {
    let has_set_retval = u32::from(probe::can_set_retval());
    let net_raw_kills = u32::from(net_raw == NetRaw::Kill);
    let mut loader = EbpfLoader::new();
    loader.override_global("NET_RAW_KILLS", &net_raw_kills, true);
    loader.override_global("HAS_SET_RETVAL", &has_set_retval, true);
    state::use_pins(&mut loader, pins)?;
    Ok(loader.load(OBJECT)?)
}

fn governed(options: &Options, cgroup2: &Path) -> Governed {
    let mut governed = Governed {
        root: options.cgroup.clone(),
        bypass: Default::default(),
        deny: Default::default(),
        agent: options.agent_cgroup_id,
    };
    governed.set(&options.modes, cgroup2);
    governed
}

/// An error with all its causes, for one line of the log.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn places(options: &Options) -> Result<Places, InterceptError> {
    let mount = cgroup2_mount()?;
    let agent_id = options.agent_cgroup_id;
    let agent = cgroup::open_cgroup(agent_id, &mount)?.ok_or(InterceptError::CgroupGone { id: agent_id })?;
    let failed = |source| InterceptError::Cgroup { path: options.cgroup.clone(), source };
    let governed: OwnedFd = std::fs::File::open(&options.cgroup).map_err(failed)?.into();
    Ok(Places { governed, governed_id: cgroup_id(&options.cgroup)?, agent, agent_id })
}

/// Whether paths in /proc/self/cgroup are those of the host.
#[must_use]
pub fn in_initial_cgroup_namespace() -> bool {
    std::fs::metadata("/proc/self/ns/cgroup").is_ok_and(|metadata| metadata.ino() == INITIAL_CGROUP_NAMESPACE)
}

/// The programs compare process ids of the initial pid namespace.
fn require_host_pids() -> Result<(), InterceptError> {
    let path = Path::new("/proc/self/ns/pid");
    let metadata =
        std::fs::metadata(path).map_err(|source| InterceptError::Read { path: path.to_owned(), source })?;
    if metadata.ino() == INITIAL_PID_NAMESPACE { Ok(()) } else { Err(InterceptError::PidNamespace) }
}
