//! Tells people that something waits for them: one signed HTTPS request per webhook and request.
//!
//! An announcement is a courtesy. It carries no right, nothing waits for it, and one that cannot be delivered is
//! logged and forgotten: what is held stays held, and stays listed in `chaperone approvals`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::Uri;
use ring::hmac;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::config::{Shape, Webhook};
use crate::gate::{Held, HoldInfo, InTheWay};
use crate::http::{self, Http};
use crate::secret::Secret;
use crate::upstream;

const TRIES: u32 = 3;
/// Of a statement, where the configuration lets it be shown at all.
const SHOWN: usize = 2000;

/// Announcements on their way; more are dropped.
pub(super) const QUEUE: usize = 64;

/// A webhook, ready to be called.
pub(super) struct Hook {
    name: String,
    address: Uri,
    shape: Shape,
    statement: bool,
    key: hmac::Key,
    http: Http,
}

impl Hook {
    /// Reads its secret and certificates.
    pub(super) fn load(rule: &Webhook) -> anyhow::Result<Self> {
        let secret: Secret<Vec<u8>> = upstream::read_secret(&rule.secret_file)?;
        anyhow::ensure!(
            secret.expose().len() >= 16,
            "{}: a secret of at least 16 bytes is needed",
            rule.secret_file.display()
        );
        let tls = if rule.url.starts_with("http://") {
            http::no_tls()
        } else {
            upstream::client_tls(rule.ca_file.as_deref())?
        };
        Ok(Self {
            name: rule.name.clone(),
            address: http::address(&rule.url)?,
            shape: rule.shape,
            statement: rule.statement,
            key: hmac::Key::new(hmac::HMAC_SHA256, secret.expose()),
            http: Http::new(tls),
        })
    }

    async fn call(&self, hold: &HoldInfo, host: &str) -> Result<(), http::HttpError> {
        let body = payload(self.shape, hold, host, self.statement).to_string();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let headers = [
            ("x-chaperone-timestamp", now.to_string()),
            ("x-chaperone-signature", signature(&self.key, now, &body)),
        ];
        self.http.post_json(&self.address, body, &headers).await
    }
}

/// Announces until the other end is gone.
pub(super) async fn run(hooks: Vec<Hook>, host: String, mut holds_rx: mpsc::Receiver<HoldInfo>) {
    let hooks: Vec<Arc<Hook>> = hooks.into_iter().map(Arc::new).collect();
    while let Some(hold) = holds_rx.recv().await {
        for hook in &hooks {
            // One that is slow does not hold up the others.
            tokio::spawn(deliver(Arc::clone(hook), hold.clone(), host.clone()));
        }
    }
}

async fn deliver(hook: Arc<Hook>, hold: HoldInfo, host: String) {
    for attempt in 1..=TRIES {
        match hook.call(&hold, &host).await {
            Ok(()) => return info!(webhook = hook.name, hold = hold.id, "announced"),
            Err(error) => warn!(webhook = hook.name, hold = hold.id, attempt, %error, "not announced"),
        }
        tokio::time::sleep(Duration::from_secs(u64::from(attempt) * 2)).await;
    }
}

/// `v1=` and the HMAC-SHA-256 of `<timestamp>.<body>` in hex. The timestamp is in it, so that an old one cannot be sent again.
fn signature(key: &hmac::Key, timestamp: u64, body: &str) -> String {
    let tag = hmac::sign(key, format!("{timestamp}.{body}").as_bytes());
    format!("v1={}", crate::hex(tag.as_ref()))
}

fn payload(shape: Shape, hold: &HoldInfo, host: &str, statement: bool) -> Value {
    let groups: Vec<&str> = hold.needs.iter().flat_map(|need| &need.groups).map(String::as_str).collect();
    let what = match hold.what {
        Held::Access => "access",
        Held::Statement => "a statement",
    };
    let place = format!("{}/{}", hold.target, hold.database);
    let shown =
        statement.then(|| hold.sql.chars().take(SHOWN).collect::<String>().escape_debug().to_string());
    let title = format!("{} asks for {what} on {place}", hold.identity.name);
    let how = format!("chaperone approve {} (on {host})", hold.id);
    let mut text = format!("{title}: {}. {how}", hold.reason.as_deref().unwrap_or("-"));
    if let Some(InTheWay { sessions, seconds, .. }) = &hold.in_the_way {
        text.push_str(&format!(". {sessions} sessions have waited for {seconds} s for what it has locked"));
    }
    if let Some(sql) = shown.as_deref().filter(|sql| !sql.is_empty()) {
        text.push_str(": ");
        text.push_str(sql);
    }
    match shape {
        Shape::Json => json!({
            "id": hold.id,
            "what": hold.what,
            "host": host,
            "identity": hold.identity.name,
            "target": hold.target,
            "database": hold.database,
            "policies": hold.policies,
            "reason": hold.reason,
            "groups": groups,
            "expires_unix_s": hold.expires_unix_s,
            "binding": hold.binding,
            "statement": shown,
            "in_the_way": hold.in_the_way,
        }),
        Shape::Slack => json!({"text": slack(&text)}),
        Shape::Teams => json!({
            "type": "message",
            "attachments": [{
                "contentType": "application/vnd.microsoft.card.adaptive",
                "content": {
                    "type": "AdaptiveCard",
                    "version": "1.4",
                    "body": [
                        {"type": "TextBlock", "text": title, "weight": "bolder", "wrap": true},
                        {"type": "TextBlock", "text": text, "wrap": true},
                    ],
                },
            }],
        }),
    }
}

/// The three characters that mean something there; without this a statement could mention people or hide links.
fn slack(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Need;
    use crate::record::event::Identity;

    fn hold() -> HoldInfo {
        HoldInfo {
            id: "h-1".into(),
            what: Held::Statement,
            session: "s".into(),
            op: 1,
            identity: Identity { name: "bot".into(), groups: vec![] },
            owner: None,
            workload: None,
            target: "shop".into(),
            env: "prod".into(),
            database: "crm".into(),
            host: false,
            sql: "DELETE FROM t WHERE a = '<!channel>'".into(),
            binds: vec![],
            settings: std::collections::BTreeMap::new(),
            request: "b".into(),
            binding: "b".into(),
            policies: vec!["r".into()],
            reason: Some("two eyes".into()),
            needs: vec![Need { rule: "r".into(), groups: vec!["dba".into()], quorum: 1, ttl_s: 60 }],
            given: vec![],
            blast: None,
            in_the_way: None,
            created_unix_s: 0,
            expires_unix_s: 9,
        }
    }

    #[test]
    fn a_signature_covers_time_and_body() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef");
        let made = signature(&key, 1_700_000_000, "{}");
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac 0123456789abcdef
        assert_eq!(made, "v1=e4f8e2ecae2295b2ddb2f0b5584c8275e226c0ebe9b3b819e70156bb67122e3e");
        assert_ne!(made, signature(&key, 1_700_000_001, "{}"));
    }

    #[test]
    fn statements_are_shown_only_where_that_was_said_and_never_as_markup() {
        for shape in [Shape::Json, Shape::Slack, Shape::Teams] {
            let quiet = payload(shape, &hold(), "host", false).to_string();
            assert!(quiet.contains("h-1") && quiet.contains("bot") && !quiet.contains("DELETE"), "{quiet}");
            let told = payload(shape, &hold(), "host", true).to_string();
            assert!(told.contains("DELETE FROM t"), "{told}");
        }
        let slack = payload(Shape::Slack, &hold(), "host", true).to_string();
        assert!(slack.contains("&lt;!channel&gt;") && !slack.contains("<!channel>"), "{slack}");
    }
}
