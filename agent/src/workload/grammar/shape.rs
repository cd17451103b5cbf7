//! The shapes: one function per system that makes cgroups, each anchored at the first component.

use super::{Kind, Placement};

/// What was found, and how many components it took.
pub(super) struct Found {
    pub(super) placement: Placement,
    pub(super) used: usize,
    pub(super) why: String,
}

fn found(kind: Kind, used: usize, why: impl Into<String>) -> Found {
    Found { placement: Placement::new(kind), used, why: why.into() }
}

/// The outermost shape of a path, given as its components.
pub(super) fn outermost(parts: &[&str]) -> Option<Found> {
    pods(parts)
        .or_else(|| pod_in_one_component(parts))
        .or_else(|| ecs(parts))
        .or_else(|| nomad(parts))
        .or_else(|| cgroupfs_container(parts))
        .or_else(|| lxc(parts))
        .or_else(|| slurm(parts))
        .or_else(|| user(parts))
        .or_else(|| unit(parts))
}

/// `kubepods/burstable/pod<uid>/<id>` (cgroupfs driver) or
/// `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice/<runtime>-<id>.scope` (systemd driver),
/// at the root or below `kubelet` and `kubelet.slice`.
fn pods(parts: &[&str]) -> Option<Found> {
    let (mut used, rest) = match parts {
        ["kubelet" | "kubelet.slice", rest @ ..] => (1, rest),
        rest => (0, rest),
    };
    let (pod, qos, rest) = match rest {
        ["kubepods", qos @ ("burstable" | "besteffort"), pod, rest @ ..] => {
            used += 3;
            (pod_uid(pod.strip_prefix("pod")?)?, *qos, rest)
        }
        ["kubepods", pod, rest @ ..] => {
            used += 2;
            (pod_uid(pod.strip_prefix("pod")?)?, "guaranteed", rest)
        }
        [root @ ("kubepods.slice" | "kubelet-kubepods.slice"), rest @ ..] => {
            let prefix = root.strip_suffix(".slice")?;
            let class = rest.first()?.strip_prefix(prefix)?.strip_prefix('-')?;
            let (qos, rest) = match class {
                "burstable.slice" => ("burstable", rest.get(1..)?),
                "besteffort.slice" => ("besteffort", rest.get(1..)?),
                _ => ("guaranteed", rest),
            };
            let [pod, rest @ ..] = rest else { return None };
            let (uid, named) = pod_slice(pod, prefix)?;
            used += if qos == "guaranteed" { 2 } else { 3 };
            // The class is in the name as well, and both are the kubelet's: they agree, or it is not the kubelet's.
            (uid, (named == qos).then_some(qos)?, rest)
        }
        _ => return None,
    };
    let mut found = found(Kind::K8sInfra, used, "a pod's cgroup, but none of its containers");
    found.placement.pod = Some(pod);
    if let Some((runtime, id)) = rest.first().and_then(|name| container_in_pod(name)) {
        found.placement.kind = Kind::K8s;
        found.placement.runtime = runtime.map(str::to_owned);
        found.placement.container = Some(id.to_owned());
        found.placement.qos = Some(qos.to_owned());
        found.used += 1;
        found.why = "a container of a pod, below the kubelet's own cgroups".into();
    }
    Some(found)
}

/// `kubepods-besteffort-pod<uid>.slice:cri-containerd:<id>`: the systemd driver's name where cgroupfs made the cgroup.
fn pod_in_one_component(parts: &[&str]) -> Option<Found> {
    let mut pieces = parts.first()?.split(':');
    let (slice, runtime, id, None) = (pieces.next()?, pieces.next()?, pieces.next()?, pieces.next()) else {
        return None;
    };
    let (uid, qos) = pod_slice(slice, "kubepods")?;
    let runtime = RUNTIMES.iter().find(|(prefix, _)| prefix.strip_suffix('-') == Some(runtime))?.1;
    is_container_id(id).then(|| {
        let mut pod = found(Kind::K8s, 1, "a container of a pod, in the form `slice:runtime:id`");
        pod.placement.pod = Some(uid);
        pod.placement.qos = Some(qos.to_owned());
        pod.placement.runtime = Some(runtime.to_owned());
        pod.placement.container = Some(id.to_owned());
        pod
    })
}

/// The pod and class of `<prefix>-[burstable-|besteffort-]pod<uid>.slice`.
fn pod_slice<'a>(name: &'a str, prefix: &str) -> Option<(String, &'a str)> {
    let name = name.strip_prefix(prefix)?.strip_prefix('-')?.strip_suffix(".slice")?;
    let (qos, uid) = match name.split_once("-pod") {
        Some((qos @ ("burstable" | "besteffort"), uid)) => (qos, uid),
        Some(_) => return None,
        None => ("guaranteed", name.strip_prefix("pod")?),
    };
    Some((pod_uid(&uid.replace('_', "-"))?, qos))
}

