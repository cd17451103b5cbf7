//! Many connects at once, by a client that nobody lets in: each is recorded with the destination it was going to, and
//! nothing of those that were given up is left.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::agent::Agent;
use super::spawn::{Program, wait_for};
use super::trail;

/// Of them at a time.
const AT_ONCE: usize = 300;

const STORM: &str = include_str!("../../clients/storm.py");

/// The arguments of a Python program that makes so many connects (`CHAPERONE_E2E_STORM` asks for another number), to these
/// destinations in turn; and how many it makes.
pub(crate) fn arguments(connects: usize, port: u16, destinations: &[&str]) -> (Vec<String>, usize) {
    let asked = std::env::var("CHAPERONE_E2E_STORM").ok().and_then(|text| text.parse().ok());
    let count = asked.unwrap_or(connects);
    let numbers = [count.to_string(), AT_ONCE.to_string(), port.to_string()];
    let destinations = destinations.iter().map(|destination| (*destination).to_owned());
    (["-c".to_owned(), STORM.to_owned()].into_iter().chain(numbers).chain(destinations).collect(), count)
}

/// Runs it, and compares what it saw with the record; says what came of it.
pub(crate) fn storm(agent: &Agent, program: Program, count: usize) -> Result<String> {
    let before = refused(agent)?.len();
    let said = program.limit(300).run()?.ok()?;
    let outcomes: Vec<(u16, &str, &str)> = said.lines().filter_map(outcome).collect();
    ensure!(outcomes.len() == count, "{} outcomes of {count}", outcomes.len());
    let of = |kind: &str| outcomes.iter().filter(|(_, _, outcome)| *outcome == kind).count();
    let (answered, aborted) = (of("answered"), of("aborted"));
    let odd: Vec<_> =
        outcomes.iter().filter(|(_, _, outcome)| !["answered", "aborted"].contains(outcome)).collect();
    ensure!(odd.is_empty(), "{} went wrong: {:?}", odd.len(), odd.first());

    let recorded = wait_for("the record of every answer", Duration::from_secs(20), || {
        let found = refused(agent)?.split_off(before);
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
        Ok((agent.counter("flows")? == 0).then_some(()))
    })?;
    Ok(format!(
        "{count} connects, {AT_ONCE} at a time: {answered} answered, {aborted} given up, 0 wrong destinations, 0 map entries left"
    ))
}

fn outcome(line: &str) -> Option<(u16, &str, &str)> {
    let mut words = line.splitn(3, ' ');
    Some((words.next()?.parse().ok()?, words.next()?, words.next()?))
}

/// Port of the client and destination of each connection that was refused, in the order of the record.
fn refused(agent: &Agent) -> Result<Vec<(u16, String)>> {
    let everything = trail::everything(agent)?;
    let refusals = everything.iter().filter(|event| event["event"] == "session_refused");
    refusals
        .map(|event| {
            let address = |name: &str| event[name].as_str().and_then(|text| text.rsplit_once(':'));
            let (_, port) = address("client").with_context(|| Value::to_string(event))?;
            // One that no hook had announced is a wrong one here.
            let destination =
                address("original_destination").map_or("nowhere", |(destination, _)| destination);
            Ok((port.parse()?, plain(destination)))
        })
        .collect()
}

fn plain(address: &str) -> String {
    address.trim_start_matches("::ffff:").trim_matches(['[', ']']).to_owned()
}
