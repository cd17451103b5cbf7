//! The kubelet, by the list of pods it serves to whom the cluster lets ask (`/pods`, over TLS, with a bearer token).
//!
//! It knows of each pod the uid, the containers that run, and what the cluster calls it: namespace, name, service account,
//! labels. The list is kept for a moment and fetched by one connection at a time, whoever else waits.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Uri;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Answer, Authority, Claim, Doubt};
use crate::config;
use crate::http::{self, Http, HttpError};
use crate::upstream::{self, UpstreamError};
use crate::workload::Pod;

const NAME: &str = "kubelet";

/// As long a list is believed: a pod's labels can change, and its containers end.
const FRESH: Duration = Duration::from_secs(9);

/// How long what was read in a list holds for a cgroup: together, ten seconds.
const BELIEVED: Duration = Duration::from_secs(1);

/// The kubelet hears of a container up to a second after it began, so who is not in the list may be in the next one.
const BETWEEN: Duration = Duration::from_millis(500);

/// Longest a list is waited for. Shorter than the patience of those who ask, so that a failure is remembered by the one
/// who fetches, and told to those who wait.
const LONGEST: Duration = Duration::from_secs(2);

/// How long a container that is not in the list is looked for.
const LOOKED_FOR: Duration = Duration::from_millis(2500);

/// Of a list: some hundred pods at some ten KiB each, and room.
const LARGEST: usize = 32 << 20;

#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    #[error("authorities.kubelet.url: {0}")]
    Address(#[from] HttpError),
    #[error("authorities.kubelet.ca_file: {0}")]
    Tls(#[from] UpstreamError),
    #[error("authorities.kubelet.server_name: `{0}` is neither a name nor an address")]
    Name(String),
}

pub(super) struct Kubelet {
    url: Uri,
    token_file: PathBuf,
    http: Http,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    /// By uid.
    pods: HashMap<String, Listed>,
    /// Why there is none, if there is none.
    failed: Option<String>,
    /// When it was asked for last.
    tried: Option<Instant>,
}

struct Listed {
    pod: Pod,
    /// Ids of the containers that run.
    running: Vec<String>,
}

// Of v1.PodList (kubernetes/api, core/v1/types.go), the fields that are used.

#[derive(Deserialize)]
struct PodList {
    kind: String,
    /// Null when there is no pod.
    items: Option<Vec<Item>>,
}

#[derive(Deserialize)]
struct Item {
    metadata: Metadata,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    namespace: String,
    uid: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    service_account_name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    container_statuses: Vec<Container>,
    init_container_statuses: Vec<Container>,
    ephemeral_container_statuses: Vec<Container>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    /// `containerd://` and the id; missing before there is one.
    #[serde(rename = "containerID", default)]
    id: String,
    #[serde(default)]
    state: State,
}

#[derive(Default, Deserialize)]
struct State {
    running: Option<serde::de::IgnoredAny>,
}

impl Kubelet {
    pub(super) fn new(config: &config::Kubelet) -> Result<Self, KubeletError> {
        let url = http::address(&config.url)?;
        let tls = upstream::client_tls(Some(&config.ca_file))?;
        let name = config.server_name.clone();
        let name = name.map(|name| ServerName::try_from(name.clone()).map_err(|_| KubeletError::Name(name)));
        let http = Http::new(tls).up_to(LARGEST).named(name.transpose()?);
        Ok(Self { url, token_file: config.token_file.clone(), http, list: Mutex::default() })
    }

    async fn ask(&self, claim: &Claim) -> Result<Option<Pod>, Doubt> {
        let placement = &claim.placement;
        let (Some(uid), Some(container)) = (&placement.pod, &placement.container) else {
            return Err(Doubt::NobodyToAsk);
        };
        let deadline = Instant::now() + LOOKED_FOR;
        loop {
            let doubt = match self.look(uid, container).await {
                Ok(pod) => return Ok(Some(pod)),
                Err(doubt) => doubt,
            };
            // A container may be younger than the list; a kubelet that does not answer is not asked again.
            if matches!(doubt, Doubt::Unreachable { .. }) || Instant::now() + BETWEEN > deadline {
                return Err(doubt);
            }
            tokio::time::sleep(BETWEEN).await;
        }
    }

    async fn look(&self, uid: &str, container: &str) -> Result<Pod, Doubt> {
        let mut list = self.list.lock().await;
        let age = list.tried.map(|tried| tried.elapsed());
        let known = list.failed.is_none() && list.pods.get(uid).is_some_and(|pod| pod.runs(container));
        if age.is_none_or(|age| age >= if known { FRESH } else { BETWEEN }) {
            *list = self.fetched().await;
        }
        if let Some(why) = &list.failed {
            return Err(Doubt::Unreachable { authority: NAME, why: why.clone() });
        }
        let otherwise = |why: &str| Doubt::Otherwise { authority: NAME, why: why.to_owned() };
        let listed = list.pods.get(uid).ok_or_else(|| otherwise("there is no such pod on this node"))?;
        if listed.runs(container) {
            return Ok(listed.pod.clone());
        }
        Err(otherwise("the pod has no such container, or it does not run"))
    }

    async fn fetched(&self) -> List {
        let (pods, failed) = match tokio::time::timeout(LONGEST, self.fetch()).await {
            Ok(Ok(pods)) => (pods, None),
            Ok(Err(why)) => (HashMap::new(), Some(why)),
            Err(_) => (HashMap::new(), Some(format!("no list of pods within {} s", LONGEST.as_secs()))),
        };
        List { pods, failed, tried: Some(Instant::now()) }
    }

    async fn fetch(&self) -> Result<HashMap<String, Listed>, String> {
        let bearer = [("authorization", format!("Bearer {}", read_token(&self.token_file)?))];
        let body = self.http.get_with(&self.url, &bearer).await.map_err(|error| error.to_string())?;
        parse(&body)
    }
}

impl Listed {
    fn runs(&self, container: &str) -> bool {
        self.running.iter().any(|id| id == container)
    }
}

fn read_token(path: &Path) -> Result<String, String> {
    let token = upstream::read_secret(path).map_err(|error| error.to_string())?;
    let token = std::str::from_utf8(token.expose()).unwrap_or_default().trim();
    // What is shown in a header; anything else is not a token.
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("{} holds no token", path.display()));
    }
    Ok(token.to_owned())
}

