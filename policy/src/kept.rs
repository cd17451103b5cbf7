//! Decisions a session has had, by the facts they were made from: the same facts, the same decision, until the policies
//! change, which is the caller's to say.

use std::collections::HashMap;
use std::hash::Hash;

use crate::decide::Decision;

/// Most that are kept; a session that asks about more begins anew.
const MOST: usize = 1024;

#[derive(Debug)]
pub struct Kept<K>(HashMap<K, Decision>);

impl<K> Default for Kept<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq> Kept<K> {
    /// The decision on these facts, from before or from `decide`.
    pub fn decision(&mut self, facts: K, decide: impl FnOnce(&K) -> Decision) -> Decision {
        if let Some(decision) = self.0.get(&facts) {
            return decision.clone();
        }
        let decision = decide(&facts);
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert(facts, decision.clone());
        decision
    }

    /// Forgets all: the policies are others.
    pub fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Database, PolicySet, Principal, Request, Source};

    #[test]
    fn a_decision_is_made_once_until_it_is_forgotten_and_no_more_than_some_are_kept() {
        let text = "@id(\"all\") permit(principal, action, resource);";
        let set = PolicySet::load(&[Source::new("p.cedar", text)]).unwrap();
        let (bot, shop) = (Principal::new("bot", ["bots"]), Database::new("shop", "prod", "crm").resource());
        let mut kept = Kept::default();
        let mut asked = 0;
        let mut ask = |kept: &mut Kept<usize>, facts| {
            let decision = kept.decision(facts, |_| {
                asked += 1;
                set.decide(&Request::new(&bot, Action::Connect, &shop))
            });
            assert_eq!(decision.policies, ["all"]);
            asked
        };
        assert_eq!((ask(&mut kept, 1), ask(&mut kept, 1), ask(&mut kept, 2)), (1, 1, 2));
        kept.forget();
        assert_eq!(ask(&mut kept, 1), 3);
        for facts in 0..3 * MOST {
            ask(&mut kept, facts);
            assert!(kept.0.len() <= MOST);
        }
    }
}
