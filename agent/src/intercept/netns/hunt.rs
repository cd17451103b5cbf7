//! What the thread looks after besides serving: connections to targets that did not come through the agent, and the links
//! of its lookup programs.

use std::{
    collections::HashSet,
    io,
    time::{Duration, Instant},
};

use super::{
    Notice, OldConnection,
    census::{self, Census},
    destroy::Hunt,
    serve, sys,
    worker::{Halt, Parts, Worker},
};

/// How often every governed process is looked at, and not only those that came since. A socket that was made in a cgroup
/// which is not governed meets no program of ours, wherever its owner is by the time it connects: this long it may last.
const EVERYBODY_EVERY: Duration = Duration::from_secs(10);

impl Worker {
    /// Ends old connections in the host's namespace and in all that are served.
    pub(super) fn hunt_everywhere(&mut self) -> Result<(), Halt> {
        let census = census::take(&self.parts.governed);
        for inode in self.all_inodes() {
            self.hunt_in(inode, |hunt| hunt.made_by_the_governed(), &census)?;
        }
        Ok(())
    }

    /// Ends connections to targets that governed processes hold and that somebody else made, or they themselves with a
    /// socket from elsewhere. Of those that came since the last census; now and then of everybody.
    pub(super) fn hunt_holders(&mut self, census: &Census) -> Result<(), Halt> {
        if Instant::now() >= self.everybody_at {
            self.everybody_at = Instant::now() + EVERYBODY_EVERY;
            return self.hunt_held(census, &census.pids, self.all_inodes());
        }
        let newcomers: Vec<u32> =
            census.pids.iter().filter(|pid| !self.known.contains(pid)).copied().collect();
        if newcomers.is_empty() {
            return Ok(());
        }
        // The host's, and those they live in.
        let lived_in = newcomers.iter().filter_map(|pid| census::namespace_of(*pid));
        let inodes: HashSet<u64> = lived_in.chain([self.parts.host]).collect();
        self.hunt_held(census, &newcomers, inodes)
    }

    fn hunt_held(
        &self,
        census: &Census,
        pids: &[u32],
        inodes: impl IntoIterator<Item = u64>,
    ) -> Result<(), Halt> {
        for inode in inodes {
            self.hunt_in(inode, |hunt| hunt.held_by(pids), census)?;
        }
        Ok(())
    }

    fn all_inodes(&self) -> Vec<u64> {
        std::iter::once(self.parts.host).chain(self.served.values().map(|other| other.inode)).collect()
    }

    pub(super) fn hunt_in(
        &self,
        netns_inode: u64,
        hunt: impl FnOnce(&Hunt<'_>) -> io::Result<Vec<OldConnection>>,
        census: &Census,
    ) -> Result<(), Halt> {
        let in_host = netns_inode == self.parts.host;
        let namespace = match self.served.values().find(|other| other.inode == netns_inode) {
            Some(other) => &other.namespace,
            None if in_host => &self.host,
            // Let go of meanwhile.
            None => return Ok(()),
        };
        let Parts { targets, governed, .. } = &self.parts;
        let ended = sys::enter(namespace)
            .and_then(|()| hunt(&Hunt { targets, governed, census, in_host, netns_inode }));
        match ended {
            Ok(ended) if ended.is_empty() => Ok(()),
            Ok(ended) => self.tell(Notice::Destroyed(ended)),
            Err(error) => {
                tracing::warn!(netns_inode, %error, "old connections to targets cannot be ended here; the egress program drops their packets");
                Ok(())
            }
        }
    }

    /// Puts back what root on the host took away in other namespaces: pins, which the links survive because the thread
    /// holds them, and the links themselves.
    pub(super) fn mend(&mut self) -> Result<(), Halt> {
        let mut found = Vec::new();
        let mut detached = Vec::new();
        for (cookie, inhabited) in &self.served {
            let inode = inhabited.inode;
            if !serve::is_in_force(&inhabited.link, &inhabited.namespace, &self.parts.pins, *cookie) {
                found.push(format!("the lookup program of network namespace {inode} was detached"));
                detached.push(*cookie);
                continue;
            }
            match serve::mend(&inhabited.link, &self.parts.pins, *cookie) {
                Ok(true) => {
                    found.push(format!(
                        "the pin of the lookup program of network namespace {inode} was removed"
                    ));
                }
                Ok(false) => {}
                // The agent mends the directory itself, once a second.
                Err(error) => {
                    tracing::debug!(inode, error = %crate::intercept::chain(&error), "a lookup program cannot be pinned");
                    self.census_at = self.census_at.min(Instant::now() + Duration::from_secs(1));
                }
            }
        }
        for cookie in detached {
            // Whoever lives there is found by the census that follows, and served anew.
            self.close(cookie)?;
        }
        if found.is_empty() { Ok(()) } else { self.tell(Notice::Mended(found)) }
    }
}
