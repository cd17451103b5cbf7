//! The thread: what it knows, what wakes it, what it does then.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::File,
    io,
    os::fd::OwnedFd,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use aya::maps::{Array, HashMap as BpfMap, MapData, RingBuf};
use chaperone_ebpf::{Ask, Config, Netns};
use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        eventfd::EventFd,
    },
    time::{ClockId, clock_gettime},
};
use tokio::sync::mpsc::Sender;

use super::{
    Command, Governed, Inodes, InterceptError, LookupProgram, Notice, Target,
    census::{self, Census},
    find, serve, sys,
};
use crate::intercept::bpffs::Pins;

/// How often the governed processes are gone through without anything having happened.
const CENSUS_EVERY: Duration = Duration::from_secs(10);

/// How long after a process came into or went out of a served namespace. Both come in bursts.
const CENSUS_SOON: Duration = Duration::from_millis(100);

/// Each takes four descriptors and a socket map: whoever may make namespaces must not exhaust what serves the others.
const MAX_SERVED: usize = 4096;

/// A question that was not answered for this long has nobody waiting for it: a held SYN asks again earlier.
const FORGET_ASK: Duration = Duration::from_secs(60);

/// Tokens of the descriptors waited for; a namespace's is its cookie, shifted past these.
const RING: u64 = 0;
const WAKE: u64 = 1;
const FIRST_COOKIE: u64 = 2;

/// What the thread is made of.
pub(in crate::intercept) struct Parts {
    pub(in crate::intercept) asks: RingBuf<MapData>,
    pub(in crate::intercept) netns: BpfMap<MapData, u64, Netns>,
    pub(in crate::intercept) config: Array<MapData, Config>,
    pub(in crate::intercept) program: LookupProgram,
    pub(in crate::intercept) pins: Pins,
    pub(in crate::intercept) governed: Governed,
    pub(in crate::intercept) targets: Vec<Target>,
    pub(in crate::intercept) inodes: Inodes,
    /// Inode of the host's namespace, which is the one the thread starts in.
    pub(in crate::intercept) host: u64,
}

pub(super) struct Worker {
    pub(super) parts: Parts,
    pub(super) host: File,
    command_rx: mpsc::Receiver<Command>,
    wake: Arc<EventFd>,
    notice_tx: Sender<Notice>,
    epoll: Epoll,
    /// By cookie.
    pub(super) served: BTreeMap<u64, Inhabited>,
    /// Processes of the last census: what is new since then may have brought connections along.
    pub(super) known: HashSet<u32>,
    /// When all of them are looked at again.
    pub(super) everybody_at: Instant,
    /// Inodes of namespaces that could not be served, so that each is complained about once.
    failing: HashSet<u64>,
    /// Inodes of namespaces in which old connections have not been looked for yet.
    fresh: Vec<u64>,
    pub(super) census_at: Instant,
    rest_until: Instant,
}

pub(super) struct Inhabited {
    pub(super) inode: u64,
    /// Kept so that it can be entered again; the listeners keep it in existence anyway.
    pub(super) namespace: File,
    /// Readable once a process that lived there has ended.
    witness: Option<OwnedFd>,
    /// The thread that asked for it to be served, by process and own id: it may have a namespace that its process does
    /// not live in.
    asker: Option<(u32, u32)>,
    /// Keeps the lookup program there in force, also when its pin is removed.
    pub(super) link: OwnedFd,
}

impl Inhabited {
    fn is_lived_in(&self, census: &Census) -> bool {
        let asks = |(pid, tid)| census::namespace_of_thread(pid, tid) == Some(self.inode);
        census.dwellers.contains_key(&self.inode) || self.asker.is_some_and(asks)
    }
}

/// Why the thread stops in the middle of something.
pub(super) enum Halt {
    /// The agent has stopped listening: there is nothing more to do.
    Over,
    /// Another agent is taking over, and may fail: until that is known, marks, pins and questions are not ours.
    StandBy,
}

