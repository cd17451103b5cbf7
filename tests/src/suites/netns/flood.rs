//! A flood of refused attempts: the record stays short, hides nobody, and leaves nothing out of account.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::harness::report::Case;
use crate::harness::spawn::wait_for;
use crate::harness::trail::everything;

use super::lab::{Lab, PORT};
use super::life::counter;

const FLOOD: &str = include_str!("../../../clients/flood.py");

/// Datagrams of the flood: many times what the ring between kernel and agent holds.
const DATAGRAMS: &str = "300000";

/// Counters of what is told of one by one.
const TOLD: [&str; 12] = [
    "denied_cgroup",
    "denied_protocol",
    "denied_stale",
    "denied_listener",
    "denied_storage",
    "denied_datagram",
    "dropped_egress",
    "dropped_unparsable",
    "denied_socket_kind",
    "denied_mptcp",
    "denied_bind",
    "unserved",
];

pub(super) const CASES: &[Case<Lab>] =
    &[Case { name: "a flood of refusals hides nobody else's, and all of it is accounted for", run: flood }];

fn flood(lab: &mut Lab) -> Result<()> {
    // Two rounds of the agent's, so that what is there already has been told.
    std::thread::sleep(Duration::from_secs(3));
    let (known, before) = (everything(&lab.agent)?.len(), counted(lab)?);
    let port = PORT.to_string();
    let send = |cgroup, count: &str| lab.python(cgroup, &lab.pods[1], FLOOD, &[count, "10.213.0", &port]);
    let flood = send(&lab.mail_bot, DATAGRAMS)?.limit(60).start()?;
    let mut others = 0;
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(100));
        others += send(&lab.unknown, "1")?.run()?.ok()?.trim().parse::<u64>()?;
    }
    let refused: u64 = flood.finish(Duration::from_secs(60))?.ok()?.trim().parse()?;
    ensure!(refused.to_string() == DATAGRAMS && others == 10, "{refused} and {others} were refused");
    let told = wait_for("everything being accounted for", Duration::from_secs(10), || {
        let told = Told::of(lab, known)?;
        Ok((told.total() >= counted(lab)? - before).then_some(told))
    })?;
    let counted = counted(lab)? - before;
    eprintln!(
        "        {counted} refusals: {} in {} records, {} not listed, {} lost; of the other cgroup {}",
        told.listed, told.records, told.unlisted, told.lost, told.others
    );
    ensure!(told.total() == counted, "{} are accounted for, {counted} were counted", told.total());
    ensure!(told.others == others, "of the other cgroup's attempts {} are in the record", told.others);
    ensure!(told.records < 2000, "{} records of one flood", told.records);
    Ok(())
}

fn counted(lab: &Lab) -> Result<u64> {
    TOLD.iter().map(|name| counter(lab, name)).sum()
}

/// What the journal says of refusals.
#[derive(Default)]
struct Told {
    records: u64,
    listed: u64,
    unlisted: u64,
    lost: u64,
    /// Of the cgroup that did not flood.
    others: u64,
}

impl Told {
    fn of(lab: &Lab, known: usize) -> Result<Self> {
        let mut told = Self::default();
        let number = |event: &Value, name: &str| event[name].as_u64();
        for event in everything(&lab.agent)?.iter().skip(known) {
            match event["event"].as_str() {
                Some("kernel_refusal") => {
                    let count = number(event, "count").unwrap_or(1);
                    told.records += 1;
                    told.listed += count;
                    if event["cgroup"] == lab.unknown.name() {
                        told.others += count;
                    }
                }
                Some("refusals_unlisted") => {
                    told.unlisted += number(event, "unlisted").unwrap_or(0);
                    told.lost += number(event, "lost").unwrap_or(0);
                }
                _ => {}
            }
        }
        Ok(told)
    }

    fn total(&self) -> u64 {
        self.listed + self.unlisted + self.lost
    }
}