/// Static pods have 32 digits without dashes.
fn pod_uid(text: &str) -> Option<String> {
    (is_uuid(text) || is_hex(text, 32)).then(|| text.to_owned())
}

fn container_in_pod(name: &str) -> Option<(Option<&'static str>, &str)> {
    if is_container_id(name) {
        return Some((None, name));
    }
    container_name(name.strip_suffix(".scope").unwrap_or(name)).map(|(runtime, id)| (Some(runtime), id))
}

/// What runtimes put before the id of a container.
const RUNTIMES: [(&str, &str); 6] = [
    ("cri-containerd-", "containerd"),
    ("nerdctl-", "containerd"),
    ("crio-", "cri-o"),
    ("docker-", "docker"),
    ("libpod-", "podman"),
    ("containerd-", "containerd"),
];

fn container_name(name: &str) -> Option<(&'static str, &str)> {
    RUNTIMES.iter().find_map(|(prefix, runtime)| {
        name.strip_prefix(prefix).filter(|id| is_container_id(id)).map(|id| (*runtime, id))
    })
}

fn container_scope(name: &str) -> Option<(&'static str, &str)> {
    container_name(name.strip_suffix(".scope")?)
}

fn ecs(parts: &[&str]) -> Option<Found> {
    let (task, container, used) = match parts {
        ["ecs", task, container, ..] if is_task(task) && ecs_container(container, task) => {
            (*task, *container, 3)
        }
        ["ecs", _cluster, task, container, ..] if is_task(task) && ecs_container(container, task) => {
            (*task, *container, 4)
        }
        ["ecstasks.slice", slice, scope, ..] => {
            let task =
                slice.strip_prefix("ecstasks-")?.strip_suffix(".slice").filter(|task| is_task(task))?;
            (task, container_scope(scope)?.1, 3)
        }
        _ => return None,
    };
    let mut ecs = found(Kind::Ecs, used, "a container of an ECS task, below the ECS agent's own cgroup");
    ecs.placement.task = Some(task.to_owned());
    ecs.placement.container = Some(container.to_owned());
    Some(ecs)
}

fn is_task(text: &str) -> bool {
    is_uuid(text) || is_hex(text, 32)
}

/// On Fargate: the task and a number.
fn ecs_container(text: &str, task: &str) -> bool {
    let number = text.strip_prefix(task).and_then(|rest| rest.strip_prefix('-'));
    is_container_id(text) || number.is_some_and(is_number)
}

fn nomad(parts: &[&str]) -> Option<Found> {
    let name = match parts {
        ["nomad.slice", "share.slice" | "reserve.slice", scope, ..] => scope.strip_suffix(".scope")?,
        ["nomad", "share" | "reserve", name, ..] => name,
        _ => return None,
    };
    let (alloc, task) = name.split_once('.').filter(|(alloc, task)| is_uuid(alloc) && !task.is_empty())?;
    let mut nomad = found(Kind::Nomad, 3, "a task of an allocation, below Nomad's own cgroup");
    nomad.placement.alloc = Some(alloc.to_owned());
    nomad.placement.task = Some(task.to_owned());
    Some(nomad)
}

fn cgroupfs_container(parts: &[&str]) -> Option<Found> {
    let (runtime, id) = match parts {
        ["docker", id, ..] if is_container_id(id) => ("docker", *id),
        ["libpod_parent", name, ..] => {
            ("podman", name.strip_prefix("libpod-").filter(|id| is_container_id(id))?)
        }
        _ => return None,
    };
    Some(container(runtime, id, 2, "a container, below the runtime's own cgroup"))
}

fn container(runtime: &str, id: &str, used: usize, why: &str) -> Found {
    let mut container = found(Kind::Container, used, why);
    container.placement.runtime = Some(runtime.to_owned());
    container.placement.container = Some(id.to_owned());
    container
}

fn lxc(parts: &[&str]) -> Option<Found> {
    let (name, used) = match parts {
        ["lxc", name, ..] => (*name, 2),
        [first, ..] => (first.strip_prefix("lxc.payload.").filter(|name| !name.is_empty())?, 1),
        [] => return None,
    };
    let mut lxc = found(Kind::Lxc, used, "an LXC container");
    lxc.placement.container = Some(name.to_owned());
    Some(lxc)
}

