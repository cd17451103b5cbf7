//! Network namespaces of a suite's own, joined by virtual cables.
//!
//! Every namespace is named after the suite and this process, so that what a killed run leaves behind is found and
//! taken away by the next one. Nothing here touches the machine's own interfaces, routes or settings.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::spawn::Program;

/// What our namespaces' names begin with; the rest is the suite, the role and the process that made it.
const PREFIX: &str = "chaperone-e2e-";

/// Where `ip netns` keeps the names.
const NAMES: &str = "/run/netns";

/// A network namespace with `lo` up, gone on drop with all that is in it.
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    pub(crate) fn new(suite: &str, role: &str) -> Result<Self> {
        remove_orphans();
        let name = format!("{PREFIX}{suite}-{role}-{}", std::process::id());
        ip(&["netns", "add", &name])?;
        let netns = Self { name };
        // An address that is still being checked for a duplicate answers nobody.
        netns.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        netns.ip(&["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new(NAMES).join(&self.name)
    }

    /// Runs `make` on a thread inside: sockets it returns stay in the namespace.
    pub(crate) fn enter<T: Send>(&self, make: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = self.path();
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
                make()
            });
            inside.join().map_err(|_| anyhow!("panicked inside a network namespace"))?
        })
    }

    /// `ip <args>` inside.
    pub(crate) fn ip(&self, args: &[&str]) -> Result<()> {
        ip(&[&["-n", self.name.as_str()], args].concat())
    }

    /// What `ip <args>` prints inside.
    pub(crate) fn ip_says(&self, args: &[&str]) -> Result<String> {
        Program::new("/usr/sbin/ip").args(["-n", &self.name]).args(args).limit(20).run()?.ok()
    }

    /// The number by which `lsns` and the record know it.
    pub(crate) fn inode(&self) -> Result<u64> {
        Ok(std::fs::metadata(self.path())?.ino())
    }

    /// A setting below /proc/sys, as this namespace has it.
    pub(crate) fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        Program::new("/bin/sh")
            .args(["-c", &format!("echo {value} > {path}")])
            .netns(&self.path())?
            .run()?
            .ok()?;
        Ok(())
    }

    /// A cable to `other`. Each end gets a name, and its addresses with their prefix lengths.
    pub(crate) fn cable(&self, end: (&str, &[&str]), other: &Self, far: (&str, &[&str])) -> Result<()> {
        ip(&[
            "link",
            "add",
            end.0,
            "netns",
            &self.name,
            "type",
            "veth",
            "peer",
            "name",
            far.0,
            "netns",
            &other.name,
        ])?;
        for (netns, (interface, addresses)) in [(self, end), (other, far)] {
            for address in addresses {
                netns.ip(&["addr", "add", address, "dev", interface])?;
            }
            netns.ip(&["link", "set", interface, "up"])?;
        }
        Ok(())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = ip(&["netns", "del", &self.name]);
    }
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Program::new("/usr/sbin/ip").args(args).limit(20).run()?;
    output.ok().with_context(|| format!("ip {}", args.join(" ")))?;
    Ok(())
}

fn remove_orphans() {
    for entry in std::fs::read_dir(NAMES).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.rsplit('-').next()?.parse::<i32>().ok());
        if maker.is_some_and(|pid| kill(Pid::from_raw(pid), None).is_err()) {
            let _ = ip(&["netns", "del", &name]);
        }
    }
}
