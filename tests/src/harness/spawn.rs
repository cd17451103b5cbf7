//! Starts programs: with a clean environment, in a cgroup, as a user, with a time limit, in a session of their own.
//!
//! A program never outlives its `Running`, nor this process: the kernel kills it when the thread that started it
//! dies, so daemons are started from the main thread.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, killpg, sigaction};
use nix::unistd::{Gid, Pid, Uid, User, setgid, setgroups, setsid, setuid};

use super::cgroup::Cgroup;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Turns Ctrl-C and SIGTERM into an error at the next wait, so that everything is cleaned up on the way out.
pub(crate) fn catch_interrupts() -> Result<()> {
    extern "C" fn note(_: i32) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { sigaction(signal, &action) }.context("installing a signal handler")?;
    }
    Ok(())
}

/// An error once somebody has asked us to stop.
pub(crate) fn check_interrupted() -> Result<()> {
    ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}

/// How many times slower than usual this machine is (`CHAPERONE_E2E_SLOWNESS`): an emulated one is.
pub(crate) fn slowness() -> u32 {
    static SLOWNESS: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *SLOWNESS.get_or_init(|| {
        let said = std::env::var("CHAPERONE_E2E_SLOWNESS").ok();
        said.and_then(|said| said.parse().ok()).unwrap_or(1).max(1)
    })
}

