//! Who is at the other end of the control socket, as the kernel says, and whether such a one may ask.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{getsockopt, sockopt};
use procfs::process::Process;
use tokio::net::UnixStream;

/// Which cgroups may ask. Paths are below the cgroup2 mount.
pub struct Callers {
    pub governed: String,
    /// True for a cgroup that is exempt. Asked each time: a reload can take that away.
    pub bypassed: Box<dyn Fn(&str) -> bool + Send + Sync>,
    pub operators: Vec<String>,
    /// The agent's own, in which its successor is.
    pub own: String,
    /// True for a cgroup that belongs to an identity.
    pub identified: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

impl Callers {
    /// What is governed may not ask. Where the whole host is governed, somebody has to: the cgroups that the
    /// configuration names for operators, and never those of an identity.
    #[must_use]
    pub fn allows(&self, cgroup: &str) -> bool {
        let any = |roots: &[String]| roots.iter().any(|root| below(cgroup, root));
        let outside = !below(cgroup, &self.governed) || (self.bypassed)(cgroup);
        let operator = self.governed == "/" && (cgroup == "/" || any(&self.operators));
        (outside || operator) && !(self.identified)(cgroup)
    }
}

/// Whether a cgroup is another or in it.
#[must_use]
pub fn below(path: &str, root: &str) -> bool {
    root == "/" || path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Who calls, as the kernel says.
pub(super) struct Caller {
    pub(super) uid: u32,
    pub(super) pid: i32,
    pub(super) cgroup: String,
    pub(super) exe: String,
}

impl Caller {
    /// Names the process that connected. Its pid may be another's by now, so where the kernel offers a handle of it
    /// (SO_PEERPIDFD, Linux 6.5), the process has to be alive still after everything about it was read.
    pub(super) fn of(stream: &UnixStream) -> Result<Self, String> {
        let credentials = stream.peer_cred().map_err(|error| format!("cannot tell who calls: {error}"))?;
        let pid = credentials.pid().ok_or("cannot tell which process calls")?;
        let handle = getsockopt(&stream.as_fd(), sockopt::PeerPidfd).ok();
        let process = Process::new(pid).map_err(|error| format!("the calling process is gone: {error}"))?;
        let cgroups =
            process.cgroups().map_err(|error| format!("cannot read the caller's cgroup: {error}"))?;
        let cgroup = cgroups
            .into_iter()
            .find(|group| group.hierarchy == 0)
            .map(|group| group.pathname)
            .ok_or("the caller has no cgroup in the unified hierarchy")?;
        // What is left of a process whose cgroup was removed: its path is no cgroup's any more, so it is below none.
        if cgroup.ends_with(" (deleted)") {
            return Err("the caller's cgroup was removed".into());
        }
        let exe = process.exe().map_or_else(|_| "?".to_owned(), |path| path.display().to_string());
        if let Some(handle) = handle
            && pid_of(&handle) != Some(pid)
        {
            return Err("the calling process is gone".into());
        }
        Ok(Self { uid: credentials.uid(), pid, cgroup, exe })
    }

    pub(super) fn describe(&self) -> String {
        format!("uid {} pid {} exe {} cgroup {}", self.uid, self.pid, self.exe, self.cgroup)
    }
}

/// The pid a handle stands for while its process lives (proc_pid_fdinfo(5)); -1 afterwards.
fn pid_of(handle: &OwnedFd) -> Option<i32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", handle.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_governed_may_not_approve() {
        let check = |governed: &str, cgroup: &str, expect: bool| {
            let callers = Callers {
                governed: governed.into(),
                bypassed: Box::new(|cgroup| below(cgroup, "/agents/bypassed")),
                operators: vec!["/user.slice".into()],
                own: "/chaperone.slice/chaperone.service".into(),
                identified: Box::new(|cgroup| {
                    below(cgroup, "/agents/bot") || below(cgroup, "/user.slice/ai")
                }),
            };
            assert_eq!(callers.allows(cgroup), expect, "{cgroup} where {governed} is governed");
        };
        check("/agents", "/user.slice/me", true);
        check("/agents", "/", true);
        check("/agents", "/agents/bot", false);
        check("/agents", "/agents/unknown", false);
        check("/agents", "/agents/bypassed/x", true);
        check("/", "/user.slice/me", true);
        check("/", "/", true);
        check("/", "/user.slice/ai/tool", false);
        check("/", "/system.slice/docker-0.scope", false);
        check("/", "/agents/bypassed", true);
    }

    #[tokio::test]
    async fn a_caller_that_is_gone_is_nobody() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert_eq!(Caller::of(&ours).unwrap().pid, i32::try_from(std::process::id()).unwrap());
        drop((ours, theirs));

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let program = format!("import socket; s=socket.socket(socket.AF_UNIX); s.connect({path:?})");
        let mut child = std::process::Command::new("python3").args(["-c", &program]).spawn().unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        child.wait().unwrap();
        assert!(Caller::of(&stream).is_err());
    }
}
