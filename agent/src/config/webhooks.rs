//! Webhooks: who is told that something waits for an approval.

use std::path::PathBuf;

use serde::Deserialize;

use super::file::name_is_plain;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    pub name: String,
    pub url: String,
    /// What requests are signed with.
    pub secret_file: PathBuf,
    pub ca_file: Option<PathBuf>,
    pub shape: Shape,
    /// Whether statements are sent along. They may hold what nobody there should read.
    pub statement: bool,
}

/// What the other side understands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    #[default]
    Json,
    Slack,
    Teams,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WebhookFile {
    name: String,
    url: String,
    secret_file: PathBuf,
    ca_file: Option<PathBuf>,
    #[serde(default)]
    shape: Shape,
    #[serde(default)]
    statement: bool,
}

pub(super) fn convert(typed: Vec<WebhookFile>, problems: &mut Vec<String>) -> Vec<Webhook> {
    for hook in &typed {
        name_is_plain("webhooks.name", &hook.name, problems);
        let loopback = ["http://127.0.0.1", "http://localhost", "http://[::1]"];
        if !hook.url.starts_with("https://") && !loopback.iter().any(|start| hook.url.starts_with(start)) {
            problems.push(format!(
                "webhooks.{}.url: `{}` is not an https address (http is for loopback only)",
                hook.name, hook.url
            ));
        }
    }
    let meant = |hook: WebhookFile| Webhook {
        name: hook.name,
        url: hook.url,
        secret_file: hook.secret_file,
        ca_file: hook.ca_file,
        shape: hook.shape,
        statement: hook.statement,
    };
    typed.into_iter().map(meant).collect()
}
