//! Replacing a running agent by another without a connection refused or unprotected.
//!
//! The new agent makes everything that can fail ready first: configuration, policies, credentials, kernel programs,
//! listeners. Then, over the control socket of the one that runs:
//!
//! ```text
//! new                                     old
//! take_over, version, map layout ──────▶  in my own cgroup? same layout? nobody still draining?
//!                            ◀──────────  offer
//! begin ───────────────────────────────▶  records the hand-over, closes the journal (appends wait)
//!                            ◀──────────  yours
//! opens journal and grants, records its start;
//! listener slots, maps, programs swapped
//! serving ─────────────────────────────▶  moves its control socket aside, tells systemd the new main process
//!                            ◀──────────  draining
//! puts its own control socket there       accepts what is in its queue, brings its sessions to their ends;
//!                            ◀──────────  their records go over this connection (record/handover.rs)
//! ```
//!
//! Until `serving` the old one goes on whatever happens: it ends a new one that does not answer, takes the journal
//! back and puts its own programs and listeners in force again.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tracing::{error, info, warn};

use super::{Agent, alive, systemd};
use crate::control::{self, Request, Response, Successor};
use crate::intercept::{Draining, LAYOUT};
use crate::record::event::Event;
use crate::record::{Journal, serve_predecessor};

/// Longest wait for a step of the other side. The old agent's sessions stand still while the journal is read.
const STEP: Duration = Duration::from_secs(10);

/// More than the old agent was promised, before the kernel takes its exemption away.
const GRACE: Duration = Duration::from_secs(15);

/// Longest line of the conversation.
const LINE_MAX: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Serving,
    /// Another agent is taking over, and may fail.
    Moving,
    /// It has.
    Draining,
}

/// Where a running agent is on the way to being replaced.
pub(super) struct Takeover {
    phase: Mutex<Phase>,
    /// The successor's process, once it serves.
    successor: Mutex<Option<OwnedFd>>,
    pub(super) handed_over: tokio::sync::Notify,
    /// The program this process was started from, which may have been replaced since.
    program: PathBuf,
}

impl Takeover {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            phase: Mutex::new(Phase::Serving),
            successor: Mutex::new(None),
            handed_over: tokio::sync::Notify::new(),
            program: std::env::current_exe().context("cannot tell what program this is")?,
        })
    }

    pub(super) fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the agent that took over is gone, and nothing can be recorded any more.
    pub(super) fn successor_is_gone(&self) -> bool {
        let successor = self.successor.lock().unwrap_or_else(PoisonError::into_inner);
        successor.as_ref().is_some_and(|pidfd| ended_within(pidfd, Duration::ZERO))
    }

    fn enter(&self, from: Phase, to: Phase) -> bool {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = *phase == from;
        if ours {
            *phase = to;
        }
        ours
    }
}

/// Handles a request to be replaced, on a thread of its own.
pub(super) fn begin(agent: &Arc<Agent>, successor: Successor) {
    let agent = Arc::clone(agent);
    let thread = std::thread::Builder::new().name("takeover".to_owned()).spawn(move || {
        let pid = successor.pid;
        if let Err(error) = hand_over(&agent, successor) {
            let error = format!("{error:#}");
            error!(pid, error, "not replaced; this agent goes on");
            let event = Event::Control {
                by: format!("pid {pid}"),
                action: format!("refused or failed to take over: {error}"),
            };
            if let Err(error) = agent.shared.journal.append(&[event]) {
                warn!(%error, "that could not be recorded");
            }
        }
    });
    if let Err(error) = thread {
        error!(%error, "cannot start a thread to be replaced by");
    }
}

