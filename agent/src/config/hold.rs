//! How long things wait for people, and others for them.

use std::time::Duration;

use serde::Deserialize;

use super::{Hold, LockAction};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct HoldFile {
    timeout_s: u64,
    lock_wait_s: u64,
    lock_action: LockAction,
}

impl Default for HoldFile {
    fn default() -> Self {
        Self { timeout_s: 300, lock_wait_s: 10, lock_action: LockAction::Deny }
    }
}

pub(super) fn convert(typed: &HoldFile, problems: &mut Vec<String>) -> Hold {
    if typed.timeout_s == 0 {
        problems.push(
            "hold.timeout_s: 0 would deny every held statement at once; use a policy that denies".into(),
        );
    }
    if typed.lock_wait_s == 0 {
        problems.push("hold.lock_wait_s: 0 would deny whatever anybody waits for; at least 1".into());
    }
    Hold {
        timeout: Duration::from_secs(typed.timeout_s),
        lock_wait: Duration::from_secs(typed.lock_wait_s),
        lock_action: typed.lock_action,
    }
}
