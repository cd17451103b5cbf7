//! Refusals of one round, put together so that a flood neither fills the journal nor hides what others try: alike ones are
//! one record with a count, cgroups take turns, and what is not listed is at least counted.

use std::collections::HashMap;

use crate::intercept::Refusal;

/// Records of refusals per round.
const LISTED: usize = 100;

/// What was refused, and how often.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Repeated {
    pub(super) refusal: Refusal,
    pub(super) count: u64,
}

#[derive(Default)]
pub(super) struct Tally {
    repeated: Vec<Repeated>,
    /// Where in `repeated`, by what makes refusals alike.
    known: HashMap<Refusal, usize>,
    read: u64,
}

impl Tally {
    pub(super) fn add(&mut self, refusal: Refusal) {
        self.read += 1;
        let alike = Refusal { at_boottime_ns: 0, ..refusal.clone() };
        if let Some(repeated) = self.known.get(&alike).and_then(|at| self.repeated.get_mut(*at)) {
            repeated.count += 1;
            return;
        }
        self.known.insert(alike, self.repeated.len());
        self.repeated.push(Repeated { refusal, count: 1 });
    }

    /// How many there were.
    pub(super) fn read(&self) -> u64 {
        self.read
    }

    /// The first of each cgroup, then the second of each, and so on; and how many refusals are not among them.
    pub(super) fn listed(self) -> (Vec<Repeated>, u64) {
        let mut turns: HashMap<u64, usize> = HashMap::new();
        let mut all: Vec<(usize, Repeated)> = self
            .repeated
            .into_iter()
            .map(|repeated| {
                let turn = turns.entry(repeated.refusal.cgroup_id).or_default();
                *turn += 1;
                (*turn, repeated)
            })
            .collect();
        all.sort_by_key(|(turn, _)| *turn);
        let rest = all.split_off(all.len().min(LISTED));
        let unlisted = rest.iter().map(|(_, repeated)| repeated.count).sum();
        (all.into_iter().map(|(_, repeated)| repeated).collect(), unlisted)
    }
}

/// Holds what the kernel counted against what came through the ring, which drops when it is full.
#[derive(Default)]
pub(super) struct Balance {
    /// The kernel's count when this began.
    begin: Option<u64>,
    read: u64,
    missing: u64,
    said: u64,
}

impl Balance {
    /// Of the refusals that `counted`, the kernel's count before this round's were read, how many are newly known to be
    /// lost. What is missing once may still be on its way; twice, it is not.
    pub(super) fn lost(&mut self, counted: u64, read: u64) -> u64 {
        let Some(begin) = self.begin else {
            self.begin = Some(counted);
            return 0;
        };
        self.read += read;
        let missing = counted.saturating_sub(begin).saturating_sub(self.read);
        let settled = missing.min(std::mem::replace(&mut self.missing, missing));
        let lost = settled.saturating_sub(self.said);
        self.said += lost;
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(cgroup_id: u64, port: u16, at_boottime_ns: u64) -> Refusal {
        Refusal {
            kind: "denied_datagram",
            at_boottime_ns,
            cgroup_id,
            destination: ([10, 0, 0, 1], port).into(),
            protocol: 17,
            tgid: 7,
            uid: 0,
            comm: "x".to_owned(),
        }
    }

    #[test]
    fn alike_refusals_are_one_with_a_count() {
        let mut tally = Tally::default();
        for at in 0..5000 {
            tally.add(refusal(1, 5432, at));
        }
        tally.add(refusal(1, 5433, 9));
        assert_eq!(tally.read(), 5001);
        let (listed, unlisted) = tally.listed();
        assert_eq!(listed.iter().map(|repeated| repeated.count).collect::<Vec<_>>(), [5000, 1]);
        assert_eq!((listed[0].refusal.at_boottime_ns, unlisted), (0, 0));
    }

    #[test]
    fn a_flood_of_one_cgroup_does_not_hide_another() {
        let mut tally = Tally::default();
        for port in 1..=1000 {
            tally.add(refusal(1, port, 0));
            tally.add(refusal(1, port, 0));
        }
        tally.add(refusal(2, 5432, 0));
        let (listed, unlisted) = tally.listed();
        assert_eq!(listed.len(), LISTED);
        assert!(listed.iter().any(|repeated| repeated.refusal.cgroup_id == 2));
        assert_eq!(unlisted, 2 * (1000 - 99));
    }

    #[test]
    fn what_is_missing_twice_is_lost_and_said_once() {
        let mut balance = Balance::default();
        let rounds = [
            // (counted, read), lost: what is there at the beginning is not missing.
            ((100, 40), 0),
            ((110, 10), 0),
            // Two are counted and not read yet, and are the next time.
            ((120, 8), 0),
            ((120, 2), 0),
            // A flood: a thousand, of which a hundred came.
            ((1120, 100), 0),
            ((1120, 0), 900),
            ((1120, 0), 0),
            ((1130, 10), 0),
        ];
        for ((counted, read), lost) in rounds {
            assert_eq!(balance.lost(counted, read), lost, "{counted} {read}");
        }
    }
}
