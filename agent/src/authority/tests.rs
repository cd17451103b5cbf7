use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Confirms what is called so, and counts how often it is asked.
struct Stub {
    name: &'static str,
    believes: &'static str,
    asked: Arc<AtomicUsize>,
    hangs: bool,
}

impl Authority for Stub {
    fn name(&self) -> &'static str {
        self.name
    }

    fn confirm<'a>(&'a self, claim: &'a Claim) -> Answer<'a> {
        Box::pin(async {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if self.hangs {
                std::future::pending::<()>().await;
            }
            let told = claim.root.contains(self.believes);
            let no = Doubt::Otherwise { authority: self.name, why: claim.root.clone() };
            told.then_some(None).ok_or(no)
        })
    }
}

fn stubs(hangs: bool) -> (Authorities, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let stub = |name, believes| {
        Box::new(Stub { name, believes, asked: Arc::clone(&asked), hangs }) as Box<dyn Authority>
    };
    let authorities = Authorities {
        systemd: stub("systemd", "good"),
        docker: stub("docker", "aaaa"),
        podman: stub("podman", "aaaa"),
        cri: stub("cri", "aaaa"),
        kubelet: None,
        known: Mutex::default(),
    };
    (authorities, asked)
}

#[tokio::test]
async fn each_kind_is_asked_of_who_gives_its_names_out() {
    let (authorities, _) = stubs(false);
    let (a, b) = ("a".repeat(64), "b".repeat(64));
    let pod = "kubepods-pod1505f8a9_c386_80d2_9fe6_1118d6f7704b.slice";
    let nobody = "no authority";
    for (cgroup, expect) in [
        (format!("/system.slice/docker-{a}.scope/x"), Ok("docker")),
        (format!("/docker/{a}"), Ok("docker")),
        (format!("/docker/{b}"), Err("docker says otherwise")),
        (format!("/machine.slice/libpod-{a}.scope"), Ok("podman")),
        (format!("/system.slice/cri-containerd-{a}.scope"), Ok("cri")),
        (format!("/kubepods.slice/{pod}/crio-{a}.scope"), Ok("cri")),
        // Below a pod the engine is the kubelet's business, whichever it is.
        (format!("/kubepods.slice/{pod}/docker-{b}.scope"), Err("cri says otherwise")),
        (format!("/kubepods.slice/{pod}"), Err(nobody)),
        ("/system.slice/good.service/x".into(), Ok("systemd")),
        (
            "/system.slice/bad.service/good.service".into(),
            Err("systemd says otherwise: /system.slice/bad.service"),
        ),
        (format!("/user.slice/user-1.slice/user@1.service/docker-{a}.scope"), Err(nobody)),
        ("/plain".into(), Err(nobody)),
        ("/".into(), Err(nobody)),
    ] {
        let got = authorities.ask(&cgroup).await;
        match (&got, expect) {
            (Ok(confirmed), Ok(expect)) => assert_eq!(confirmed.by, expect, "{cgroup}"),
            (Err(doubt), Err(part)) => assert!(doubt.to_string().contains(part), "{cgroup}: {doubt}"),
            _ => panic!("{cgroup}: {got:?}, expected {expect:?}"),
        }
    }
}

#[tokio::test]
async fn what_was_confirmed_is_asked_once_per_cgroup() {
    let (authorities, asked) = stubs(false);
    for _ in 0..3 {
        assert_eq!(authorities.confirm(7, "/a.slice/good.service").await.unwrap().by, "systemd");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // Another cgroup, and the same id under another name, are other questions.
    assert!(authorities.confirm(8, "/a.slice/good.service").await.is_ok());
    assert!(authorities.confirm(7, "/a.slice/bad.service").await.is_err());
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    // A doubt is kept for a moment, so that nobody's reconnecting storms the authority.
    assert!(authorities.confirm(7, "/a.slice/bad.service").await.is_err());
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_in_time_has_confirmed_nothing() {
    let (authorities, _) = stubs(true);
    let got = authorities.confirm(1, "/a.slice/good.service").await;
    assert_eq!(got, Err(Doubt::Slow { authority: "systemd" }));
}

#[tokio::test]
async fn without_anybody_to_ask_nothing_is_confirmed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let config = config::Authorities {
        systemd: at("u"),
        docker: at("d"),
        podman: at("p"),
        cri: at("c"),
        kubelet: None,
    };
    let authorities = Authorities::new(&config, dir.path()).unwrap();
    let a = "a".repeat(64);
    for cgroup in [format!("/docker/{a}"), format!("/x.slice/cri-containerd-{a}.scope"), "/a.service".into()]
    {
        assert!(authorities.ask(&cgroup).await.is_err(), "{cgroup}");
    }
}
