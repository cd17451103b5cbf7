//! Many connects at once: each ends up where it was going, and nothing of those that were given up is left.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::harness::report::Case;
use crate::harness::spawn::wait_for;
use crate::harness::trail;

use super::lab::{Lab, PORT};
use super::life::counter;

/// Connects; `CHAPERONE_E2E_STORM` asks for another number, such as the 12000 this was designed with.
const CONNECTS: usize = 3000;

const STORM: &str = include_str!("../../../clients/storm.py");

/// Over IPv4, IPv6, and IPv4 in IPv6's clothes.
const DESTINATIONS: [&str; 7] = [
    "10.213.0.2",
    "10.213.0.33",
    "10.213.0.44",
    "fd13::2",
    "fd13::33",
    "::ffff:10.213.0.55",
    "::ffff:10.213.0.66",
];

pub(super) const CASES: &[Case<Lab>] = &[Case {
    name: "thousands of connects, some given up: none mistaken for another, nothing left",
    run: storm,
}];

fn storm(lab: &mut Lab) -> Result<()> {
    let count =
        std::env::var("CHAPERONE_E2E_STORM").ok().and_then(|text| text.parse().ok()).unwrap_or(CONNECTS);
    let before = refused(lab)?.len();
    let mut args = vec![count.to_string(), "300".to_owned(), PORT.to_string()];
    args.extend(DESTINATIONS.map(str::to_owned));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let said = lab.python(&lab.unknown, &lab.pods[0], STORM, &args)?.limit(300).run()?.ok()?;
    let outcomes: Vec<(u16, &str, &str)> = said.lines().filter_map(outcome).collect();
    ensure!(outcomes.len() == count, "{} outcomes of {count}", outcomes.len());
    let of = |kind: &str| outcomes.iter().filter(|(_, _, outcome)| *outcome == kind).count();
    let (answered, aborted) = (of("answered"), of("aborted"));
    let odd: Vec<_> =
        outcomes.iter().filter(|(_, _, outcome)| !["answered", "aborted"].contains(outcome)).collect();
    ensure!(odd.is_empty(), "{} went wrong: {:?}", odd.len(), odd.first());

    let recorded = wait_for("the record of every answer", Duration::from_secs(20), || {
        let found = refused(lab)?.split_off(before);
        Ok((found.len() >= answered).then_some(found))
    })?;
    // By port: every record is of a connect from this port to this destination, and every answer has one.
    let mut asked: HashMap<(u16, String), (usize, usize)> = HashMap::new();
    for (port, destination, outcome) in &outcomes {
        let (answers, all) = asked.entry((*port, plain(destination))).or_default();
        *answers += usize::from(*outcome == "answered");
        *all += 1;
    }
    let mut wrong = 0;
    let mut records: HashMap<(u16, String), usize> = HashMap::new();
    for key in recorded {
        *records.entry(key).or_default() += 1;
    }
    for (key, count) in &records {
        wrong += usize::from(asked.get(key).is_none_or(|(_, all)| count > all));
    }
    for (key, (answers, _)) in &asked {
        wrong += usize::from(records.get(key).copied().unwrap_or_default() < *answers);
    }
    ensure!(wrong == 0, "{wrong} wrong destinations");
    wait_for("an empty map of connections", Duration::from_secs(10), || {
        Ok((counter(lab, "flows")? == 0).then_some(()))
    })?;
    eprintln!("        {count} connects: {answered} answered, {aborted} given up, 0 wrong, 0 entries left");
    Ok(())
}

fn outcome(line: &str) -> Option<(u16, &str, &str)> {
    let mut words = line.splitn(3, ' ');
    Some((words.next()?.parse().ok()?, words.next()?, words.next()?))
}

/// Port of the client and destination of each connection that was refused, in the order of the record.
fn refused(lab: &Lab) -> Result<Vec<(u16, String)>> {
    let everything = trail::everything(&lab.agent)?;
    let refusals = everything.iter().filter(|event| event["event"] == "session_refused");
    refusals
        .map(|event| {
            let address = |name: &str| event[name].as_str().and_then(|text| text.rsplit_once(':'));
            let (_, port) = address("client").with_context(|| Value::to_string(event))?;
            let (destination, _) =
                address("original_destination").with_context(|| Value::to_string(event))?;
            Ok((port.parse()?, plain(destination)))
        })
        .collect()
}

fn plain(address: &str) -> String {
    address.trim_start_matches("::ffff:").trim_matches(['[', ']']).to_owned()
}