/// Waits until `done` gives a value, looking every few milliseconds.
pub(crate) fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut done: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    let limit = limit * slowness();
    loop {
        if let Some(value) = done()? {
            return Ok(value);
        }
        check_interrupted()?;
        if started.elapsed() > limit {
            bail!("{what} did not happen within {:.0} s", limit.as_secs_f64());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A program about to be started. Its environment holds only what a login shell would set.
pub(crate) struct Program {
    name: String,
    command: Command,
    limit: Duration,
    stdin: Vec<u8>,
    cgroup: Option<File>,
    netns: Option<File>,
    user: Option<(Uid, Gid)>,
    log: Option<File>,
    count: bool,
}

impl Program {
    pub(crate) fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let mut command = Command::new(path);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/nonexistent")
            .env("LANG", "C.UTF-8")
            .current_dir("/");
        Self {
            name: path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            command,
            limit: Duration::from_secs(60),
            stdin: Vec::new(),
            cgroup: None,
            netns: None,
            user: None,
            log: None,
            count: false,
        }
    }

    pub(crate) fn args<S: AsRef<std::ffi::OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn stdin(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.stdin = text.into();
        self
    }

    pub(crate) fn limit(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// Joins the cgroup before the program's first instruction.
    pub(crate) fn inside(mut self, cgroup: &Cgroup) -> Result<Self> {
        cgroup.admit()?;
        let path = cgroup.path().join("cgroup.procs");
        let file = OpenOptions::new().write(true).open(&path);
        self.cgroup = Some(file.with_context(|| format!("opening {}", path.display()))?);
        Ok(self)
    }

    /// Runs in the network namespace of that name.
    pub(crate) fn netns(mut self, path: &Path) -> Result<Self> {
        self.netns = Some(File::open(path).with_context(|| format!("opening {}", path.display()))?);
        Ok(self)
    }

    pub(crate) fn user(mut self, name: &str) -> Result<Self> {
        let user = User::from_name(name)?.with_context(|| format!("no user {name} on this machine"))?;
        self.user = Some((user.uid, user.gid));
        Ok(self)
    }

    /// Appends both output streams to a file instead of keeping them.
    pub(crate) fn log(mut self, path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        self.log = Some(file.with_context(|| format!("opening {}", path.display()))?);
        Ok(self)
    }

    /// Counts the bytes of the output instead of keeping them.
    pub(crate) fn count_output(mut self) -> Self {
        self.count = true;
        self
    }

    /// Runs to the end, whatever the exit status.
    pub(crate) fn run(self) -> Result<Output> {
        let limit = self.limit;
        self.start()?.finish(limit)
    }

    pub(crate) fn start(mut self) -> Result<Running> {
        let (out, err) = match &self.log {
            Some(log) => (log.try_clone()?.into(), log.try_clone()?.into()),
            None => (Stdio::piped(), Stdio::piped()),
        };
        self.command.stdin(Stdio::piped()).stdout(out).stderr(err);
        let (cgroup, netns, user) = (self.cgroup.take(), self.netns.take(), self.user);
        let prepare = move || {
            if let Some(procs) = &cgroup {
                nix::unistd::write(procs, b"0")?;
            }
            if let Some(netns) = &netns {
                setns(netns, CloneFlags::CLONE_NEWNET)?;
            }
            if let Some((uid, gid)) = user {
                setgroups(&[gid])?;
                setgid(gid)?;
                setuid(uid)?;
            }
            setsid()?;
            // After setuid, which clears it.
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            Ok(())
        };
        // SAFETY: between fork and exec only system calls on values made before the fork; nothing allocates.
        unsafe { self.command.pre_exec(prepare) };
        let mut child = self.command.spawn().with_context(|| format!("starting {}", self.name))?;
        let mut stdin = child.stdin.take();
        let text = std::mem::take(&mut self.stdin);
        // A thread, because a program that writes before it reads would block us; it ends with the pipe.
        std::thread::spawn(move || stdin.as_mut().map(|pipe| pipe.write_all(&text)));
        Ok(Running {
            name: self.name,
            stdout: child.stdout.take().map(if self.count { count } else { collect }),
            stderr: child.stderr.take().map(collect),
            child,
            status: None,
            started: Instant::now(),
        })
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A pipe that breaks has given what it had.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// Reads all and keeps the number of bytes, in digits.
fn count(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 18];
        let mut sum = 0;
        while let Ok(read @ 1..) = pipe.read(&mut buffer) {
            sum += read;
        }
        sum.to_string().into_bytes()
    })
}

/// A started program; dropping it kills its whole process group.
pub(crate) struct Running {
    name: String,
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    status: Option<ExitStatus>,
    started: Instant,
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn exited(&mut self) -> Result<bool> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status.is_some())
    }

    /// To the process itself, not to its children.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id())?;
        nix::sys::signal::kill(Pid::from_raw(pid), signal)
            .with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// Waits for the end and gives what was printed; past the limit the program is killed and that is an error.
    pub(crate) fn finish(mut self, limit: Duration) -> Result<Output> {
        let name = self.name.clone();
        let waited = wait_for(&format!("the end of {name}"), limit, || Ok(self.exited()?.then_some(())));
        if waited.is_err() {
            self.kill();
        }
        let seconds = self.started.elapsed().as_secs_f64();
        let output = Output {
            code: self.status.and_then(|status| status.code()),
            signal: self.status.and_then(|status| status.signal()),
            stdout: text(self.stdout.take()),
            stderr: text(self.stderr.take()),
            seconds,
        };
        waited.with_context(|| format!("{output}"))?;
        Ok(output)
    }

    pub(crate) fn kill(&mut self) {
        if self.status.is_some() {
            return;
        }
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It may have ended by itself a moment ago.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.child.kill();
        self.status = self.child.wait().ok();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

fn text(thread: Option<JoinHandle<Vec<u8>>>) -> String {
    let bytes = thread.and_then(|thread| thread.join().ok()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How a program ended and what it printed.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) seconds: f64,
}

impl Output {
    /// The output of a program that must have succeeded.
    pub(crate) fn ok(self) -> Result<String> {
        ensure!(self.code == Some(0), "{self}");
        Ok(self.stdout)
    }

    /// The number of bytes that a program with counted output printed.
    pub(crate) fn counted(self) -> Result<u64> {
        Ok(self.ok()?.parse()?)
    }

    /// The error text of a program that must have failed by itself.
    pub(crate) fn refused(self) -> Result<String> {
        ensure!(self.code.is_some_and(|code| code != 0), "success where a failure was due: {self}");
        Ok(self.stderr)
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit status {code}")?,
            (None, Some(signal)) => write!(f, "killed by signal {signal}")?,
            (None, None) => write!(f, "no exit status")?,
        }
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            let text = text.trim_end();
            let shown: String = text.chars().take(1500).collect();
            write!(f, "; {name}: {shown}{}", if shown.len() < text.len() { " ..." } else { "" })?;
        }
        Ok(())
    }
}
