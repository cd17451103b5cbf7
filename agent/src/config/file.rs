//! The file as typed, and its conversion.

use std::collections::HashSet;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::authorities::{self, AuthoritiesFile};
use super::exports::{self, ExportFile, MetricsFile};
use super::hold::{self, HoldFile};
use super::identities::{self, IdentityFile};
use super::intercept::{self, InterceptFile};
use super::labels::{self, LabelFile};
use super::login::{self, LoginFile};
use super::people::{self, ApproverFile};
use super::providers::{self, ProviderFile};
use super::record::{self, RecordFile};
use super::ssh::{self, SshFile};
use super::tls::{self, TlsFile};
use super::unix;
use super::webhooks::{self, WebhookFile};
use super::{Config, Detect, Grants, LeastPrivilege, Limits, Network, Protocol, Target, Tls};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default = "default_state_dir")]
    state_dir: PathBuf,
    #[serde(default = "default_run_dir")]
    run_dir: PathBuf,
    #[serde(default = "default_policy_dir")]
    policy_dir: PathBuf,
    #[serde(default)]
    intercept: InterceptFile,
    #[serde(default)]
    record: RecordFile,
    #[serde(default)]
    hold: HoldFile,
    #[serde(default)]
    limits: LimitsFile,
    #[serde(default)]
    grants: GrantsFile,
    #[serde(default)]
    authorities: AuthoritiesFile,
    #[serde(default)]
    identities: Vec<IdentityFile>,
    #[serde(default)]
    approvers: Vec<ApproverFile>,
    login: Option<LoginFile>,
    #[serde(default)]
    providers: Vec<ProviderFile>,
    #[serde(default)]
    webhooks: Vec<WebhookFile>,
    #[serde(default)]
    targets: Vec<TargetFile>,
    #[serde(default)]
    exports: Vec<ExportFile>,
    #[serde(default)]
    metrics: MetricsFile,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GrantsFile {
    longest_s: u64,
}

