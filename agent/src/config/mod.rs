//! Configuration: the file as typed (`file`) and the value as meant (`Config`), with one conversion between.
//!
//! Owns reading and validating. Knows nothing of what the values are used for: no BPF, no sockets, no policy
//! engine. Everything that can be refused without touching the network or the kernel is refused here, all
//! problems at once, each naming the key.

mod authorities;
mod command;
mod exports;
mod file;
mod hold;
mod identities;
mod intercept;
mod labels;
mod login;
mod people;
mod providers;
mod record;
mod ssh;
mod tls;
mod unix;
mod webhooks;
mod whole;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use whole::{Stamp, changing, read_whole};

pub use authorities::{Authorities, Kubelet};
pub use command::Command;
pub use exports::{Address, Collector, Export, Metrics, Receiver};
pub use identities::{IdentityRule, Match, Whose};
pub use labels::{Bucket, Label, MaskStyle};
pub use login::Login;
pub use people::Approver;
pub use providers::{Client, Platform, ProviderRule, TokenRule};
pub use webhooks::{Shape, Webhook};

use command::command;
use file::File;
use serde::Deserialize;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    Syntax { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{path}: {}", .problems.join("; "))]
    Invalid { path: PathBuf, problems: Vec<String> },
}

/// The configuration as meant.
#[derive(Debug, Clone)]
pub struct Config {
    pub path: PathBuf,
    /// SHA-256 of the file as read, hex.
    pub sha256: String,
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    pub policy_dir: PathBuf,
    pub intercept: Intercept,
    pub record: Record,
    pub hold: Hold,
    pub limits: Limits,
    pub grants: Grants,
    pub authorities: Authorities,
    pub identities: Vec<IdentityRule>,
    pub approvers: Vec<Approver>,
    pub login: Option<Login>,
    pub providers: Vec<ProviderRule>,
    pub webhooks: Vec<Webhook>,
    pub targets: Vec<Target>,
    pub exports: Vec<Export>,
    /// Who gets numbers.
    pub metrics: Metrics,
}

#[derive(Debug, Clone)]
pub struct Intercept {
    /// Cgroup to attach at, a path below the cgroup2 mount beginning with `/`.
    pub cgroup: String,
    pub bypass: Vec<String>,
    pub deny: Vec<String>,
    /// Cgroups whose processes may use the control socket where the whole host is governed.
    pub operators: Vec<String>,
    pub bpffs: PathBuf,
    pub listen_port: u16,
    /// Unix sockets that governed processes may connect to although some are protected.
    pub unix_allow: Vec<String>,
    pub guard_net_raw: GuardNetRaw,
    /// `None`: nft where it is possible.
    pub guard: Option<Guard>,
    pub guard_exempt: Vec<String>,
}

/// What stops packets of pods that have no socket behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    Nft,
    Off,
}

/// What happens to a governed process that uses CAP_NET_RAW.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardNetRaw {
    Off,
    Record,
    Kill,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub max_bytes: u64,
    /// Records that are older are removed.
    pub keep: Option<Duration>,
    /// The oldest records go before the ceiling is reached.
    pub prune_when_full: bool,
    /// Public keys of those who may read raw values, which policy has sealed to them.
    pub auditors: Vec<age::x25519::Recipient>,
}

#[derive(Debug, Clone)]
pub struct Hold {
    pub timeout: Duration,
    /// How long others may wait for what a session has locked that waits for an approval.
    pub lock_wait: Duration,
    pub lock_action: LockAction,
}

/// What happens when others have waited that long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LockAction {
    /// The statement is denied, and its transaction lets go.
    Deny,
    /// The approvers are told again, with who waits.
    Escalate,
}

#[derive(Debug, Clone)]
pub struct Grants {
    /// The longest a grant may last.
    pub longest: Duration,
}

#[derive(Debug, Clone)]
pub struct Limits {
    /// Sessions at once; one more is refused.
    pub sessions: usize,
    /// Time from accept to a finished login.
    pub login: Duration,
    /// How long sessions may go on after another agent took over.
    pub drain: Duration,
}