fn hand_over(agent: &Agent, successor: Successor) -> Result<()> {
    let Successor { mut stream, pid, version, layout } = successor;
    stream.set_read_timeout(Some(STEP))?;
    stream.set_write_timeout(Some(STEP))?;
    if let Err(why) = acceptable(agent, layout) {
        say(&mut stream, &Response::Refused { why: format!("{why:#}") })?;
        return Err(why);
    }
    let process = Pid::from_raw(pid).context("no process id")?;
    let process = pidfd_open(process, PidfdFlags::empty()).context("cannot hold on to the new agent")?;
    let drain_s = agent.shared.world().config.limits.drain.as_secs();
    say(&mut stream, &Response::Offer { pid: std::process::id(), drain_s })?;
    // It answers after we hold its process: the number was not another's.
    ensure!(hear(&mut stream)? == "begin", "the new agent changed its mind");
    ensure!(agent.takeover.enter(Phase::Serving, Phase::Moving), "another one is taking over");
    info!(pid, version, "handing over");

    let grants = agent.shared.gate.grants();
    let event = Event::HandOver { pid: std::process::id(), successor: pid.unsigned_abs(), version };
    let moved = agent.shared.journal.append(&[event]).and_then(|_| {
        agent.shared.journal.hand_over(|| {
            let taken = await_serving(agent, &mut stream, pid);
            if taken.is_err() {
                end(&process);
                grants
                    .reclaim()
                    .unwrap_or_else(|error| alive::fatal(&format!("the grants are lost: {error}")));
            }
            taken.map(|()| stream)
        })
    });
    match moved {
        Ok(Ok(())) => {
            *agent.takeover.successor.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
            agent.intercept().let_go();
            agent.takeover.handed_over.notify_one();
            Ok(())
        }
        Ok(Err(error)) => {
            if let Err(error) = agent.intercept().reassert() {
                alive::fatal(&format!("this agent's programs cannot be put in force again: {error}"));
            }
            if let Some(namespaces) = &*agent.namespaces() {
                namespaces.resume();
            }
            agent.takeover.enter(Phase::Moving, Phase::Serving);
            Err(error)
        }
        // Nothing can be recorded any more, here or there.
        Err(error) => alive::fatal(&format!("the journal is lost to this agent: {error}")),
    }
}

fn acceptable(agent: &Agent, layout: u32) -> Result<()> {
    ensure!(
        layout == LAYOUT,
        "the kernel maps of the new version have layout {layout}, those in force {LAYOUT}: it cannot take over. Stop this \
         agent, run `chaperone detach` and start the new version; nothing is intercepted in between"
    );
    match agent.takeover.phase() {
        Phase::Serving => {}
        Phase::Moving => bail!("another agent is taking over"),
        Phase::Draining => bail!("this agent was replaced already"),
    }
    let run_dir = &agent.shared.world().config.run_dir;
    if let Ok(Some(Response::Status(status))) = control::call_draining(run_dir, &Request::Status) {
        bail!("the agent before this one (pid {}) still has {} sessions to end", status.pid, status.sessions);
    }
    Ok(())
}

/// From the moment the journal is free to the moment the new agent serves.
fn await_serving(agent: &Agent, stream: &mut UnixStream, pid: i32) -> Result<()> {
    agent.shared.gate.grants().release()?;
    writeln!(stream, "yours")?;
    ensure!(hear(stream)? == "serving", "the new agent gave up");
    // From here on there is no way back: both would serve.
    agent.takeover.enter(Phase::Moving, Phase::Draining);
    systemd::notify(&format!("MAINPID={pid}"));
    let run_dir = &agent.shared.world().config.run_dir;
    if let Err(error) = std::fs::rename(run_dir.join(control::SOCKET), run_dir.join(control::DRAINING)) {
        warn!(%error, "the control socket could not be moved aside: what is held here cannot be approved");
    }
    if let Err(error) = writeln!(stream, "draining") {
        warn!(%error, "the new agent does not listen");
    }
    Ok(())
}

/// Sees to it that a new agent that failed is gone: it may have the journal open.
fn end(process: &OwnedFd) {
    if ended_within(process, Duration::from_secs(1)) {
        return;
    }
    warn!("the new agent failed to take over and lives on: killing it");
    if let Err(error) = pidfd_send_signal(process, Signal::KILL) {
        warn!(%error, "cannot kill it");
    }
    ended_within(process, Duration::from_secs(5));
}

fn ended_within(process: &OwnedFd, limit: Duration) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    let limit = Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(0),
        tv_nsec: limit.subsec_nanos().into(),
    };
    poll(&mut polled, Some(&limit)).is_ok_and(|ready| ready > 0)
}

