//! From a configuration to the things that are made of it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use chaperone_policy::{self as policy, PolicySet};

use crate::authority::Authorities;
use crate::config::{self, Config, Guard, Target};
use crate::control::{HostBook, Site, below};
use crate::gate;
use crate::identity::{Identities, Tokens};
use crate::intercept::{self, CgroupMode, GuardMode, NetRaw, Options, UnixSockets};
use crate::places::Places;
use crate::protocol::Protocol;
use crate::protocol::postgres::{ClientTls, Postgres};
use crate::protocol::ssh::{self, HostKeys, Ssh};
use crate::record;
use crate::secret;
use crate::session::{Service, Shared, World};
use crate::trust::HostCa;
use crate::upstream::{Backend, Credentials};

/// Reads the credentials and makes what sessions share. State of a target that was there before is kept.
pub(super) fn build(config: Config, places: &Arc<Places>, before: Option<&World>) -> Result<World> {
    let mut services = Vec::new();
    let mut ca = None;
    for target in &config.targets {
        let mut credentials = load_credentials(target)?;
        if target.labels.iter().any(|label| label.mask == config::MaskStyle::Pseudonym) {
            let path = config.state_dir.join("pseudonyms.key");
            credentials.pseudonym_secret = secret::load_or_create(&path)?;
        }
        let kept = before.and_then(|world| {
            world.services.iter().find(|service| {
                let before = &service.backend.target;
                before.name == target.name
                    && before.protocol == target.protocol
                    && before.client_tls == target.client_tls
                    && before.client_names == target.client_names
            })
        });
        let protocol = match kept {
            Some(service) if target.ssh.is_none() => service.protocol.clone(),
            _ => fresh(target, &mut ca, &config.state_dir, places)?,
        };
        let backend = Arc::new(Backend { target: target.clone(), credentials });
        services.push(Service { backend, protocol });
    }
    let known = before.map(|world| world.identities.tokens());
    let tokens = Tokens::start(&config.providers, &config.identities, known)?;
    let identities = Identities::new(config.identities.clone()).with_tokens(tokens);
    let authorities = Authorities::new(&config.authorities, &intercept::cgroup2_mount()?)?;
    Ok(World { identities, authorities, services, config })
}

/// The protocol of a target nobody has a session with yet, or whose keys are read again.
fn fresh(
    target: &Target,
    ca: &mut Option<Arc<HostCa>>,
    state_dir: &Path,
    places: &Arc<Places>,
) -> Result<Protocol> {
    match target.protocol {
        config::Protocol::Postgres => {
            if !target.client_tls {
                return Ok(Protocol::Postgres(Postgres::new(None, Arc::clone(places))));
            }
            let ca = match ca {
                Some(ca) => Arc::clone(ca),
                None => {
                    let made = Arc::new(HostCa::load_or_create(state_dir)?);
                    ca.insert(made).clone()
                }
            };
            let tls = ClientTls::new(ca, target.client_names.clone());
            Ok(Protocol::Postgres(Postgres::new(Some(tls), Arc::clone(places))))
        }
        config::Protocol::Ssh => {
            let keys = Arc::new(ssh::host_keys(state_dir)?);
            Ok(Protocol::Ssh(load_ssh(target, &keys)?))
        }
    }
}

fn load_ssh(target: &Target, keys: &Arc<HostKeys>) -> Result<Ssh> {
    let ssh = target.ssh.as_ref().context("a target of protocol ssh without its keys")?;
    Ssh::load(target, ssh, keys).with_context(|| format!("target \"{}\"", target.name))
}

/// The host keys that clients of SSH targets see, as known_hosts has them.
///
/// # Errors
/// When they cannot be read or made.
pub fn ssh_host_keys(config: &Config) -> Result<Vec<String>> {
    Ok(ssh::host_keys(&config.state_dir)?.lines())
}

/// What ssh's questions about hosts are answered from; follows reloads.
pub(super) fn host_book<L: Send + Sync + 'static>(shared: &Arc<Shared<L>>, config: &Config) -> HostBook {
    let [shared, exempting] = std::array::from_fn(|_| Arc::clone(shared));
    let bypassed = move |cgroup: &str| is_bypassed(&exempting.world().config, cgroup);
    let keys = move |name: &str, port: u16, addresses: &[IpAddr]| {
        let world = shared.world();
        let meant = |target: &Target| {
            let names = target.ssh.iter().flat_map(|ssh| &ssh.host_names);
            let by_name = names.into_iter().any(|known| known.eq_ignore_ascii_case(name));
            let at = |address: &IpAddr| target.addresses.iter().any(|network| network.contains(*address));
            target.port == port && (by_name || addresses.iter().any(at))
        };
        let found = world.services.iter().filter(|service| meant(&service.backend.target));
        found
            .filter_map(|service| match &service.protocol {
                Protocol::Ssh(ssh) => Some(ssh.host_key_lines()),
                Protocol::Postgres(_) => None,
            })
            .next()
            .unwrap_or_default()
    };
    HostBook { governed: config.intercept.cgroup.clone(), bypassed: Box::new(bypassed), keys: Box::new(keys) }
}

