//! systemd, by what it publishes: it marks the cgroup of each unit it starts with the unit's invocation id
//! (`trusted.invocation_id`), and keeps the same id under the unit's name in /run/systemd/units (systemd.exec(5)).
//!
//! Only a process with CAP_SYS_ADMIN on the host can set the mark, so a delegated user, a container or a service that
//! makes a cgroup with a unit's name cannot. No bus is needed, and nobody who answers late.

use std::path::{Path, PathBuf};

use super::{Answer, Authority, Claim, Doubt};
use crate::workload::grammar::Kind;

const NAME: &str = "systemd";
const MARK: &str = "trusted.invocation_id";

/// Hexadecimal digits of an invocation id.
const DIGITS: usize = 32;

pub(super) struct Systemd {
    units: PathBuf,
    cgroup2: PathBuf,
}

impl Systemd {
    pub(super) fn new(units: &Path, cgroup2: &Path) -> Self {
        Self { units: units.to_owned(), cgroup2: cgroup2.to_owned() }
    }

    /// Small files of the kernel's and of a tmpfs: read in place.
    fn look(&self, claim: &Claim) -> Result<(), Doubt> {
        let root = unit_root(claim);
        let unit = root.rsplit('/').next().unwrap_or_default();
        let failed = |what: &str, error: &dyn std::fmt::Display| Doubt::Otherwise {
            authority: NAME,
            why: format!("{what} of {unit} cannot be read: {error}"),
        };
        let link = self.units.join(format!("invocation:{unit}"));
        let invocation = std::fs::read_link(&link).map_err(|error| failed("the invocation", &error))?;
        let invocation = invocation.to_string_lossy();
        let cgroup = self.cgroup2.join(root.trim_start_matches('/'));
        let mut mark = [0; DIGITS];
        let length =
            rustix::fs::getxattr(&cgroup, MARK, &mut mark).map_err(|error| failed("the mark", &error))?;
        if length == DIGITS && invocation.len() == DIGITS && mark == invocation.as_bytes() {
            return Ok(());
        }
        Err(Doubt::Otherwise {
            authority: NAME,
            why: format!("{root} is not the cgroup of {unit} as it runs now"),
        })
    }
}

impl Authority for Systemd {
    fn name(&self) -> &'static str {
        NAME
    }

    fn confirm<'a>(&'a self, claim: &'a Claim) -> Answer<'a> {
        Box::pin(async { self.look(claim).map(|()| None) })
    }
}

/// Units of a user's own manager are the user's word; that the manager is this user's is systemd's.
fn unit_root(claim: &Claim) -> String {
    if claim.placement.kind != Kind::SystemdUser {
        return claim.root.clone();
    }
    claim.root.split('/').skip(1).take(3).flat_map(|part| ["/", part]).collect()
}
