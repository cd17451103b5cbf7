//! The guard on the host's side: packets that pods make without a socket of a governed cgroup (AF_PACKET, TUN and
//! forwarding, forged sources) pass no cgroup hook, but they do pass the host. Those from virtual interfaces that go
//! to a target are dropped there, by an nftables table of the agent's own.
//!
//! The agent's connections to targets start on the host and are not forwarded, so the rules need no exception for
//! them. The table is replaced in one transaction, and stays when the agent ends; [`remove`] takes it away. A packet says
//! nothing of the cgroup it came from: pods that are not governed are stopped as well, unless their interface is
//! exempted.
//!
//! Beside what goes to a target's port, packets are dropped that could turn into such: fragments without ports, and source
//! routes; and what a pod packs up for this host to unpack (VXLAN and the like), because whatever comes out of an overlay
//! looks like another host's.
//!
//! A target with a loopback address is a server on this host, which may answer at the host's other addresses as well:
//! from pods its port is closed at all of them.
//!
//! Not seen here: AF_PACKET in the host's own network namespace (which takes CAP_NET_RAW over the host), and devices
//! that bypass the host's stack (macvlan, SR-IOV, Cilium's host routing) or come out of it under another device's name, which
//! may be an uplink's as well (VRF, Open vSwitch, VLANs of a bridge).

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{InterceptError, Target, guard_log::GuardLog, guard_rules::rules};

/// Where Debian, and where others, put it.
const NFT: [&str; 3] = ["/usr/sbin/nft", "/usr/bin/nft", "/sbin/nft"];

/// Whether there is to be a guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GuardMode {
    /// Where nft can do it.
    #[default]
    Auto,
    /// Or the agent does not start.
    Required,
    Off,
}

/// The agent's table.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    mode: GuardMode,
    table: String,
    exempt: Vec<String>,
}

impl Guard {
    pub(super) fn new(mode: GuardMode, bpffs: &Path, exempt: &[String]) -> Self {
        Self { mode, table: table_name(bpffs), exempt: exempt.to_vec() }
    }

    /// Puts the rules for these targets in force, in place of those there are.
    pub(super) fn apply(&self, targets: &[Target]) -> Result<(), InterceptError> {
        let outcome = match self.mode {
            GuardMode::Off => return remove_table("inet", &self.table).or(Ok(())),
            GuardMode::Auto | GuardMode::Required => self.put("inet", targets),
        };
        match outcome {
            Ok(_done) => {}
            Err(error) if self.mode == GuardMode::Auto => {
                tracing::warn!(
                    %error,
                    "no guard on the host's side: AF_PACKET, TUN and forwarding from a pod are not stopped"
                );
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        // Pods and a target on one bridge: what is bridged is not forwarded.
        if let Err(error) = self.put("bridge", targets) {
            tracing::info!(%error, "no guard between the ports of a bridge");
        }
        Ok(())
    }

    /// With a log of what is dropped; on kernels that cannot log in nftables, without.
    fn put(&self, family: &str, targets: &[Target]) -> Result<Vec<u8>, InterceptError> {
        let rules = |log| rules(family, &self.table, &self.exempt, targets, log);
        nft(&rules(Some(self.group()))).or_else(|error| {
            let done = nft(&rules(None))?;
            tracing::warn!(%error, "the guard's drops are counted, not recorded");
            Ok(done)
        })
    }

    /// What the guard drops, for the record.
    pub(super) fn log(&self) -> Option<GuardLog> {
        (self.mode != GuardMode::Off).then(|| GuardLog::new(self.group()))
    }

    /// The group of the log: one per table, so that agents beside each other do not read each other's.
    fn group(&self) -> u16 {
        let digest = Sha256::digest(self.table.as_bytes());
        // Groups in use by others are small numbers.
        digest.first_chunk::<2>().map_or(u16::MAX, |bytes| u16::from_be_bytes(*bytes) | 0x4000)
    }

    /// Packets dropped since the table was made; `None` without one.
    pub(super) fn dropped(&self) -> Option<u64> {
        if self.mode == GuardMode::Off {
            return None;
        }
        let list = json!({"nftables": [{"list": {"counters": {"family": "inet", "table": self.table}}}]});
        let answer: Value = serde_json::from_slice(&nft(&list).ok()?).ok()?;
        answer
            .get("nftables")?
            .as_array()?
            .iter()
            .find_map(|item| item.get("counter")?.get("packets")?.as_u64())
    }
}

/// Whether nftables answers here.
pub(super) fn is_possible() -> bool {
    nft(&json!({"nftables": [{"list": {"tables": null}}]})).is_ok()
}

/// Takes the table of the agent with these pins away. That there is none, or no nft, is no error.
pub(super) fn remove(bpffs: &Path) -> Result<(), InterceptError> {
    if program().is_none() {
        return Ok(());
    }
    let table = table_name(bpffs);
    if let Err(error) = remove_table("bridge", &table) {
        // A kernel without nftables for bridges has no table there.
        tracing::debug!(%error, "no table for bridges to remove");
    }
    remove_table("inet", &table)
}

fn remove_table(family: &str, table: &str) -> Result<(), InterceptError> {
    let table = json!({"table": {"family": family, "name": table}});
    // Adding what is there changes nothing, and what is not there cannot be deleted.
    nft(&json!({"nftables": [{"add": table}, {"delete": table}]})).map(drop)
}

/// One per agent: the usual one's is called as everybody expects, another's after its pins.
fn table_name(bpffs: &Path) -> String {
    if bpffs == Path::new("/sys/fs/bpf/chaperone") {
        return "chaperone".to_owned();
    }
    let digest = Sha256::digest(bpffs.as_os_str().as_encoded_bytes());
    digest.iter().take(6).fold("chaperone-".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

fn program() -> Option<&'static str> {
    NFT.into_iter().find(|path| Path::new(path).exists())
}

/// Runs a transaction, or a question, and gives what was answered.
fn nft(commands: &Value) -> Result<Vec<u8>, InterceptError> {
    let program = program().ok_or(InterceptError::NoNft)?;
    let failed = |source| InterceptError::Nft { source };
    let mut child = Command::new(program)
        .args(["-j", "-f", "-"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // It reads all before it writes anything.
        input.write_all(commands.to_string().as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
    Err(InterceptError::NftRefused { said })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_agent_has_a_table_of_its_own() {
        assert_eq!(table_name(Path::new("/sys/fs/bpf/chaperone")), "chaperone");
        let (one, other) = (table_name(Path::new("/sys/fs/bpf/a")), table_name(Path::new("/sys/fs/bpf/b")));
        assert!(one != other && one.starts_with("chaperone-") && one.len() == 22, "{one} {other}");
    }
}