impl Worker {
    pub(super) fn new(
        parts: Parts,
        command_rx: mpsc::Receiver<Command>,
        wake: Arc<EventFd>,
        notice_tx: Sender<Notice>,
    ) -> Result<Self, InterceptError> {
        let failed = |source| InterceptError::Netns { what: "prepare the thread for", source };
        let watched = || -> io::Result<Epoll> {
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            epoll.add(&parts.asks, EpollEvent::new(EpollFlags::EPOLLIN, RING))?;
            epoll.add(wake.as_ref(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
            Ok(epoll)
        };
        let epoll = watched().map_err(failed)?;
        let host = File::open("/proc/thread-self/ns/net").map_err(failed)?;
        Ok(Self {
            parts,
            host,
            command_rx,
            wake,
            notice_tx,
            epoll,
            served: BTreeMap::new(),
            known: HashSet::new(),
            everybody_at: Instant::now(),
            failing: HashSet::new(),
            fresh: Vec::new(),
            census_at: Instant::now() + CENSUS_EVERY,
            rest_until: Instant::now(),
        })
    }

    pub(super) fn run(mut self) {
        loop {
            match self.start().and_then(|()| self.work()) {
                Ok(never) => match never {},
                Err(Halt::StandBy) if self.stand_by() => {}
                Err(Halt::StandBy | Halt::Over) => break,
            }
        }
        tracing::debug!("no longer serving network namespaces");
    }

    fn start(&mut self) -> Result<(), Halt> {
        self.hunt_everywhere()?;
        self.census()?;
        self.tell(Notice::Settled)
    }

    /// Waits for what becomes of the other agent; whether this one is in charge again.
    fn stand_by(&mut self) -> bool {
        tracing::debug!("another agent is taking over the network namespaces");
        loop {
            match self.command_rx.recv() {
                Ok(Command::Resume) => break,
                Ok(Command::Consider(pid)) => drop(self.known.remove(&pid)),
                Ok(Command::Reconfigure { governed, targets }) => {
                    self.parts.governed = governed;
                    self.parts.targets = targets;
                }
                Err(mpsc::RecvError) => return false,
            }
        }
        tracing::info!(served = self.served.len(), "network namespaces are served by this agent again");
        true
    }

    fn work(&mut self) -> Result<std::convert::Infallible, Halt> {
        loop {
            self.wait()?;
            self.obey()?;
            self.answer()?;
            if Instant::now() >= self.next_census() {
                self.census()?;
            }
        }
    }

    fn wait(&mut self) -> Result<(), Halt> {
        let left = self.next_census().saturating_duration_since(Instant::now());
        // Rounded up: waking a moment early would mean spinning until it is time.
        let timeout = EpollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(EpollTimeout::MAX);
        let mut events = [EpollEvent::empty(); 64];
        let ready = match self.epoll.wait(&mut events, timeout) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => 0,
            Err(error) => {
                tracing::error!(%error, "network namespaces are not served any more");
                return Err(Halt::Over);
            }
        };
        for event in events.iter().take(ready) {
            match event.data() {
                RING => {}
                WAKE => {
                    let _empty = self.wake.read();
                }
                token => self.end_of_witness(token - FIRST_COOKIE),
            }
        }
        Ok(())
    }

    fn end_of_witness(&mut self, cookie: u64) {
        if let Some(inhabited) = self.served.get_mut(&cookie) {
            // Closing the descriptor takes it out of the set.
            inhabited.witness = None;
        }
        self.soon();
    }

    pub(super) fn soon(&mut self) {
        self.census_at = self.census_at.min(Instant::now() + CENSUS_SOON);
    }

    fn next_census(&self) -> Instant {
        self.census_at.max(self.rest_until)
    }

    fn obey(&mut self) -> Result<(), Halt> {
        loop {
            match self.command_rx.try_recv() {
                // With a census of its own it would be too easy to keep the thread busy.
                Ok(Command::Consider(pid)) => {
                    self.known.remove(&pid);
                    self.soon();
                }
                Ok(Command::Reconfigure { governed, targets }) => {
                    self.parts.governed = governed;
                    self.parts.targets = targets;
                    self.hunt_everywhere()?;
                    self.census()?;
                }
                // It began and failed before anything here noticed.
                Ok(Command::Resume) => self.soon(),
                Err(mpsc::TryRecvError::Empty) => return Ok(()),
                Err(mpsc::TryRecvError::Disconnected) => return Err(Halt::Over),
            }
        }
    }

    /// Serves the namespaces that connections wait in.
    fn answer(&mut self) -> Result<(), Halt> {
        // Before a question is taken: it would be the other agent's to answer.
        self.still_in_charge()?;
        let mut asked = HashMap::new();
        while let Some(item) = self.parts.asks.next() {
            if let Some(ask) = parse(&item) {
                asked.insert(ask.netns, ask);
            }
        }
        for (cookie, ask) in asked {
            if self.served.contains_key(&cookie) {
                // Its mark was lost, or this was asked before it was made.
                self.mark(cookie);
                continue;
            }
            match find::enter(&ask) {
                Ok(namespace) => {
                    self.serve(namespace, Some(ask.tgid))?;
                    if let Some(inhabited) = self.served.get_mut(&cookie) {
                        inhabited.asker = Some((ask.tgid, ask.tid));
                    }
                }
                Err(error) => {
                    tracing::debug!(cookie, pid = ask.tgid, %error, "cannot find a network namespace");
                    // Nobody is there to wait; or somebody asks again. Entries of the dead must not pile up.
                    let _absent = self.parts.netns.remove(&cookie);
                }
            }
        }
        Ok(())
    }

    /// Goes through the governed processes: serves the namespaces they live in, lets go of those that nobody lives in
    /// any more, and ends connections that newcomers brought along.
    fn census(&mut self) -> Result<(), Halt> {
        let started = Instant::now();
        // First, because what follows may find reasons to look again soon.
        self.census_at = started + CENSUS_EVERY;
        self.mend()?;
        let census = census::take(&self.parts.governed);
        for (inode, pid) in &census.dwellers {
            self.admit(*inode, *pid)?;
        }
        let empty: Vec<u64> = self
            .served
            .iter()
            .filter(|(_, inhabited)| !inhabited.is_lived_in(&census))
            .map(|(cookie, _)| *cookie)
            .collect();
        for cookie in empty {
            self.close(cookie)?;
        }
        self.forget_the_dead();
        self.failing.retain(|inode| census.dwellers.contains_key(inode));
        for inode in std::mem::take(&mut self.fresh) {
            self.hunt_in(inode, |hunt| hunt.made_by_the_governed(), &census)?;
        }
        self.hunt_holders(&census)?;
        self.known = census.pids.into_iter().collect();
        // On a host with very many processes it takes its time; most of the thread's is for connections that wait.
        self.rest_until = Instant::now() + started.elapsed() * 4;
        Ok(())
    }

    /// Serves the namespace of a process unless it is served, and keeps a witness of it.
    fn admit(&mut self, inode: u64, pid: u32) -> Result<(), Halt> {
        if inode == self.parts.host {
            return Ok(());
        }
        if let Some((cookie, inhabited)) = self.served.iter_mut().find(|(_, other)| other.inode == inode) {
            if inhabited.witness.is_none() {
                let cookie = *cookie;
                self.watch(cookie, pid);
            }
            return Ok(());
        }
        let Ok(namespace) = File::open(format!("/proc/{pid}/ns/net")) else { return Ok(()) };
        if sys::enter(&namespace).is_err() {
            return Ok(());
        }
        self.serve(namespace, Some(pid))
    }

    /// Serves the namespace that the thread has just entered.
    fn serve(&mut self, namespace: File, witness: Option<u32>) -> Result<(), Halt> {
        self.still_in_charge()?;
        if self.served.len() >= MAX_SERVED {
            if self.failing.insert(0) {
                tracing::warn!(
                    MAX_SERVED,
                    "too many network namespaces; connections from further ones are refused"
                );
            }
            return Ok(());
        }
        let served = match serve::open(&namespace, &self.parts.program, &self.parts.pins) {
            Ok(served) => served,
            Err(error) => {
                let inode = std::os::unix::fs::MetadataExt::ino;
                let inode = namespace.metadata().map(|metadata| inode(&metadata)).unwrap_or_default();
                if self.failing.insert(inode) {
                    tracing::warn!(inode, error = %crate::intercept::chain(&error), "a network namespace cannot be served; connections from it are refused");
                }
                return Ok(());
            }
        };
        let serve::Served { cookie, inode, listeners, link } = served;
        // Known before the first connection can arrive, so that its record has it.
        self.parts.inodes.set(cookie, inode);
        self.tell(Notice::Opened { cookie, inode, listeners })?;
        self.mark(cookie);
        self.served.insert(cookie, Inhabited { inode, namespace, witness: None, asker: None, link });
        if let Some(pid) = witness {
            self.watch(cookie, pid);
        }
        tracing::debug!(cookie, inode, "serving a network namespace");
        // Later, with the next census: connections are waiting.
        self.fresh.push(inode);
        self.soon();
        Ok(())
    }

    /// From now on the kernel programs let first packets through there.
    fn mark(&mut self, cookie: u64) {
        let entry = Netns { owner: std::process::id(), ..Netns::default() };
        if let Err(error) = self.parts.netns.insert(cookie, entry, 0) {
            tracing::warn!(cookie, %error, "a network namespace cannot be marked as served");
        }
    }

    fn watch(&mut self, cookie: u64, pid: u32) {
        let watched = || -> io::Result<OwnedFd> {
            let process = sys::open_process(pid)?;
            self.epoll.add(&process, EpollEvent::new(EpollFlags::EPOLLIN, cookie + FIRST_COOKIE))?;
            Ok(process)
        };
        match watched() {
            Ok(process) => {
                if let Some(inhabited) = self.served.get_mut(&cookie) {
                    inhabited.witness = Some(process);
                }
            }
            // Gone already: see who is left.
            Err(_) => self.soon(),
        }
    }

    pub(super) fn close(&mut self, cookie: u64) -> Result<(), Halt> {
        self.still_in_charge()?;
        // In this order: what connects from now on is held, and asked for again.
        let _absent = self.parts.netns.remove(&cookie);
        serve::close(&self.parts.pins, cookie);
        self.served.remove(&cookie);
        self.parts.inodes.forget(cookie);
        tracing::debug!(cookie, "no governed process is left in a network namespace");
        // The thread must not be what keeps it either.
        let _still_there = sys::enter(&self.host);
        self.tell(Notice::Closed { cookie })
    }

    /// Removes what former agents, and questions that nobody waits for any more, left behind.
    fn forget_the_dead(&mut self) {
        if self.still_in_charge().is_err() {
            return;
        }
        for cookie in serve::pinned(&self.parts.pins.namespaces()) {
            if !self.served.contains_key(&cookie) {
                serve::close(&self.parts.pins, cookie);
            }
        }
        let entries: Vec<(u64, Netns)> = self.parts.netns.iter().flatten().collect();
        for (cookie, entry) in entries {
            let waiting = entry.owner == 0 && !is_older(entry.asked_at, FORGET_ASK);
            if !waiting && !self.served.contains_key(&cookie) {
                let _absent = self.parts.netns.remove(&cookie);
            }
        }
    }

    /// When a newer agent takes over, its marks and pins are not ours to touch.
    pub(super) fn still_in_charge(&self) -> Result<(), Halt> {
        let config = self.parts.config.get(&0, 0).map_err(|_| Halt::Over)?;
        if config.agent_tgid == std::process::id() { Ok(()) } else { Err(Halt::StandBy) }
    }

    pub(super) fn tell(&self, notice: Notice) -> Result<(), Halt> {
        self.notice_tx.blocking_send(notice).map_err(|_closed| Halt::Over)
    }
}

fn parse(bytes: &[u8]) -> Option<Ask> {
    if bytes.len() != size_of::<Ask>() {
        return None;
    }
    // SAFETY: the length is a question's, which is integers only, and the read needs no alignment.
    Some(unsafe { bytes.as_ptr().cast::<Ask>().read_unaligned() })
}

fn is_older(boottime_ns: u64, age: Duration) -> bool {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
    now.saturating_sub(Duration::from_nanos(boottime_ns)) > age
}
