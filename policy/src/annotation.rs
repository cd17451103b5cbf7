//! Annotations as typed and as meant.
//!
//! Cedar accepts any annotation with any value; here an unknown key, a value that does not parse, or an annotation
//! where it could have no effect is refused, because each would be a control that is not there.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use cedar_policy::{Effect, Policy};

use crate::problem::Problem;
use crate::vocabulary::{Action, ContextOf, MaskWith, RecordMode, nearest};

/// How long an approval stays good when the rule does not say.
pub(crate) const DEFAULT_APPROVAL_TTL: Duration = Duration::from_secs(15 * 60);
/// An approval older than this is a grant, and grants are not made in passing.
const LONGEST_APPROVAL_TTL: Duration = Duration::from_secs(24 * 60 * 60);
const MOST_APPROVERS: u32 = 20;
const LONGEST_TEXT: usize = 500;

pub(crate) const KEYS: &[&str] = &[
    "id",
    "reason",
    "hint",
    "approval",
    "quorum",
    "approval_ttl",
    "max_rows",
    "max_bytes",
    "max_time",
    "record",
    "mask_with",
];

/// What has to be given before the rule `rule` stops forbidding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApprovalNeed {
    pub rule: String,
    /// An approver has to be in one of these.
    pub groups: Vec<String>,
    /// How many different approvers.
    pub quorum: u32,
    /// How old an approval may be when the statement is released.
    pub ttl: Duration,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Annotations {
    pub(crate) reason: Option<String>,
    pub(crate) hint: Option<String>,
    pub(crate) approval: Option<ApprovalNeed>,
    pub(crate) max_rows: Option<u64>,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) max_time: Option<Duration>,
    pub(crate) record: BTreeSet<RecordMode>,
    pub(crate) mask_with: Option<MaskWith>,
}

/// Reads the annotations of one policy. `actions` are those its scope covers.
pub(crate) fn read(policy: &Policy, rule: &str, actions: &[Action]) -> Result<Annotations, Vec<Problem>> {
    let mut meant = Annotations::default();
    let mut quorum = None;
    let mut ttl = None;
    let mut problems = Vec::new();

    let mut typed: Vec<(&str, &str)> = policy.annotations().collect();
    typed.sort_unstable();
    for (key, value) in typed {
        let result = match key {
            "id" => Ok(()),
            "reason" => text(key, value).map(|text| meant.reason = Some(text)),
            "hint" => text(key, value).map(|text| meant.hint = Some(text)),
            "approval" => groups(key, value).map(|groups| {
                let rule = rule.to_owned();
                meant.approval = Some(ApprovalNeed { rule, groups, quorum: 1, ttl: DEFAULT_APPROVAL_TTL });
            }),
            "quorum" => approvers(key, value).map(|n| quorum = Some(n)),
            "approval_ttl" => approval_ttl(key, value).map(|t| ttl = Some(t)),
            "max_rows" => rows(key, value).map(|rows| meant.max_rows = Some(rows)),
            "max_bytes" => bytes(key, value).map(|bytes| meant.max_bytes = Some(bytes)),
            "max_time" => time(key, value).map(|time| meant.max_time = Some(time)),
            "record" => modes(key, value).map(|modes| meant.record = modes),
            "mask_with" => mask(key, value).map(|mask| meant.mask_with = Some(mask)),
            unknown => {
                Err(Problem::UnknownAnnotation { key: unknown.to_owned(), nearest: nearest(unknown, KEYS) })
            }
        };
        problems.extend(result.err());
        problems.extend(no_effect(key, policy, actions));
    }

    if let Some(need) = &mut meant.approval {
        need.quorum = quorum.unwrap_or(need.quorum);
        need.ttl = ttl.unwrap_or(need.ttl);
    }
    if problems.is_empty() { Ok(meant) } else { Err(problems) }
}

