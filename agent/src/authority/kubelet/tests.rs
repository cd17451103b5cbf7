use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::http::testing::authority;
use crate::workload::grammar;

const UID: &str = "1505f8a9-c386-80d2-9fe6-1118d6f7704b";

fn id(digit: &str) -> String {
    digit.repeat(64)
}

#[derive(Clone)]
enum How {
    Says(Value),
    Status(u16),
    Garbage,
    Endless,
    Silent,
}

/// A kubelet that does as it is told, and counts.
struct Node {
    folder: tempfile::TempDir,
    port: u16,
    how: StdMutex<How>,
    asked: AtomicUsize,
    bearer: StdMutex<String>,
}

impl Node {
    async fn start() -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        let server = authority(&folder.path().join("ca.pem"), "node-1");
        authority(&folder.path().join("other.pem"), "node-1");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (how, bearer) = (StdMutex::new(How::Says(list())), StdMutex::default());
        let node = Arc::new(Self { folder, port, how, asked: AtomicUsize::new(0), bearer });
        node.token("the-token\n");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        let served = Arc::clone(&node);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (node, acceptor) = (Arc::clone(&served), acceptor.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        node.answer(stream).await;
                    }
                });
            }
        });
        node
    }

    async fn answer(&self, mut stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>) -> Option<()> {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut request).await.ok().filter(|read| *read > 0)?;
        }
        let text = String::from_utf8(request).unwrap();
        assert!(text.starts_with("GET /pods HTTP/1.1\r\n"), "{text}");
        self.asked.fetch_add(1, Ordering::Relaxed);
        let bearer = text.lines().find_map(|line| line.strip_prefix("authorization: ")).unwrap_or_default();
        bearer.clone_into(&mut self.bearer.lock().unwrap());
        let how = self.how.lock().unwrap().clone();
        let (status, body) = match how {
            How::Says(value) => (200, value.to_string()),
            How::Status(status) => (status, "no".into()),
            How::Garbage => (200, "<html>".into()),
            How::Endless => {
                let head = "HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n";
                stream.write_all(head.as_bytes()).await.ok()?;
                let piece = vec![b' '; 1 << 20];
                for _ in 0..100 {
                    stream.write_all(&piece).await.ok()?;
                }
                return None;
            }
            How::Silent => std::future::pending().await,
        };
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.ok()?;
        stream.write_all(body.as_bytes()).await.ok()?;
        stream.shutdown().await.ok()
    }

    fn token(&self, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.folder.path().join("token");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn says(&self, how: How) {
        *self.how.lock().unwrap() = how;
    }

    fn kubelet(&self, ca: &str, name: Option<&str>) -> Kubelet {
        let at = |file: &str| self.folder.path().join(file);
        let url = format!("https://127.0.0.1:{}/pods", self.port);
        let server_name = name.map(str::to_owned);
        let config = config::Kubelet { url, ca_file: at(ca), server_name, token_file: at("token") };
        Kubelet::new(&config).unwrap()
    }
}

/// As a kubelet of 1.31 answers, shortened: a pod with an init container that has ended, one that runs, one that waits.
fn list() -> Value {
    let running = json!({"running": {"startedAt": "2026-11-20T08:00:00Z"}});
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [
        {
            "metadata": {"name": "billing-7c9", "namespace": "shop", "uid": UID, "labels": {"app": "billing"},
                         "annotations": {"kubernetes.io/config.seen": "2026-11-20T08:00:00Z"}},
            "spec": {"serviceAccountName": "billing", "nodeName": "node-1", "containers": [{"name": "main"}]},
            "status": {
                "phase": "Running",
                "containerStatuses": [
                    {"name": "main", "state": running, "ready": true, "containerID": format!("containerd://{}", id("a"))},
                    {"name": "late", "state": {"waiting": {"reason": "ContainerCreating"}}},
                ],
                "initContainerStatuses": [
                    {"name": "init", "state": {"terminated": {"exitCode": 0}}, "containerID": format!("containerd://{}", id("b"))},
                ],
            },
        },
        {"metadata": {"name": "bare", "namespace": "other", "uid": "2505f8a9-c386-80d2-9fe6-1118d6f7704b"},
         "spec": {"containers": []}, "status": {"phase": "Pending"}},
    ]})
}

fn claim(uid: &str, container: &str) -> Claim {
    let path = format!("/kubepods/burstable/pod{uid}/{container}");
    let parsed = grammar::parse_path(&path, grammar::Options::default());
    Claim { placement: parsed.placement, root: parsed.root }
}

