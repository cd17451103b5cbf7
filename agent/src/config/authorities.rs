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
    /// Where it is configured, it is asked about pods, and nobody else.
    pub kubelet: Option<Kubelet>,
}

/// A kubelet that serves what its node runs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kubelet {
    /// `https://127.0.0.1:10250/pods`
    #[serde(default = "pods_of_this_node")]
    pub url: String,
    /// Who vouches for its certificate. Never the system's store: no public authority vouches for a kubelet.
    pub ca_file: PathBuf,
    /// What the certificate says, when it is not the host in `url`.
    pub server_name: Option<String>,
    /// Holds the bearer token; read each time, because it is replaced while it is in use.
    pub token_file: PathBuf,
}

fn pods_of_this_node() -> String {
    "https://127.0.0.1:10250/pods".to_owned()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AuthoritiesFile {
    systemd: PathBuf,
    docker: PathBuf,
    podman: PathBuf,
    cri: PathBuf,
    kubelet: Option<Kubelet>,
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
            kubelet: None,
        }
    }
}

pub(super) fn convert(typed: AuthoritiesFile, problems: &mut Vec<String>) -> Authorities {
    let AuthoritiesFile { systemd, docker, podman, cri, kubelet } = typed;
    let files = kubelet.iter().flat_map(|kubelet| {
        [("kubelet.ca_file", &kubelet.ca_file), ("kubelet.token_file", &kubelet.token_file)]
    });
    let all = [("systemd", &systemd), ("docker", &docker), ("podman", &podman), ("cri", &cri)];
    for (key, path) in all.into_iter().chain(files) {
        if !path.is_absolute() {
            problems.push(format!("authorities.{key}: `{}` is not an absolute path", path.display()));
        }
    }
    if let Some(kubelet) = &kubelet {
        let url = &kubelet.url;
        if !url.starts_with("https://") {
            problems.push(format!(
                "authorities.kubelet.url: `{url}` is not https; anybody could answer, and would be shown the token"
            ));
        }
    }
    Authorities { systemd, docker, podman, cri, kubelet }
}