/// Version 1: `slurm/uid_<uid>/job_<job>`, with the node's name behind `slurm` where several share a host.
/// Version 2: `system.slice/slurmstepd.scope/job_<job>`.
fn slurm(parts: &[&str]) -> Option<Found> {
    let (uid, job, used) = match parts {
        [root, uid, job, ..] if *root == "slurm" || root.starts_with("slurm_") => {
            (Some(uid.strip_prefix("uid_")?.parse().ok()?), job, 3)
        }
        ["system.slice", scope, job, ..]
            if *scope == "slurmstepd.scope" || scope.ends_with("_slurmstepd.scope") =>
        {
            (None, job, 3)
        }
        _ => return None,
    };
    let job = job.strip_prefix("job_").filter(|job| is_number(job))?;
    let mut slurm = found(Kind::Slurm, used, "a job, below Slurm's own cgroup");
    slurm.placement.uid = uid;
    slurm.placement.job = Some(job.to_owned());
    Some(slurm)
}

/// What belongs to a user: a login session, or something below the user's own manager, where the user names
/// everything. Its user id is certain, the rest is the user's word.
fn user(parts: &[&str]) -> Option<Found> {
    let ["user.slice", slice, scope, rest @ ..] = parts else { return None };
    let uid: u32 = slice.strip_prefix("user-")?.strip_suffix(".slice")?.parse().ok()?;
    if scope.starts_with("session-") && scope.ends_with(".scope") {
        let mut session = found(Kind::Session, 3, "a login session");
        session.placement.uid = Some(uid);
        session.placement.unit = Some((*scope).to_owned());
        return Some(session);
    }
    if *scope != format!("user@{uid}.service") {
        return None;
    }
    let mut user = match rest.iter().find_map(|name| container_scope(name)) {
        Some((runtime, id)) => {
            let why =
                "below a user's own manager: at most a container of that user's, whatever its name says";
            let mut user = container(runtime, id, parts.len(), why);
            user.placement.kind = Kind::ContainerRootless;
            user
        }
        None => {
            let unit = rest.iter().find(|name| is_unit(name)).unwrap_or(scope);
            let why = "below a user's own manager, so the user chose the name";
            let mut user = found(Kind::SystemdUser, parts.len(), why);
            user.placement.unit = Some(unescape(unit));
            user
        }
    };
    user.placement.uid = Some(uid);
    Some(user)
}

/// Slices, then a service or scope. A slice's name begins with its parent's (systemd.slice(5)).
fn unit(parts: &[&str]) -> Option<Found> {
    let mut slice: Option<&str> = None;
    let mut used = 0;
    for part in parts {
        let Some(name) = part.strip_suffix(".slice") else { break };
        let parent = slice.and_then(|slice| slice.strip_suffix(".slice"));
        let nested =
            parent.is_none_or(|parent| name.strip_prefix(parent).is_some_and(|n| n.starts_with('-')));
        if !nested {
            return None;
        }
        slice = Some(part);
        used += 1;
    }
    let name = parts.get(used).filter(|name| is_unit(name))?;
    used += 1;
    if let Some((runtime, id)) = slice.and_then(|_| container_scope(name)) {
        return Some(container(runtime, id, used, "a container's scope, below slices only"));
    }
    if slice == Some("machine.slice")
        && let Some((kind, machine)) = machine(name)
    {
        let mut found = found(kind, used, "a machine known to systemd-machined");
        found.placement.machine = Some(machine);
        return Some(found);
    }
    let mut unit = found(Kind::Systemd, used, "a unit of the system's manager, below slices only");
    unit.placement.unit = Some(unescape(name));
    unit.placement.slice = Some(slice.unwrap_or("-.slice").to_owned());
    Some(unit)
}

fn machine(name: &str) -> Option<(Kind, String)> {
    if let Some(name) = name.strip_prefix("systemd-nspawn@").and_then(|name| name.strip_suffix(".service")) {
        return Some((Kind::Nspawn, unescape(name)));
    }
    let name = unescape(name.strip_prefix("machine-")?.strip_suffix(".scope")?);
    Some((if name.starts_with("qemu-") { Kind::Vm } else { Kind::Nspawn }, name))
}

fn is_unit(name: &str) -> bool {
    [".service", ".scope"].iter().any(|suffix| name.strip_suffix(suffix).is_some_and(|name| !name.is_empty()))
}

/// Resolves `\x2d` and the like (systemd-escape(1)). What is no escape stays as it is.
fn unescape(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once("\\x") {
        out.push_str(before);
        let byte = after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte.filter(|byte| byte.is_ascii_graphic()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push_str("\\x");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

fn is_container_id(text: &str) -> bool {
    is_hex(text, 64)
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_uuid(text: &str) -> bool {
    let mut groups = text.split('-');
    [8, 4, 4, 4, 12].iter().all(|length| groups.next().is_some_and(|group| is_hex(group, *length)))
        && groups.next().is_none()
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