/// Starts the program again, as it is now on disk; it asks to take over like any other.
pub(super) fn upgrade(agent: &Agent) -> Result<String, String> {
    let program = &agent.takeover.program;
    let mut child = Command::new(program)
        .arg("--config")
        .arg(&agent.config_path)
        .arg("run")
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
    let pid = child.id();
    let waiter = std::thread::Builder::new().name("upgrade".to_owned()).spawn(move || match child.wait() {
        Ok(status) if status.success() => {}
        Ok(status) => error!(pid, %status, "the new agent ended"),
        Err(error) => error!(pid, %error, "the new agent cannot be waited for"),
    });
    match waiter {
        Ok(_) => Ok(pid.to_string()),
        Err(error) => Err(format!("cannot watch the new agent: {error}")),
    }
}

/// A running agent that will let itself be replaced.
pub(super) struct Predecessor {
    stream: UnixStream,
    pub(super) pid: u32,
    drain: Duration,
}

impl Predecessor {
    /// The agent whose control socket is in `run_dir`; `None` when nobody answers there.
    pub(super) fn find(run_dir: &Path) -> Result<Option<Self>> {
        let path = run_dir.join(control::SOCKET);
        let Ok(mut stream) = UnixStream::connect(&path) else { return Ok(None) };
        stream.set_read_timeout(Some(STEP))?;
        stream.set_write_timeout(Some(STEP))?;
        say(
            &mut stream,
            &Request::TakeOver { version: env!("CARGO_PKG_VERSION").to_owned(), layout: LAYOUT },
        )?;
        let answer = hear(&mut stream).context("the running agent does not answer; it is not replaced")?;
        match serde_json::from_str(&answer)? {
            Response::Offer { pid, drain_s } => {
                Ok(Some(Self { stream, pid, drain: Duration::from_secs(drain_s) }))
            }
            Response::Refused { why } => bail!("the running agent goes on: {why}"),
            _ => bail!("the running agent answered something else than was asked; stop it first"),
        }
    }

    /// After this the journal is free, and the other agent's sessions stand still.
    pub(super) fn begin(&mut self) -> Result<()> {
        writeln!(self.stream, "begin")?;
        ensure!(hear(&mut self.stream)? == "yours", "the running agent keeps the journal");
        Ok(())
    }

    pub(super) fn draining(&self) -> Draining {
        Draining { tgid: self.pid, limit: self.drain + GRACE }
    }

    /// Says that connections are served here now, and records what the other agent's sessions still do.
    pub(super) fn serving(mut self, agent: &Arc<Agent>) -> Result<()> {
        writeln!(self.stream, "serving")?;
        ensure!(hear(&mut self.stream)? == "draining", "the running agent did not let go");
        self.stream.set_read_timeout(None)?;
        let agent = Arc::clone(agent);
        std::thread::Builder::new()
            .name("predecessor".to_owned())
            .spawn(move || self.outlive(&agent))
            .context("cannot start a thread for the records of the agent before")?;
        Ok(())
    }

    fn outlive(self, agent: &Agent) {
        let journal: &Journal = &agent.shared.journal;
        match serve_predecessor(journal, self.stream) {
            Ok(()) => info!(pid = self.pid, "the agent before this one is gone"),
            Err(error) => warn!(pid = self.pid, %error, "the agent before this one was lost"),
        }
        if let Err(error) = agent.intercept().drained() {
            error!(%error, "cannot take the exemption back; it ends by itself");
        }
        // It removes its socket itself, unless it was killed.
        let _ = std::fs::remove_file(agent.shared.world().config.run_dir.join(control::DRAINING));
    }
}

fn say(stream: &mut UnixStream, message: &impl serde::Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(stream.write_all(&line)?)
}

/// One line, and not a byte more: what follows may be for somebody else.
fn hear(stream: &mut UnixStream) -> Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < LINE_MAX {
        ensure!(
            stream.read(&mut byte).context("waiting for the other agent")? == 1,
            "the other agent hung up"
        );
        if byte == [b'\n'] {
            return Ok(String::from_utf8(line)?);
        }
        line.extend(byte);
    }
    bail!("the other agent talks too much")
}