impl Default for GrantsFile {
    fn default() -> Self {
        Self { longest_s: 8 * 3600 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitsFile {
    sessions: usize,
    login_s: u64,
    drain_s: u64,
}

impl Default for LimitsFile {
    fn default() -> Self {
        Self { sessions: 4096, login_s: 15, drain_s: 300 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetFile {
    name: String,
    protocol: String,
    addresses: Vec<String>,
    port: Option<u16>,
    env: String,
    user: String,
    password_file: Option<PathBuf>,
    tls: Option<TlsFile>,
    #[serde(default = "yes")]
    client_tls: bool,
    #[serde(default)]
    client_names: Vec<String>,
    client_password_file: Option<PathBuf>,
    /// Accounts at the target that belong to people or to other programs.
    #[serde(default)]
    accounts: Vec<String>,
    record: Option<Recorded>,
    durability: Option<Durability>,
    #[serde(default)]
    unix_sockets: Vec<String>,
    #[serde(default)]
    labels: Vec<LabelFile>,
    least_privilege: Option<LeastPrivilege>,
    detect: Option<Detect>,
    catalogue_max_age_s: Option<NonZeroU16>,
    ssh: Option<SshFile>,
}

/// What is recorded of a target's sessions besides who, what and how it was decided.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Recorded {
    Rows,
    Meta,
}

/// When a record counts as made.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Durability {
    /// The kernel has it: it survives the agent.
    Written,
    /// The disk has it: it survives the host.
    Synced,
}

fn default_state_dir() -> PathBuf {
    "/var/lib/chaperone".into()
}

fn default_run_dir() -> PathBuf {
    "/run/chaperone".into()
}

fn default_policy_dir() -> PathBuf {
    "/etc/chaperone/policy".into()
}

fn yes() -> bool {
    true
}

/// As typed to as meant; all problems at once.
pub(super) fn convert(path: &Path, text: &str, file: File) -> Result<Config, Vec<String>> {
    let mut problems = Vec::new();
    for (key, dir) in
        [("state_dir", &file.state_dir), ("run_dir", &file.run_dir), ("policy_dir", &file.policy_dir)]
    {
        if !dir.is_absolute() {
            problems.push(format!("{key}: `{}` is not an absolute path", dir.display()));
        }
    }
    let intercept = intercept::convert(file.intercept, &mut problems);
    let record = record::convert(&file.record, &mut problems);
    let hold = hold::convert(&file.hold, &mut problems);
    let authorities = authorities::convert(file.authorities, &mut problems);
    let identities = identities::convert(file.identities, &authorities, &mut problems);
    let approvers = people::convert(file.approvers, &mut problems);
    let webhooks = webhooks::convert(file.webhooks, &mut problems);
    let providers = providers::convert(file.providers, &mut problems);
    providers::check(&identities, &providers, &mut problems);
    let login = login::convert(file.login, &providers, &identities, &mut problems);
    if !(1..=30 * 24 * 3600).contains(&file.grants.longest_s) {
        problems.push("grants.longest_s: between 1 and 2592000 (30 days); what lasts is policy".into());
    }
    let mut targets: Vec<Target> =
        file.targets.into_iter().filter_map(|typed| target(typed, &mut problems)).collect();
    for target in &mut targets {
        let others = identities.iter().map(|other| (other.name.clone(), format!("identity {}", other.name)));
        target.foreign.extend(others);
    }
    unique("targets", targets.iter().map(|t| t.name.as_str()), &mut problems);
    overlapping(&targets, &mut problems);
    let protected: Vec<(String, String)> = targets
        .iter()
        .flat_map(|target| target.unix_sockets.iter().map(|name| (&target.name, name)))
        .map(|(target, name)| (format!("targets.{target}.unix_sockets"), name.clone()))
        .collect();
    unix::check(&protected, &intercept.unix_allow, &mut problems);
    let metrics = exports::metrics(file.metrics, &mut problems);
    let exports = exports::convert(file.exports, &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Config {
        path: path.to_owned(),
        sha256: crate::hex(&Sha256::digest(text.as_bytes())),
        state_dir: file.state_dir,
        run_dir: file.run_dir,
        policy_dir: file.policy_dir,
        intercept,
        record,
        hold,
        limits: Limits {
            sessions: file.limits.sessions,
            login: Duration::from_secs(file.limits.login_s),
            drain: Duration::from_secs(file.limits.drain_s),
        },
        grants: Grants { longest: Duration::from_secs(file.grants.longest_s) },
        authorities,
        identities,
        approvers,
        login,
        providers,
        webhooks,
        targets,
        exports,
        metrics,
    })
}

fn target(typed: TargetFile, problems: &mut Vec<String>) -> Option<Target> {
    let key = format!("targets.{}", typed.name);
    name_is_plain("targets.name", &typed.name, problems);
    name_is_plain(&format!("{key}.env"), &typed.env, problems);
    let protocol = match typed.protocol.as_str() {
        "postgres" => Some(Protocol::Postgres),
        "ssh" => Some(Protocol::Ssh),
        other => {
            problems.push(format!("{key}.protocol: `{other}` is not known; known: postgres, ssh"));
            None
        }
    };
    if typed.addresses.is_empty() {
        problems.push(format!("{key}.addresses: empty, so the target can never match"));
    }
    let mut addresses = Vec::new();
    for text in &typed.addresses {
        match Network::parse(text) {
            Ok(network) => addresses.push(network),
            Err(problem) => problems.push(format!("{key}.addresses: {problem}")),
        }
    }
    let port = match (typed.port, protocol) {
        (Some(0), _) => {
            problems.push(format!("{key}.port: 0 is not a port"));
            0
        }
        (Some(port), _) => port,
        (None, Some(Protocol::Ssh)) => 22,
        (None, _) => {
            problems.push(format!("{key}.port: missing"));
            0
        }
    };
    if typed.user.is_empty() {
        problems.push(format!("{key}.user: empty"));
    }
    let of_postgres = typed.tls.is_some()
        || !typed.labels.is_empty()
        || typed.least_privilege.is_some()
        || typed.detect.is_some()
        || typed.catalogue_max_age_s.is_some();
    let tls = match protocol {
        Some(Protocol::Ssh) => Tls::Disable,
        Some(Protocol::Postgres) | None => tls::convert(&key, typed.tls, &addresses, problems),
    };
    let ssh = match (protocol, typed.ssh) {
        (Some(Protocol::Ssh), _) if of_postgres => {
            problems.push(format!(
                "{key}: tls, labels, least_privilege, detect, catalogue_max_age_s do nothing with protocol = \"ssh\""
            ));
            None
        }
        (Some(Protocol::Ssh), typed_ssh) => {
            Some(ssh::convert(&key, typed_ssh.unwrap_or_default(), typed.password_file.as_ref(), problems))
        }
        (_, Some(_)) => {
            problems.push(format!("{key}.ssh: does nothing with this protocol"));
            None
        }
        (_, None) => None,
    };
    let labels = labels::convert(&key, typed.labels, problems);
    let client_names = tls::client_names(&key, &typed.client_names, &tls, problems);
    if !typed.client_tls && !client_names.is_empty() {
        problems.push(format!("{key}.client_names: does nothing with client_tls = false"));
    }
    Some(Target {
        name: typed.name,
        protocol: protocol?,
        addresses,
        port,
        env: typed.env,
        user: typed.user,
        password_file: typed.password_file,
        tls,
        client_tls: typed.client_tls,
        unix_sockets: typed.unix_sockets,
        client_names,
        client_password_file: typed.client_password_file,
        foreign: typed
            .accounts
            .into_iter()
            .map(|account| (account, "the target's accounts".into()))
            .collect(),
        labels,
        ssh,
        record_rows: typed.record != Some(Recorded::Meta),
        detect: typed.detect.unwrap_or_default(),
        least_privilege: typed.least_privilege.unwrap_or_default(),
        synced: typed.durability == Some(Durability::Synced),
        catalogue_age: Duration::from_secs(typed.catalogue_max_age_s.map_or(30, NonZeroU16::get).into()),
    })
}

fn overlapping(targets: &[Target], problems: &mut Vec<String>) {
    for (index, one) in targets.iter().enumerate() {
        for other in targets.iter().skip(index + 1).filter(|other| other.port == one.port) {
            for network in one.addresses.iter().filter(|network| other.addresses.contains(network)) {
                problems.push(format!(
                    "targets.{} and targets.{} both claim {}/{} port {}",
                    one.name, other.name, network.address, network.prefix, one.port
                ));
            }
        }
    }
}

/// True when `path` is `root` or lies below it.
pub(super) fn below(path: &str, root: &str) -> bool {
    root == "/" || path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

pub(super) fn name_is_plain(key: &str, name: &str, problems: &mut Vec<String>) {
    let plain = !name.is_empty()
        && name.len() <= 128
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@' | ':'));
    if !plain {
        problems.push(format!("{key}: `{}` may only hold letters, digits and -_.@:", name.escape_debug()));
    }
}

pub(super) fn unique<'a>(key: &str, names: impl Iterator<Item = &'a str>, problems: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            problems.push(format!("{key}: `{name}` appears twice"));
        }
    }
}