/// Whether a cgroup is exempt by this configuration.
pub(super) fn is_bypassed(config: &Config, cgroup: &str) -> bool {
    config.intercept.bypass.iter().any(|root| below(cgroup, root))
}

/// Reads the files that targets' credentials are in, and forgets them.
///
/// # Errors
/// When one cannot be read, is readable by others than its owner, or holds no certificate.
pub fn checked_credentials(target: &Target) -> Result<()> {
    if target.protocol == config::Protocol::Ssh {
        load_ssh(target, &Arc::new(HostKeys::none()))?;
    }
    load_credentials(target).map(drop)
}

fn load_credentials(target: &Target) -> Result<Credentials> {
    Credentials::load(target).with_context(|| format!("target \"{}\"", target.name))
}

/// Loads the policies and refuses rules that can never match.
///
/// # Errors
/// When a policy is not valid, or names something the configuration does not define.
pub fn checked_policies(config: &Config) -> Result<PolicySet> {
    let set = gate::load(&config.policy_dir)?;
    let findings = set.check_world(&policy_world(config));
    if !findings.is_empty() {
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        bail!("policies do not fit the configuration:\n{}", lines.join("\n"));
    }
    Ok(set)
}

/// The facts about statements that the analysis finds; a rule about another one could never match.
const KNOWN_FLAGS: [policy::Flag; 6] = [
    policy::Flag::NoWhere,
    policy::Flag::ConstantWhere,
    policy::Flag::Locking,
    policy::Flag::ModifyingCte,
    policy::Flag::MultiStatement,
    policy::Flag::Cascade,
];

/// What policies may name.
fn policy_world(config: &Config) -> policy::World {
    policy::World {
        identities: config.identities.iter().map(|identity| identity.name.clone()).collect(),
        groups: groups(config),
        targets: config.targets.iter().map(|target| (target.name.clone(), target.env.clone())).collect(),
        tags: config
            .targets
            .iter()
            .flat_map(|target| &target.labels)
            .flat_map(|label| label.tags.iter().cloned())
            .collect(),
        approver_groups: (!config.approvers.is_empty() || config.login.is_some())
            .then(|| approver_groups(config)),
        // Who can log in is not written here.
        people: (!config.approvers.is_empty() && config.login.is_none()).then(|| {
            let behind = config.identities.iter().filter_map(|identity| identity.owner.clone());
            config.approvers.iter().map(|person| person.name.clone()).chain(behind).collect()
        }),
        // What is not recorded yet must not look as if it were.
        record_modes: Some({
            let raw = (!config.record.auditors.is_empty()).then_some(policy::RecordMode::Raw);
            let known = [policy::RecordMode::Rows, policy::RecordMode::Meta, policy::RecordMode::Asciicast];
            known.into_iter().chain(raw).collect()
        }),
        flags: Some(KNOWN_FLAGS.into_iter().collect()),
    }
}

fn approver_groups(config: &Config) -> BTreeSet<String> {
    let at = |login: &config::Login| config.providers.iter().find(|provider| provider.name == login.provider);
    let logged_in = config.login.as_ref().and_then(at).into_iter().flat_map(|provider| &provider.groups);
    config.approvers.iter().flat_map(|person| &person.groups).chain(logged_in).cloned().collect()
}

/// Where grants can let in.
pub(super) fn sites(config: &Config) -> Vec<Site> {
    let site = |target: &Target| {
        let host = target.protocol == config::Protocol::Ssh;
        let account = host.then(|| target.user.clone());
        Site { target: target.name.clone(), env: target.env.clone(), host, account }
    };
    config.targets.iter().map(site).collect()
}

/// Groups that an identity can be in: by configuration, by its token, or lent.
fn groups(config: &Config) -> BTreeSet<String> {
    let own = config.identities.iter().flat_map(|identity| &identity.groups);
    let given = config.providers.iter().flat_map(|provider| &provider.groups);
    let lent = config.approvers.iter().flat_map(|person| &person.may_lend);
    let lent = lent.chain(config.login.iter().flat_map(|login| login.may_lend.values().flatten()));
    own.chain(given).chain(lent).cloned().collect()
}

