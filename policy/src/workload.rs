//! The process behind a session, as far as policy may know it, as Cedar values.
//!
//! Deliberately does not know how it was found out. What is not known is absent: a condition that needs it must say
//! `has`, the validator insists, and does not apply.

use std::fmt;
use std::sync::{Arc, OnceLock};

use cedar_policy::{Context, RestrictedExpression};

/// What is known of a process. All of it was noted by the kernel, none is the process's own claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// An absolute path of the host's; with `elsewhere:` or `nameless:` before it when it is not.
    pub exe: Option<String>,
    /// Lower-case hex.
    pub exe_sha256: Option<String>,
    pub uid: u32,
    pub gid: u32,
    /// Below the cgroup2 mount.
    pub cgroup: Option<String>,
    /// Executables of what led to the process, written like `exe`.
    pub ancestors: Vec<String>,
    /// None is missing among the ancestors.
    pub ancestors_complete: bool,
    /// Who the identity is was read off a cgroup's name, and nobody confirmed that the name tells the truth.
    pub unverified: bool,
    /// The authority that did.
    pub confirmed_by: Option<String>,
}

impl Default for Workload {
    /// Nobody known: -1 is no user (chown(2)).
    fn default() -> Self {
        Self {
            exe: None,
            exe_sha256: None,
            uid: u32::MAX,
            gid: u32::MAX,
            cgroup: None,
            ancestors: Vec::new(),
            ancestors_complete: false,
            unverified: false,
            confirmed_by: None,
        }
    }
}

/// A workload with what Cedar is given of it, worked out once per session.
pub(crate) struct Facts {
    workload: Workload,
    context: OnceLock<(RestrictedExpression, Context)>,
}

impl Facts {
    pub(crate) fn of(workload: Workload) -> Arc<Facts> {
        Arc::new(Facts { workload, context: OnceLock::new() })
    }

    /// As the attribute `workload`.
    pub(crate) fn attribute(&self) -> Result<(String, RestrictedExpression), String> {
        Ok((ATTRIBUTE.to_owned(), self.worked_out()?.0.clone()))
    }

    /// As the context of an action that has nothing else in it.
    pub(crate) fn alone(&self) -> Result<Context, String> {
        Ok(self.worked_out()?.1.clone())
    }

    fn worked_out(&self) -> Result<&(RestrictedExpression, Context), String> {
        if self.context.get().is_none() {
            let record = record(&self.workload)?;
            let context = Context::from_pairs([(ATTRIBUTE.to_owned(), record.clone())]);
            let both = (record, context.map_err(|error| error.to_string())?);
            // Somebody else may have been faster, with the same.
            let _same = self.context.set(both);
        }
        self.context.get().ok_or_else(|| "the workload could not be worked out".to_owned())
    }
}

impl fmt::Debug for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.workload.fmt(f)
    }
}

const ATTRIBUTE: &str = "workload";

/// Who can confirm what a cgroup's name says.
const AUTHORITIES: [&str; 5] = ["systemd", "docker", "podman", "cri", "kubelet"];

fn record(workload: &Workload) -> Result<RestrictedExpression, String> {
    let string = |text: &String| RestrictedExpression::new_string(text.clone());
    let optional = [
        ("exe", &workload.exe),
        ("exe_sha256", &workload.exe_sha256),
        ("cgroup", &workload.cgroup),
        ("confirmed_by", &workload.confirmed_by),
    ];
    let ancestors = RestrictedExpression::new_set(workload.ancestors.iter().map(string));
    let always = [
        ("uid", RestrictedExpression::new_long(workload.uid.into())),
        ("gid", RestrictedExpression::new_long(workload.gid.into())),
        ("ancestors", ancestors),
        ("ancestors_complete", RestrictedExpression::new_bool(workload.ancestors_complete)),
        ("unverified", RestrictedExpression::new_bool(workload.unverified)),
    ];
    let known = optional.into_iter().filter_map(|(name, text)| Some((name, string(text.as_ref()?))));
    let fields = known.chain(always).map(|(name, value)| (name.to_owned(), value));
    RestrictedExpression::new_record(fields).map_err(|error| error.to_string())
}

/// What a policy compares an attribute with although no workload can ever have it: the attribute, the text, and what
/// texts of this kind look like.
pub(crate) fn impossible(policy: &serde_json::Value) -> Option<(String, String, &'static str)> {
    let mut open = vec![policy];
    while let Some(value) = open.pop() {
        if let Some(found) = ["==", "!=", "contains", "containsAll", "containsAny"]
            .into_iter()
            .find_map(|operator| impossible_in(value.get(operator)?))
        {
            return Some(found);
        }
        open.extend(value.as_array().into_iter().flatten());
        open.extend(value.as_object().into_iter().flat_map(|object| object.values()));
    }
    None
}

fn impossible_in(operands: &serde_json::Value) -> Option<(String, String, &'static str)> {
    let sides = [operands.get("left")?, operands.get("right")?];
    let attribute = sides.iter().find_map(|side| side.get(".")?.get("attr")?.as_str())?;
    let (fits, shape): (fn(&str) -> bool, _) = match attribute {
        "exe" | "ancestors" => (
            |text| ["/", "elsewhere:/", "nameless:/"].iter().any(|start| text.starts_with(start)),
            "\"/usr/bin/psql\", \"elsewhere:/usr/bin/psql\" or \"nameless:/memfd:x\"",
        ),
        "exe_sha256" => (
            |text| text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
            "64 lower-case hexadecimal digits",
        ),
        "cgroup" => (|text| text.starts_with('/'), "\"/agents.slice/billing-bot.service\""),
        "confirmed_by" => {
            (|text| AUTHORITIES.contains(&text), "\"systemd\", \"docker\", \"podman\" or \"cri\"")
        }
        _ => return None,
    };
    let mut literals = Vec::new();
    for side in sides {
        literals.extend(side.get("Value").and_then(|value| value.as_str()));
        let elements = side.get("Set").and_then(|set| set.as_array()).into_iter().flatten();
        literals.extend(elements.filter_map(|element| element.get("Value")?.as_str()));
    }
    let wrong = literals.into_iter().find(|text| !fits(text))?;
    Some((attribute.to_owned(), wrong.to_owned(), shape))
}
