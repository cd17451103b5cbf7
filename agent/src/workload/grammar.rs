//! The grammar of cgroup paths: which unit, container, pod or job a path stands for.
//!
//! Pure text in, a [`Placement`] out. Names of cgroups are chosen by whoever may make them, and users, services and
//! containers often may below their own. So a path is read from the root and the outermost match wins: nothing that
//! is created inside a service, a user's manager or a container can change what it is taken for. Whether a container
//! of that id exists is not known here.

mod shape;

use serde::{Deserialize, Serialize};

/// What a cgroup path stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A container of a Kubernetes pod.
    K8s,
    /// A pod's own processes that are no container of it: the pause process, conmon.
    K8sInfra,
    Container,
    /// A container of a user's own runtime, below the user's manager. The user chooses every name in it.
    ContainerRootless,
    Ecs,
    Nomad,
    Slurm,
    Lxc,
    Nspawn,
    Vm,
    /// A unit of the system's manager.
    Systemd,
    /// A unit of a user's manager. The user chooses its name.
    SystemdUser,
    /// A login session.
    Session,
    /// A path without a shape known here.
    Plain,
    Root,
    /// Seen from inside another cgroup namespace, so the path means nothing.
    ForeignCgroupns,
    /// The hierarchies disagree.
    Conflict,
    /// The cgroup was removed.
    Deleted,
    /// Not the text of a cgroup.
    None,
}

impl Kind {
    /// Kinds whose ids are given out by a container runtime.
    #[must_use]
    pub fn is_container(self) -> bool {
        matches!(self, Self::K8s | Self::Container | Self::ContainerRootless | Self::Ecs)
    }

    /// Kinds whose units the system's manager knows.
    #[must_use]
    pub fn is_unit(self) -> bool {
        matches!(self, Self::Systemd | Self::SystemdUser | Self::Session | Self::Nspawn | Self::Vm)
    }

    /// Kinds that somebody can be. The others say that nothing is known.
    #[must_use]
    pub fn is_somebody(self) -> bool {
        self.rank() >= UNIT
    }

    fn rank(self) -> u8 {
        match self {
            Self::None | Self::ForeignCgroupns | Self::Conflict | Self::Deleted => 0,
            Self::Root => 1,
            Self::Plain => 2,
            Self::Systemd | Self::SystemdUser | Self::Session => UNIT,
            Self::K8s
            | Self::K8sInfra
            | Self::Container
            | Self::ContainerRootless
            | Self::Ecs
            | Self::Nomad
            | Self::Slurm
            | Self::Lxc
            | Self::Nspawn
            | Self::Vm => 4,
        }
    }
}

const UNIT: u8 = 3;

/// Where a process lives, as far as its cgroup's path says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Placement {
    pub kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// With systemd's escapes resolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The innermost slice the unit is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slice: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qos: Option<String>,
    /// Of ECS or Nomad.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alloc: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The container around a nested one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outer: Option<String>,
}

impl Placement {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            uid: None,
            unit: None,
            slice: None,
            runtime: None,
            container: None,
            pod: None,
            qos: None,
            task: None,
            alloc: None,
            job: None,
            machine: None,
            path: None,
            outer: None,
        }
    }
}

/// A placement with the reason in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Parsed {
    #[serde(flatten)]
    pub placement: Placement,
    /// The part of the path that was understood: the cgroup of the unit, container or job itself.
    #[serde(skip)]
    pub root: String,
    pub why: String,
}

impl Parsed {
    fn new(kind: Kind, why: impl Into<String>) -> Self {
        Self { placement: Placement::new(kind), root: String::new(), why: why.into() }
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Look for a container or pod inside a container, as a child of it: kind, Docker in Docker. Who may write to
    /// the cgroups of the outer container chooses what is found.
    pub nested: bool,
}

/// Reads the text of `/proc/<pid>/cgroup`. The most telling hierarchy counts; if two of the same weight disagree, none.
#[must_use]
pub fn parse_lines(text: &str, options: Options) -> Parsed {
    let mut best: Option<Parsed> = None;
    for line in text.lines() {
        let path = line.split_once(':').and_then(|(_, rest)| rest.split_once(':')).map(|(_, path)| path);
        let Some(path) = path else {
            return Parsed::new(
                Kind::None,
                format!("`{}` is not a line of a cgroup file", line.escape_debug()),
            );
        };
        let parsed = parse_path(path, options);
        let kind = parsed.placement.kind;
        if matches!(kind, Kind::ForeignCgroupns | Kind::Deleted | Kind::None) {
            return parsed;
        }
        best = Some(match best {
            None => parsed,
            Some(before)
                if before.placement.kind == Kind::Conflict || before.placement == parsed.placement =>
            {
                before
            }
            Some(before) => match kind.rank().cmp(&before.placement.kind.rank()) {
                std::cmp::Ordering::Greater => parsed,
                std::cmp::Ordering::Less => before,
                std::cmp::Ordering::Equal => {
                    let why = format!("two hierarchies disagree: {}; and {}", before.why, parsed.why);
                    return Parsed::new(Kind::Conflict, why);
                }
            },
        });
    }
    best.unwrap_or_else(|| Parsed::new(Kind::None, "there is no line"))
}

/// Reads one path, as seen from the host's cgroup namespace.
#[must_use]
pub fn parse_path(path: &str, options: Options) -> Parsed {
    if path == "/.." || path.starts_with("/../") {
        return Parsed::new(Kind::ForeignCgroupns, "the path leads out of this cgroup namespace");
    }
    if path.ends_with(" (deleted)") {
        return Parsed::new(Kind::Deleted, "the cgroup was removed");
    }
    let Some(below) = path.strip_prefix('/') else {
        return Parsed::new(Kind::None, format!("`{}` is not an absolute path", path.escape_debug()));
    };
    if below.is_empty() {
        return Parsed::new(Kind::Root, "the root belongs to nobody in particular");
    }
    let parts: Vec<&str> = below.split('/').collect();
    if parts.iter().any(|part| part.is_empty() || *part == "." || *part == "..") {
        return Parsed::new(Kind::None, format!("`{}` is not a clean path", path.escape_debug()));
    }
    let Some(found) = shape::outermost(&parts) else {
        let mut plain = Parsed::new(Kind::Plain, "no shape known here; it can be named by its path");
        plain.placement.path = Some(path.to_owned());
        return plain;
    };
    let inside = parts.get(found.used..).unwrap_or_default();
    if options.nested && found.placement.kind == Kind::Container && !inside.is_empty() {
        let inner = shape::outermost(inside).filter(|inner| inner.placement.kind.is_container());
        if let Some(mut inner) = inner {
            inner.placement.outer = found.placement.container;
            let why = format!("{}; inside of it, as nesting is allowed: {}", found.why, inner.why);
            return Parsed {
                placement: inner.placement,
                root: root_of(&parts, found.used + inner.used),
                why,
            };
        }
    }
    let root = root_of(&parts, found.used);
    let why = match inside.join("/") {
        rest if rest.is_empty() => found.why,
        rest => format!("{}; `/{}` inside of it does not count", found.why, rest.escape_debug()),
    };
    Parsed { placement: found.placement, root, why }
}

fn root_of(parts: &[&str], used: usize) -> String {
    parts.iter().take(used).flat_map(|part| ["/", part]).collect()
}

#[cfg(test)]
mod tests;