/// What the kernel programs are told.
pub(super) fn intercept_options(config: &Config) -> Result<Options> {
    let mount = intercept::cgroup2_mount()?;
    let below = |path: &str| mount.join(path.trim_start_matches('/'));
    let cgroup = below(&config.intercept.cgroup);
    if !cgroup.is_dir() {
        bail!("intercept.cgroup: {} does not exist", cgroup.display());
    }
    let mut targets = Vec::new();
    for (index, target) in config.targets.iter().enumerate() {
        for network in &target.addresses {
            targets.push(intercept::Target {
                id: u32::try_from(index).unwrap_or(u32::MAX),
                addr: network.address,
                prefix: network.prefix,
                port: target.port,
            });
        }
    }
    let bypass = config.intercept.bypass.iter().map(|path| CgroupMode::bypass(path));
    let deny = config.intercept.deny.iter().map(|path| CgroupMode::deny(path));
    Ok(Options {
        cgroup,
        bpffs: config.intercept.bpffs.clone(),
        listen_port: config.intercept.listen_port,
        targets,
        modes: bypass.chain(deny).collect(),
        unix: UnixSockets {
            protected: config.targets.iter().any(|target| !target.unix_sockets.is_empty()),
            allow: config.intercept.unix_allow.clone(),
        },
        net_raw: match config.intercept.guard_net_raw {
            config::GuardNetRaw::Off => NetRaw::Off,
            config::GuardNetRaw::Record => NetRaw::Record,
            config::GuardNetRaw::Kill => NetRaw::Kill,
        },
        agent_cgroup_id: own_cgroup_id()?,
        guard: match config.intercept.guard {
            None => GuardMode::Auto,
            Some(Guard::Nft) => GuardMode::Required,
            Some(Guard::Off) => GuardMode::Off,
        },
        guard_exempt: config.intercept.guard_exempt.clone(),
    })
}

/// Id of the cgroup this process is in now.
pub(super) fn own_cgroup_id() -> Result<u64> {
    let mount = intercept::cgroup2_mount()?;
    Ok(intercept::cgroup_id(&mount.join(own_cgroup()?.trim_start_matches('/')))?)
}

/// This process's own cgroup, below the cgroup2 mount.
///
/// # Errors
/// When it has none in the unified hierarchy.
pub fn own_cgroup() -> Result<String> {
    procfs::process::Process::myself()?
        .cgroups()?
        .into_iter()
        .find(|group| group.hierarchy == 0)
        .map(|group| group.pathname)
        .context("this process has no cgroup in the unified hierarchy")
}

/// Where the journal is, how large it may get and what of it goes.
pub fn journal_options(config: &Config) -> record::Options {
    let mut options = record::Options::new(&config.state_dir, config.record.max_bytes);
    options.spool = Some(config.run_dir.join("journal-spool"));
    options.retention =
        record::Retention { keep: config.record.keep, when_full: config.record.prune_when_full };
    options.auditors = record::seal::Auditors::new(&config.record.auditors);
    options
}

/// Refuses a reload that changes what can only change at a start.
pub(super) fn may_change(before: &Config, after: &Config) -> Result<()> {
    let fixed = [
        ("state_dir", before.state_dir == after.state_dir),
        ("run_dir", before.run_dir == after.run_dir),
        ("record", before.record == after.record),
        ("intercept.cgroup", before.intercept.cgroup == after.intercept.cgroup),
        ("intercept.bpffs", before.intercept.bpffs == after.intercept.bpffs),
        ("intercept.listen_port", before.intercept.listen_port == after.intercept.listen_port),
        ("intercept.guard_net_raw", before.intercept.guard_net_raw == after.intercept.guard_net_raw),
        ("intercept.operators", before.intercept.operators == after.intercept.operators),
        ("hold.timeout_s", before.hold.timeout == after.hold.timeout),
        ("hold.lock_wait_s", before.hold.lock_wait == after.hold.lock_wait),
        ("grants.longest_s", before.grants.longest == after.grants.longest),
        ("webhooks", before.webhooks == after.webhooks),
        ("exports", before.exports == after.exports),
        ("metrics", before.metrics == after.metrics),
        ("limits.sessions", before.limits.sessions == after.limits.sessions),
    ];
    let changed: Vec<&str> = fixed.iter().filter(|(_, same)| !same).map(|(key, _)| *key).collect();
    if !changed.is_empty() {
        bail!("{} can only change with a restart", changed.join(", "));
    }
    Ok(())
}
