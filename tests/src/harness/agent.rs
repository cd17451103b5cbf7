//! The agent under test: its folders, its process in a cgroup of its own, and its commands.
//!
//! Links stay pinned when the agent dies, which is the point of them; so the last act is `chaperone detach`, and
//! the pins live on a bpffs mount of the test's own that goes with the test whatever happened before.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;

use super::cgroup::Cgroup;
use super::scratch::Scratch;
use super::spawn::{Output, Program, Running, wait_for};

pub(crate) struct Agent {
    binary: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) policy: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) bpffs: PathBuf,
    log: PathBuf,
    /// The network namespace that is the agent's host's; none = the machine's.
    pub(crate) netns: Option<PathBuf>,
    /// Further variables of its environment.
    pub(crate) env: Vec<(&'static str, String)>,
    process: Option<Running>,
    started: bool,
}

impl Agent {
    /// Makes the folders; the caller writes `config` and `policy`.
    pub(crate) fn prepare(scratch: &Scratch) -> Result<Self> {
        let bpffs = scratch.folder("bpffs", 0o700)?;
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>)
            .context("mounting a bpffs: is this root, with the right to mount?")?;
        let run = scratch.folder("run", 0o755)?;
        // As on a host, where /run is memory.
        mount(Some("run"), &run, Some("tmpfs"), MsFlags::empty(), Some("mode=755,size=16m"))
            .context("mounting the run directory")?;
        let etc = scratch.folder("etc", 0o755)?;
        Ok(Self {
            binary: binary()?,
            config: etc.join("chaperone.toml"),
            policy: scratch.folder("etc/policy", 0o755)?,
            state: scratch.folder("state", 0o700)?,
            run,
            bpffs,
            log: scratch.path().join("agent.log"),
            netns: None,
            env: Vec::new(),
            process: None,
            started: false,
        })
    }

    /// Starts `chaperone run` in its cgroup and waits until it answers.
    pub(crate) fn start(&mut self, cgroup: &Cgroup) -> Result<()> {
        self.launch(cgroup)?;
        wait_for("the agent being ready", Duration::from_secs(30), || {
            let process = self.process.as_mut().context("the agent is not started")?;
            ensure!(!process.exited()?, "the agent ended at once");
            Ok((self.command(&["status"])?.code == Some(0)).then_some(()))
        })
        .with_context(|| format!("log of the agent:\n{}", self.log_tail()))
    }

    /// Starts a second `chaperone run` beside the running one and waits until it has taken over; gives the old one.
    pub(crate) fn succeed(&mut self, cgroup: &Cgroup) -> Result<Option<Running>> {
        let old = self.process.take();
        self.launch(cgroup)?;
        let pid = self.pid()?;
        wait_for("the new agent having taken over", Duration::from_secs(30), || {
            let process = self.process.as_mut().context("the agent is not started")?;
            ensure!(!process.exited()?, "the new agent ended");
            Ok((self.status()?.is_some_and(|status| status["pid"] == pid)).then_some(()))
        })
        .with_context(|| format!("log of the agents:\n{}", self.log_tail()))?;
        Ok(old)
    }

    /// Starts a second `chaperone run` without waiting; the running one stays the agent.
    pub(crate) fn launch_beside(&mut self, cgroup: &Cgroup) -> Result<Running> {
        let old = self.process.take();
        let launched = self.launch(cgroup);
        let new = std::mem::replace(&mut self.process, old);
        launched?;
        new.context("the second agent is not started")
    }

    /// What `chaperone status --json` says; `None` when nobody answers.
    pub(crate) fn status(&self) -> Result<Option<serde_json::Value>> {
        let output = self.command(&["status", "--json"])?;
        if output.code != Some(0) {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&output.stdout).with_context(|| format!("{output}"))?))
    }

    /// One of the numbers in its status.
    pub(crate) fn counter(&self, name: &str) -> Result<u64> {
        let status = self.status()?.context("no agent answers")?;
        find(&status, name).with_context(|| format!("no {name} in {status}"))
    }

    /// Forgets the agent's process, which ends by itself, and gives it.
    pub(crate) fn part(&mut self) -> Option<Running> {
        self.process.take()
    }

    /// A process started beside has become the agent; the old one ends by itself.
    pub(crate) fn adopt(&mut self, process: Running) -> Option<Running> {
        self.process.replace(process)
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.process.as_ref().context("the agent is not running")?.signal(signal)
    }

    /// From now on the program is a copy in the scratch folder, which a test may replace or remove.
    pub(crate) fn use_copy(&mut self, scratch: &Scratch) -> Result<PathBuf> {
        let copy = scratch.path().join("chaperone");
        if self.binary != copy {
            fs::copy(&self.binary, &copy)?;
            self.binary.clone_from(&copy);
        }
        Ok(copy)
    }

    /// From now on the program is another one; gives the one before.
    pub(crate) fn use_program(&mut self, program: PathBuf) -> PathBuf {
        std::mem::replace(&mut self.binary, program)
    }

    /// Starts `chaperone run` without waiting, for a configuration that should be refused.
    pub(crate) fn launch(&mut self, cgroup: &Cgroup) -> Result<()> {
        let mut process = Program::new(&self.binary)
            .args(["--config".as_ref(), self.config.as_os_str(), "run".as_ref()])
            .env("RUST_BACKTRACE", "1")
            .env("RUST_LOG", std::env::var("CHAPERONE_E2E_LOG").unwrap_or_else(|_| "info".into()))
            .log(&self.log)?
            .inside(cgroup)?;
        for (name, value) in &self.env {
            process = process.env(name, value);
        }
        if let Some(netns) = &self.netns {
            process = process.netns(netns)?;
        }
        self.process = Some(process.start()?);
        self.started = true;
        Ok(())
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("the agent is not running")?.pid())
    }

    /// Whether it was ever started.
    pub(crate) fn has_run(&self) -> bool {
        self.started
    }

    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// SIGTERM, and an end with status 0.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let process = self.process.take().context("the agent is not running")?;
        process.signal(Signal::SIGTERM)?;
        process.finish(Duration::from_secs(20))?.ok().with_context(|| self.log_tail())?;
        Ok(())
    }

    /// SIGHUP: read configuration and policy again.
    pub(crate) fn reload(&self) -> Result<()> {
        self.process.as_ref().context("the agent is not running")?.signal(Signal::SIGHUP)
    }

    /// Waits for the running agent to end by itself.
    pub(crate) fn wait_end(&mut self, limit: Duration) -> Result<Output> {
        self.process.take().context("the agent is not running")?.finish(limit)
    }

    /// `chaperone <args>`, as an operator outside every governed cgroup runs it.
    pub(crate) fn command(&self, args: &[&str]) -> Result<Output> {
        self.program(args).limit(20).run()
    }

    /// The same, not yet run.
    pub(crate) fn program(&self, args: &[&str]) -> Program {
        Program::new(&self.binary).args(["--config".as_ref(), self.config.as_os_str()]).args(args)
    }

    /// `chaperone <args>` on the agent's host, where that is not the machine's own network namespace.
    pub(crate) fn command_on_host(&self, args: &[&str]) -> Result<Output> {
        let program = self.program(args).limit(20);
        match &self.netns {
            Some(netns) => program.netns(netns)?.run(),
            None => program.run(),
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(25)).copied().collect::<Vec<_>>().join("\n")
    }

    /// The log written since `mark`, which is an earlier length of it.
    pub(crate) fn log_since(&self, mark: usize) -> String {
        self.log().get(mark..).unwrap_or_default().to_owned()
    }

    /// A copy of the journal, for touching.
    pub(crate) fn copy_journal(&self, scratch: &Scratch) -> Result<PathBuf> {
        let to = scratch.path().join("copy");
        // None yet, the first time.
        let _ = fs::remove_dir_all(&to);
        fs::create_dir(&to)?;
        for entry in fs::read_dir(self.journal())? {
            let entry = entry?;
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
        Ok(to)
    }

    /// `chaperone verify` of a copy, with the key this host's journal is signed with.
    pub(crate) fn verify_copy(&self, copy: &Path) -> Result<Output> {
        let key = self.state.join("journal-key.pub");
        self.program(&["verify"])
            .args(["--dir".as_ref(), copy, "--key".as_ref(), key.as_path()])
            .limit(20)
            .run()
    }

    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    /// What the client of a session was served, as the record has it, into a file.
    pub(crate) fn served(&self, session: &str, file: &Path) -> Result<()> {
        self.served_from(&self.journal(), session, file)
    }

    /// The same of another journal than the agent's.
    pub(crate) fn served_from(&self, journal: &Path, session: &str, file: &Path) -> Result<()> {
        let command = "exec \"$0\" --config \"$1\" replay \"$2\" --served --dir \"$4\" >\"$3\"";
        let words = [
            self.binary.as_os_str(),
            self.config.as_os_str(),
            session.as_ref(),
            file.as_os_str(),
            journal.as_os_str(),
        ];
        let program = Program::new("/bin/sh").args(["-c", command]).args(words);
        program.limit(20).run()?.ok().map(drop)
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.state.join("journal")
    }

    /// The same, for who reads its files: with everything in them that is recorded, as every command has it that reads.
    pub(crate) fn written_journal(&self) -> Result<PathBuf> {
        self.command(&["sessions", "--json"])?;
        Ok(self.journal())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(process) = &self.process {
            // Time to write its last record; then the kernel gets no choice.
            let _ = process.signal(Signal::SIGTERM);
        }
        if let Some(process) = self.process.take() {
            let _ = process.finish(Duration::from_secs(5));
        }
        if self.started {
            let _ = self.command_on_host(&["detach"]);
        }
        let _ = umount2(&self.bpffs, MntFlags::MNT_DETACH);
    }
}

/// A number anywhere in a JSON value, as a member or as a pair of name and value.
fn find(value: &serde_json::Value, name: &str) -> Option<u64> {
    use serde_json::Value;
    match value {
        Value::Object(members) => members
            .iter()
            .find_map(|(key, member)| if key == name { member.as_u64() } else { find(member, name) }),
        Value::Array(items) => match items.as_slice() {
            [Value::String(key), number] if key == name => number.as_u64(),
            _ => items.iter().find_map(|item| find(item, name)),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// The agent that `cargo xtask` built, or the one beside this binary.
fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CHAPERONE_BIN") {
        return Ok(path.into());
    }
    let here = std::env::current_exe()?;
    let beside = here.parent().unwrap_or(Path::new("/")).join("chaperone");
    if !beside.exists() {
        bail!("no agent at {}: use `cargo xtask e2e`, which builds it", beside.display());
    }
    Ok(beside)
}