async fn doubt(kubelet: &Kubelet, of: &Claim) -> String {
    kubelet.ask(of).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_container_that_runs_in_its_pod_is_confirmed_with_what_the_cluster_calls_it() {
    let node = Node::start().await;
    let kubelet = node.kubelet("ca.pem", Some("node-1"));
    let pod = kubelet.ask(&claim(UID, &id("a"))).await.unwrap().unwrap();
    let labels = [("app".to_owned(), "billing".to_owned())].into();
    let (namespace, name) = ("shop".to_owned(), "billing-7c9".to_owned());
    assert_eq!(pod, Pod { namespace, name, service_account: Some("billing".into()), labels });
    assert_eq!(*node.bearer.lock().unwrap(), "Bearer the-token");
    for (uid, container, why) in [
        (UID, id("c"), "no such container"),
        (UID, id("b"), "no such container, or it does not run"),
        ("2505f8a9-c386-80d2-9fe6-1118d6f7704b", id("a"), "no such container"),
        ("3505f8a9-c386-80d2-9fe6-1118d6f7704b", id("a"), "no such pod"),
    ] {
        let got = kubelet.look(uid, &container).await.unwrap_err().to_string();
        assert!(got.starts_with("kubelet says otherwise") && got.contains(why), "`{got}`, expected `{why}`");
    }
}

#[tokio::test]
async fn a_list_serves_many_and_is_fetched_by_one() {
    let node = Node::start().await;
    let kubelet = Arc::new(node.kubelet("ca.pem", Some("node-1")));
    let ask = || {
        let kubelet = Arc::clone(&kubelet);
        tokio::spawn(async move { kubelet.ask(&claim(UID, &id("a"))).await })
    };
    let asking: Vec<_> = (0..20).map(|_| ask()).collect();
    for asked in asking {
        asked.await.unwrap().unwrap();
    }
    assert_eq!(node.asked.load(Ordering::Relaxed), 1);
    // Who is not in the list is looked for in the next one; that comes soon, not at once.
    node.says(How::Says({
        let mut list = list();
        list["items"][0]["status"]["containerStatuses"][1] = json!({
            "containerID": format!("containerd://{}", id("c")), "state": {"running": {}},
        });
        list
    }));
    kubelet.ask(&claim(UID, &id("c"))).await.unwrap();
    assert_eq!(node.asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn every_bad_answer_is_a_doubt() {
    let node = Node::start().await;
    let of = claim(UID, &id("a"));
    let mut twice = list();
    twice["items"][1]["metadata"]["uid"] = json!(UID);
    let node_list = json!({"kind": "NodeList", "items": []});
    for (how, why) in [
        (How::Status(500), "answered 500"),
        (How::Status(401), "answered 401"),
        (How::Garbage, "cannot be read"),
        (How::Endless, "more than 32 MiB"),
        (How::Silent, "no list of pods within 2 s"),
        (How::Says(node_list), "it is a NodeList"),
        (How::Says(json!({"kind": "PodList", "items": [{}]})), "cannot be read"),
        (How::Says(json!([])), "cannot be read"),
        (How::Says(twice), "two pods have one uid"),
        (How::Says(json!({"kind": "PodList", "items": null})), "no such pod"),
    ] {
        let endless = matches!(how, How::Endless);
        node.says(how);
        let got = doubt(&node.kubelet("ca.pem", Some("node-1")), &of).await;
        // Where the machine is busy, the time may be up before the room is.
        let slow = endless && got.contains("no list of pods within");
        assert!(got.contains(why) || slow, "`{got}`, expected `{why}`");
    }
}

#[tokio::test]
async fn who_is_not_the_kubelet_is_not_shown_the_token() {
    let node = Node::start().await;
    let of = claim(UID, &id("a"));
    for kubelet in [node.kubelet("other.pem", Some("node-1")), node.kubelet("ca.pem", None)] {
        let got = doubt(&kubelet, &of).await;
        assert!(got.contains("certificate"), "{got}");
    }
    assert_eq!(node.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_token_is_read_each_time_and_needed() {
    let node = Node::start().await;
    let of = claim(UID, &id("a"));
    let ask =
        async || node.kubelet("ca.pem", Some("node-1")).ask(&of).await.map_err(|doubt| doubt.to_string());
    node.token("another");
    ask().await.unwrap();
    assert_eq!(*node.bearer.lock().unwrap(), "Bearer another");
    for text in ["", "\n", "two\nlines", "h\u{e9}"] {
        node.token(text);
        let got = ask().await.unwrap_err();
        assert!(got.contains("holds no token"), "{text:?}: {got}");
    }
    std::fs::remove_file(node.folder.path().join("token")).unwrap();
    let got = ask().await.unwrap_err();
    assert!(got.contains("token: No such file"), "{got}");
}

#[tokio::test]
async fn what_was_known_is_not_believed_when_the_kubelet_is_gone() {
    let node = Node::start().await;
    let kubelet = node.kubelet("ca.pem", Some("node-1"));
    let of = claim(UID, &id("a"));
    kubelet.ask(&of).await.unwrap();
    node.says(How::Status(500));
    kubelet.ask(&of).await.unwrap();
    // As if the list were old.
    kubelet.list.lock().await.tried = Instant::now().checked_sub(FRESH);
    assert!(doubt(&kubelet, &of).await.contains("answered 500"));
    assert_eq!(node.asked.load(Ordering::Relaxed), 2);
}
