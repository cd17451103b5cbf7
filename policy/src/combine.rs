//! One decision for a statement that needed several.

use crate::annotation::ApprovalNeed;
use crate::decide::{Cause, Decision, Effect, Obligations, smallest};

/// The strictest effect wins, with the rules, reasons and hint of those that had it. Obligations add up: the smallest
/// row limit, every recording, every approval. No decision at all is a denial.
pub fn combine(decisions: impl IntoIterator<Item = Decision>) -> Decision {
    let decisions: Vec<Decision> = decisions.into_iter().collect();
    let Some(effect) = decisions.iter().map(|decision| decision.effect).max() else {
        let reason = "nothing was asked, so nothing is permitted".to_owned();
        return Decision::deny(Cause::InvalidRequest, Vec::new(), reason, None);
    };

    let mut obligations = Obligations::default();
    let mut policies: Vec<String> = Vec::new();
    let mut reasons: Vec<String> = Vec::new();
    let mut hint = None;
    let mut cause = None;
    for decision in decisions {
        if effect != Effect::Deny {
            add(&mut obligations, decision.obligations);
        }
        if decision.effect == effect {
            cause = cause.or(Some(decision.cause));
            hint = hint.or(decision.hint);
            extend_new(&mut policies, decision.policies);
            extend_new(&mut reasons, [decision.reason]);
        }
    }
    let cause = cause.unwrap_or(Cause::InvalidRequest);
    Decision { effect, cause, policies, reason: reasons.join("; "), hint, obligations }
}

fn add(sum: &mut Obligations, more: Obligations) {
    sum.max_rows = smallest(sum.max_rows, more.max_rows);
    sum.max_bytes = smallest(sum.max_bytes, more.max_bytes);
    sum.max_time = smallest(sum.max_time, more.max_time);
    sum.record.extend(more.record);
    sum.mask_with = sum.mask_with.max(more.mask_with);
    let missing: Vec<ApprovalNeed> =
        more.approvals.into_iter().filter(|need| !sum.approvals.contains(need)).collect();
    sum.approvals.extend(missing);
}

fn extend_new<T: PartialEq>(list: &mut Vec<T>, more: impl IntoIterator<Item = T>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}