/// Refuses an annotation where nothing would ever look at it.
fn no_effect(key: &str, policy: &Policy, actions: &[Action]) -> Option<Problem> {
    let forbid = policy.effect() == Effect::Forbid;
    let why = match key {
        "approval" if !forbid => {
            "a permit cannot wait for approval; put it on a forbid that covers the same statements"
        }
        "approval" if actions.iter().all(|action| matches!(action, Action::Unmask | Action::Reveal)) => {
            "unmasking is not held; what is masked is shown or not"
        }
        "approval" if actions.iter().all(|action| !action.is_done()) => {
            "a yes does not wait for another yes; @quorum says how many it takes"
        }
        "approval" if actions.iter().all(|action| *action == Action::Env) => {
            "a variable is passed on or not; a client does not wait for it"
        }
        "quorum" | "approval_ttl" if policy.annotation("approval").is_none() => {
            "it belongs to @approval, which is missing"
        }
        "hint" if !forbid => "a hint is shown with a denial; put it on a forbid",
        "max_rows" | "max_bytes" | "max_time" | "mask_with" if forbid => {
            "it limits what is permitted; put it on a permit"
        }
        "max_rows" | "max_bytes" | "mask_with" if !actions.iter().any(|action| action.returns_rows()) => {
            "none of the actions of this policy returns rows"
        }
        "max_time" if !actions.iter().any(|action| action.context() == ContextOf::Statement) => {
            "none of the actions of this policy is a statement"
        }
        "record" if forbid && policy.annotation("approval").is_none() => {
            "nothing runs that could be recorded; the denial itself always is"
        }
        "record" if actions.iter().all(|action| !action.is_done()) => {
            "what is recorded is decided with the statement, not with the column"
        }
        _ => return None,
    };
    Some(Problem::NoEffect { key: key.to_owned(), why })
}

fn bad(key: &str, value: &str, expected: &'static str) -> Problem {
    Problem::BadAnnotation { key: key.to_owned(), value: value.to_owned(), expected }
}

/// Text that reaches the client in an error message.
fn text(key: &str, value: &str) -> Result<String, Problem> {
    let value = value.trim();
    if value.is_empty() || value.chars().count() > LONGEST_TEXT || value.chars().any(is_deceptive) {
        return Err(bad(key, value, "one line of at most 500 characters, without control characters"));
    }
    Ok(value.to_owned())
}

/// Control characters, and those that make text read in another order than it is stored.
fn is_deceptive(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn groups(key: &str, value: &str) -> Result<Vec<String>, Problem> {
    let mut groups: Vec<String> = value.split(',').map(|group| group.trim().to_owned()).collect();
    groups.sort();
    groups.dedup();
    if groups.iter().any(|group| group.is_empty() || group.chars().any(is_deceptive)) {
        return Err(bad(key, value, "a group, or several separated by commas of which any one may approve"));
    }
    Ok(groups)
}

fn approvers(key: &str, value: &str) -> Result<u32, Problem> {
    let expected = "a whole number from 1 to 20";
    value.parse().ok().filter(|n| (1..=MOST_APPROVERS).contains(n)).ok_or_else(|| bad(key, value, expected))
}

fn rows(key: &str, value: &str) -> Result<u64, Problem> {
    value.parse().ok().filter(|n| *n > 0).ok_or_else(|| bad(key, value, "a whole number above 0"))
}

/// Bytes as the server sends them, plain or in kB, MB or GB (of 1024).
fn bytes(key: &str, value: &str) -> Result<u64, Problem> {
    let units = [("kB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30)];
    let unit = units.into_iter().find_map(|(unit, size)| Some((value.strip_suffix(unit)?, size)));
    let (number, size) = unit.unwrap_or((value, 1));
    let plain = number.bytes().all(|byte| byte.is_ascii_digit());
    let bytes = number.parse().ok().filter(|n: &u64| plain && *n > 0).and_then(|n| n.checked_mul(size));
    bytes.ok_or_else(|| {
        bad(key, value, "a number of bytes above 0, for example \"65536\", \"64kB\" or \"10MB\"")
    })
}

fn time(key: &str, value: &str) -> Result<Duration, Problem> {
    let expected = "a duration from \"1s\" to \"24h\", in s, m or h, for example \"30s\"";
    duration(value).filter(|time| *time <= LONGEST_APPROVAL_TTL).ok_or_else(|| bad(key, value, expected))
}

fn approval_ttl(key: &str, value: &str) -> Result<Duration, Problem> {
    let expected = "a duration from \"1s\" to \"24h\", in s, m or h, for example \"15m\"";
    duration(value).filter(|ttl| *ttl <= LONGEST_APPROVAL_TTL).ok_or_else(|| bad(key, value, expected))
}

fn duration(value: &str) -> Option<Duration> {
    let (number, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok().filter(|n| *n > 0)?;
    number.checked_mul(seconds).map(Duration::from_secs)
}

fn modes(key: &str, value: &str) -> Result<BTreeSet<RecordMode>, Problem> {
    let expected = "\"rows\", \"meta\", \"asciicast\", \"raw\" or several separated by commas";
    value
        .split(',')
        .map(|mode| RecordMode::from_str(mode.trim()).map_err(|_| bad(key, value, expected)))
        .collect()
}

fn mask(key: &str, value: &str) -> Result<MaskWith, Problem> {
    value.parse().map_err(|_| bad(key, value, "\"redact\" or \"null\""))
}
