//! The Kubernetes Container Runtime Interface (runtime.v1), as containerd and CRI-O serve it on a unix socket.
//!
//! One call: ContainerStatus. Its labels are the kubelet's and name the pod by its uid, so one answer confirms container
//! and pod. Of the pod it knows namespace and name; service account and labels are the kubelet's to tell.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use prost::Message;
use serde::Deserialize;

use super::{Answer, Authority, Claim, Doubt, holds_process};
use crate::grpc::{self, GrpcError};
use crate::workload::Pod;
use crate::workload::grammar::Kind;

const NAME: &str = "cri";
const METHOD: &str = "/runtime.v1.RuntimeService/ContainerStatus";
/// Set by the kubelet on every container (kubernetes/pkg/kubelet/types/labels.go).
const POD_UID: &str = "io.kubernetes.pod.uid";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const POD_NAME: &str = "io.kubernetes.pod.name";
/// CONTAINER_RUNNING
const RUNNING: i32 = 1;
/// gRPC's NOT_FOUND.
const NOT_FOUND: u16 = 5;

// Of runtime.v1 (kubernetes/cri-api, api.proto), the fields that are used.

#[derive(Message)]
struct ContainerStatusRequest {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(bool, tag = "2")]
    verbose: bool,
}

#[derive(Message)]
struct ContainerStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<ContainerStatus>,
    /// With `verbose`. Under `info` both runtimes keep JSON with the pid.
    #[prost(map = "string, string", tag = "2")]
    info: HashMap<String, String>,
}

#[derive(Message)]
struct ContainerStatus {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(int32, tag = "3")]
    state: i32,
    #[prost(map = "string, string", tag = "12")]
    labels: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Info {
    pid: i32,
}

pub(super) struct Cri {
    socket: PathBuf,
}

impl Cri {
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    async fn ask(&self, claim: &Claim) -> Result<Option<Pod>, Doubt> {
        let otherwise = |why: &str| Doubt::Otherwise { authority: NAME, why: why.to_owned() };
        let unreadable = |why: String| Doubt::Unreachable { authority: NAME, why };
        let id = claim.placement.container.clone().ok_or(Doubt::NobodyToAsk)?;
        let request = ContainerStatusRequest { container_id: id.clone(), verbose: true };
        let answer = grpc::call(&self.socket, METHOD, &[], &request.encode_to_vec()).await;
        let answer = answer.map_err(|error| match error {
            GrpcError::Refused { code: NOT_FOUND, .. } => otherwise("there is no such container"),
            error => unreadable(error.to_string()),
        })?;
        let answer = ContainerStatusResponse::decode(answer)
            .map_err(|error| unreadable(format!("its answer cannot be read: {error}")))?;
        let status = answer.status.ok_or_else(|| otherwise("it knows nothing of the container"))?;
        if status.id != id {
            return Err(otherwise("it answered about another container"));
        }
        if status.state != RUNNING {
            return Err(otherwise("the container does not run"));
        }
        let in_pod = claim.placement.kind == Kind::K8s;
        if in_pod && status.labels.get(POD_UID) != claim.placement.pod.as_ref() {
            return Err(otherwise("the container belongs to another pod"));
        }
        let info = answer.info.get("info").map_or("", String::as_str);
        let info: Info = serde_json::from_str(info)
            .map_err(|error| unreadable(format!("it does not say which process it runs: {error}")))?;
        holds_process(&claim.root, info.pid).map_err(|why| Doubt::Otherwise { authority: NAME, why })?;
        Ok(in_pod.then(|| pod(&status.labels)).flatten())
    }
}

fn pod(labels: &HashMap<String, String>) -> Option<Pod> {
    let (namespace, name) = (labels.get(POD_NAMESPACE)?.clone(), labels.get(POD_NAME)?.clone());
    Some(Pod { namespace, name, ..Pod::default() })
}

impl Authority for Cri {
    fn name(&self) -> &'static str {
        NAME
    }

    fn confirm<'a>(&'a self, claim: &'a Claim) -> Answer<'a> {
        Box::pin(self.ask(claim))
    }
}
