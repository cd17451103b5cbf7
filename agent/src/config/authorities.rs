//! Who is asked whether a cgroup's name tells the truth.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Where systemd and the container runtimes of this host can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorities {
    /// Where systemd publishes which invocation of a unit runs.
    pub systemd: PathBuf,
    pub docker: PathBuf,
    pub podman: PathBuf,
    pub cri: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AuthoritiesFile {
    systemd: PathBuf,
    docker: PathBuf,
    podman: PathBuf,
    cri: PathBuf,
}

impl Default for AuthoritiesFile {
    fn default() -> Self {
        let containerd = Path::new("/run/containerd/containerd.sock");
        let crio = Path::new("/run/crio/crio.sock");
        let cri = if crio.exists() && !containerd.exists() { crio } else { containerd };
        Self {
            systemd: "/run/systemd/units".into(),
            docker: "/run/docker.sock".into(),
            podman: "/run/podman/podman.sock".into(),
            cri: cri.to_owned(),
        }
    }
}

pub(super) fn convert(typed: AuthoritiesFile, problems: &mut Vec<String>) -> Authorities {
    let AuthoritiesFile { systemd, docker, podman, cri } = typed;
    for (key, path) in [("systemd", &systemd), ("docker", &docker), ("podman", &podman), ("cri", &cri)] {
        if !path.is_absolute() {
            problems.push(format!("authorities.{key}: `{}` is not an absolute path", path.display()));
        }
    }
    Authorities { systemd, docker, podman, cri }
}