fn parse(body: &[u8]) -> Result<HashMap<String, Listed>, String> {
    let unreadable = |why: &dyn std::fmt::Display| format!("its list of pods cannot be read: {why}");
    let list: PodList = serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
    if list.kind != "PodList" {
        return Err(unreadable(&format!("it is a {}", list.kind.escape_debug())));
    }
    let mut pods = HashMap::new();
    for item in list.items.into_iter().flatten() {
        let Metadata { name, namespace, uid, labels } = item.metadata;
        // Since there are service accounts, no pod is without one: a pod that names none runs as `default`.
        let account = item.spec.service_account_name;
        let account = if account.is_empty() { "default".to_owned() } else { account };
        let pod = Pod { namespace, name, service_account: Some(account), labels };
        if pods.insert(uid, Listed { pod, running: item.status.running() }).is_some() {
            return Err(unreadable(&"two pods have one uid"));
        }
    }
    Ok(pods)
}

impl Status {
    fn running(self) -> Vec<String> {
        let all = [self.container_statuses, self.init_container_statuses, self.ephemeral_container_statuses];
        let running = all.into_iter().flatten().filter(|container| container.state.running.is_some());
        running.filter_map(|container| Some(container.id.split_once("://")?.1.to_owned())).collect()
    }
}

impl Authority for Kubelet {
    fn name(&self) -> &'static str {
        NAME
    }

    fn confirm<'a>(&'a self, claim: &'a Claim) -> Answer<'a> {
        Box::pin(self.ask(claim))
    }

    fn believed(&self) -> Duration {
        BELIEVED
    }
}

#[cfg(test)]
mod tests;