/// What is protected, and how to log in to it.
#[derive(Debug, Clone)]
pub struct Target {
    pub name: String,
    pub protocol: Protocol,
    pub addresses: Vec<Network>,
    pub port: u16,
    pub env: String,
    pub user: String,
    pub password_file: Option<PathBuf>,
    pub tls: Tls,
    /// Offer TLS to clients that ask for it.
    pub client_tls: bool,
    /// Names of unix sockets it also answers on, on this host.
    pub unix_sockets: Vec<String>,
    /// What clients call the target: names that its certificate towards them is for, beside the address.
    pub client_names: Vec<String>,
    /// A password that is worth nothing, for clients that insist on proof.
    pub client_password_file: Option<PathBuf>,
    /// Login names that belong to somebody else than who gives them, and to whom: other identities, and accounts
    /// that the configuration names. Who presents one is recorded for it.
    pub foreign: BTreeMap<String, String>,
    pub labels: Vec<Label>,
    /// With protocol `ssh`.
    pub ssh: Option<SshTarget>,
    /// Record what clients are served, rows and all, where no policy says otherwise.
    pub record_rows: bool,
    /// What is done about an account that could read labelled columns by itself.
    pub least_privilege: LeastPrivilege,
    /// Whether what is served is looked at for what looks like personal data.
    pub detect: Detect,
    /// What is recorded must be on disk, not only written, before it counts.
    pub synced: bool,
    /// A catalogue that is older is read again before the next statement.
    pub catalogue_age: Duration,
}

/// What is done about an account that may do more than it needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeastPrivilege {
    /// It is not looked at.
    Off,
    /// It is said in the log and in the record.
    #[default]
    Warn,
    /// And nobody is let in.
    Refuse,
}

/// Whether unlabelled values are looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Detect {
    #[default]
    Off,
    /// What looks like personal data or a secret is recorded, once for each column.
    Report,
    /// And replaced.
    Mask,
}

/// What a target of protocol `ssh` has besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshTarget {
    /// Accounts that are used when the client asks for them by name; any other name means `user`.
    pub logins: Vec<String>,
    pub key_file: Option<PathBuf>,
    /// Signs a certificate for each session instead.
    pub ca_key_file: Option<PathBuf>,
    /// Has it signed somewhere else.
    pub ca_command: Option<Command>,
    /// Public keys the target may show, a line each.
    pub host_keys: Vec<String>,
    pub known_hosts_file: Option<PathBuf>,
    /// Public keys of authorities that vouch for it, a line each.
    pub host_cas: Vec<String>,
    /// Names under which clients know the target, besides its addresses.
    pub host_names: Vec<String>,
    pub masks: Vec<Mask>,
    /// Where what programs print is recorded, what they are sent is, too.
    pub record_input: bool,
}

/// What is hidden in what programs print.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mask {
    pub name: String,
    pub pattern: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Postgres,
    Ssh,
}

impl Protocol {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Ssh => "ssh",
        }
    }
}

#[derive(Debug, Clone)]
pub enum Tls {
    Disable,
    VerifyFull {
        ca_file: Option<PathBuf>,
        server_name: Option<String>,
        /// Certificate and key the agent shows.
        identity: Option<(PathBuf, PathBuf)>,
    },
}

/// An address with a prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    pub address: IpAddr,
    pub prefix: u8,
}

impl Network {
    /// Parses `10.0.0.0/8`, `::1/128` or a plain address.
    ///
    /// # Errors
    /// A text saying what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr =
            address.parse().map_err(|_| format!("`{text}` is not an IP address or CIDR network"))?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => width,
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|p| *p <= width)
                .ok_or_else(|| format!("`{text}`: bad prefix length"))?,
        };
        Ok(Self { address, prefix })
    }

    #[must_use]
    pub fn contains(&self, other: IpAddr) -> bool {
        let (mine, theirs) = (bits(self.address), bits(other.to_canonical()));
        let width = if self.address.is_ipv4() { 32 } else { 128 };
        let shift = width - u32::from(self.prefix);
        self.address.is_ipv4() == other.to_canonical().is_ipv4()
            && (shift >= 128 || (mine >> shift) == (theirs >> shift))
    }

    /// Whether it is a single address.
    #[must_use]
    pub fn is_one(&self) -> bool {
        self.prefix == if self.address.is_ipv4() { 32 } else { 128 }
    }

    fn is_loopback(&self) -> bool {
        match self.address {
            IpAddr::V4(v4) => v4.is_loopback() && self.prefix >= 8,
            IpAddr::V6(v6) => v6.is_loopback() && self.prefix == 128,
        }
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl Config {
    /// Reads and validates a file.
    ///
    /// # Errors
    /// When it cannot be read, is not TOML of the documented shape, or says something that cannot be meant.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read_whole(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Validates the text of a configuration; `path` is only named in errors.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let file: File = toml::from_str(text)
            .map_err(|source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
        file::convert(path, text, file)
            .map_err(|problems| ConfigError::Invalid { path: path.to_owned(), problems })
    }

    /// The target an original destination belongs to.
    #[must_use]
    pub fn target_for(&self, address: IpAddr, port: u16) -> Option<&Target> {
        self.targets
            .iter()
            .filter(|target| target.port == port)
            .flat_map(|target| target.addresses.iter().map(move |network| (network, target)))
            .filter(|(network, _)| network.contains(address))
            .max_by_key(|(network, _)| network.prefix)
            .map(|(_, target)| target)
    }
}

#[cfg(test)]
mod tests;
