//! Every way past the gate that we know of, tried as the attacker would, from inside a governed cgroup.
//!
//! Each technique is run twice. First with no agent, where it must reach the target: an attack that reaches nothing
//! proves nothing. Then with the agent, where three things must hold: the target saw not one packet, the attacker saw
//! what he should, and the attempt is in the journal. Every technique aims at addresses of its own, so that packets
//! and records are told apart and techniques can run side by side.
//!
//! What needs more than a container may have is tried too. There the target may be reached; the threat model in
//! ARCHITECTURE.md says so, and this suite that it says the truth.

mod corpus;
mod ledger;
mod report;
mod technique;
mod witness;
mod yard;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::harness;
use crate::harness::spawn::{Output, Running, check_interrupted, wait_for};
use crate::harness::storm::arguments;
use ledger::Ledger;
use technique::{Aim, Attack, Technique, When, Without};
use yard::Yard;

/// Techniques run at once: most of their time is waiting for an answer that does not come.
const SIDE_BY_SIDE: usize = 4;

/// A technique on its way through the suite.
struct Trial {
    aim: Aim,
    technique: &'static Technique,
    /// Its process, when it got ready before the agent was there.
    early: Mutex<Option<Running>>,
    without: Result<Outcome>,
    with: Result<Outcome>,
    /// What the target saw of it.
    seen: Vec<String>,
    found: Result<String>,
}

/// What a technique that did as it should did, for its line.
enum Outcome {
    /// The words of the attacker's program, or of the witness.
    Done(String),
    /// The kernel of this machine cannot do it at all; its error.
    NotPossible(String),
}

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let mut trials: Vec<Trial> = corpus::all()
        .enumerate()
        .map(|(index, technique)| Trial::new(Aim::number(index, technique.name), technique))
        .filter(|trial| filter.is_none_or(|part| trial.technique.name.contains(part)))
        .collect();
    ensure!(!trials.is_empty(), "bypass: no technique of that name");
    let mut lap = Lap(Instant::now());
    let mut yard = Yard::prepare()?;
    lap.ends("making the yard");

    for alone in [true, false] {
        let of = |trial: &Trial| (trial.technique.when == When::Alone) == alone;
        for (index, outcome) in try_all(&trials, of, |trial| without_the_agent(&yard, trial))? {
            trials[index].without = outcome;
        }
    }
    lap.ends("without the agent");

    get_ready(&yard, &trials)?;
    yard.witness.forget();
    yard.local.forget();
    yard.start_agent()?;
    std::fs::write(yard.go(), "")?;
    for when in [When::Alone, When::Alive, When::Beyond, When::Dead] {
        let dies = when == When::Dead && trials.iter().any(|trial| trial.technique.when == when);
        if dies {
            yard.agent.kill();
        }
        for (index, outcome) in
            try_all(&trials, |trial| trial.technique.when == when, |trial| with_the_agent(&yard, trial))?
        {
            trials[index].with = outcome;
        }
        if dies {
            yard.start_agent()?;
        }
    }
    lap.ends("with it");
    let stormed = if filter.is_none() { Some(storm(&yard)?) } else { None };
    the_gate_is_open(&yard)?;
    for trial in &mut trials {
        trial.seen = sightings(&yard, &trial.aim);
    }
    record(&yard, &mut trials)?;
    lap.ends("the storm and the record");
    report::print(&yard, &trials, stormed.as_deref())
}

/// When the part that runs began.
struct Lap(Instant);

impl Lap {
    /// Says how long the part took: on a slow machine a person wants to know before the end.
    fn ends(&mut self, part: &str) {
        eprintln!("{part} took {:.0} s", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}

/// Everybody at once, and each where he was going: to addresses of no technique, so that one that got through would be a
/// stray.
fn storm(yard: &Yard) -> Result<String> {
    const DESTINATIONS: [&str; 7] = [
        "10.77.200.1",
        "10.77.200.2",
        "10.77.200.3",
        "fd77::200:1",
        "fd77::200:2",
        "::ffff:10.77.200.4",
        "::ffff:10.77.200.5",
    ];
    let (args, count) = arguments(12_000, yard.port, &DESTINATIONS);
    harness::storm::storm(&yard.agent, yard.stranger(args)?, count)
}

impl Trial {
    fn new(aim: Aim, technique: &'static Technique) -> Self {
        let not_yet = || anyhow!("interrupted before it was tried");
        Self {
            aim,
            technique,
            early: Mutex::new(None),
            without: Err(not_yet()),
            with: Err(not_yet()),
            seen: Vec::new(),
            found: Err(not_yet()),
        }
    }

    /// Whether the program said that this kernel has no such thing, and may say so.
    fn is_missing(&self, said: &str) -> bool {
        match self.technique.without {
            Without::MayBeMissing(errors) => {
                errors.iter().any(|error| said == format!("unsupported {error}"))
            }
            Without::Reaches | Without::NeedsAgent => false,
        }
    }
}

fn try_all(
    trials: &[Trial],
    of: impl Fn(&Trial) -> bool,
    attempt: impl Fn(&Trial) -> Result<Outcome> + Sync,
) -> Result<Vec<(usize, Result<Outcome>)>> {
    let chosen: Vec<(usize, &Trial)> = trials.iter().enumerate().filter(|(_, trial)| of(trial)).collect();
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    let work = || {
        while check_interrupted().is_ok() {
            let Some((index, trial)) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let outcome = attempt(trial);
            outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((*index, outcome));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(work);
        }
    });
    check_interrupted()?;
    Ok(outcomes.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// The attack must be one: the target sees it.
fn without_the_agent(yard: &Yard, trial: &Trial) -> Result<Outcome> {
    let mut said = String::new();
    // A datagram is lost now and then on a busy machine; one that arrives is enough.
    for _ in 0..3 {
        said = last_line(yard.attack(trial.technique, &trial.aim)?)?;
        if trial.is_missing(&said) {
            return Ok(Outcome::NotPossible(said));
        }
        if matches!(trial.technique.without, Without::NeedsAgent) {
            return Ok(Outcome::Done(said));
        }
        let seen = wait_for("a sighting", Duration::from_secs(1), || {
            Ok(sightings(yard, &trial.aim).into_iter().next())
        });
        if let Ok(first) = seen {
            return Ok(Outcome::Done(first));
        }
        check_interrupted()?;
    }
    bail!("it does not reach the target: {said}")
}

/// What the attacker sees must be what he should.
fn with_the_agent(yard: &Yard, trial: &Trial) -> Result<Outcome> {
    let early = trial.early.lock().unwrap_or_else(PoisonError::into_inner).take();
    let output = match early {
        Some(running) => running.finish(Duration::from_secs(20))?,
        None => yard.attack(trial.technique, &trial.aim)?,
    };
    let said = last_line(output)?;
    if trial.is_missing(&said) {
        return Ok(Outcome::NotPossible(said));
    }
    let sees = trial.technique.sees;
    ensure!(
        sees.iter().any(|sees| said.starts_with(sees)),
        "the attacker saw `{said}`, expected {}",
        sees.join(" or ")
    );
    Ok(Outcome::Done(said))
}

/// Starts what has to stand before the agent does.
fn get_ready(yard: &Yard, trials: &[Trial]) -> Result<()> {
    for trial in trials {
        let Attack::Early(file) = trial.technique.attack else { continue };
        let seat = trial.technique.seat;
        let go = yard.go();
        let program = yard.python(seat, file, &trial.aim)?.args([yard.go_seen_from(seat)]);
        *trial.early.lock().unwrap_or_else(PoisonError::into_inner) = Some(program.start()?);
        let ready = go.with_extension(trial.technique.name);
        wait_for(trial.technique.name, Duration::from_secs(10), || Ok(ready.exists().then_some(())))?;
    }
    Ok(())
}

/// Attack programs say on their last line what became of the attack.
fn last_line(output: Output) -> Result<String> {
    let text = output.to_string();
    let said = output.ok()?;
    Ok(said.lines().last().with_context(|| format!("the attack said nothing: {text}"))?.to_owned())
}

/// What the target saw of a technique.
fn sightings(yard: &Yard, aim: &Aim) -> Vec<String> {
    let mut seen: Vec<String> =
        aim.addresses().into_iter().flat_map(|address| yard.witness.at(address)).collect();
    if aim.means_here() {
        seen.extend(yard.local.all().into_iter().map(|(_, line)| line));
    }
    seen
}

/// The one identity that may connect is served, and the target sees it come from the agent: what shows that in all the
/// other cases it was the gate that was shut, and not the way to it that was broken.
fn the_gate_is_open(yard: &Yard) -> Result<()> {
    const AGENT: &str = "from 10.66.0.1";
    let aim = Aim::number(9_999, "the-gate");
    let said = yard.customer(&aim)?.run()?;
    let seen = sightings(yard, &aim);
    ensure!(!seen.is_empty(), "a permitted connection did not reach the target: {said}");
    let packets = seen.iter().filter(|line| line.starts_with("packet"));
    let foreign: Vec<&String> = packets.filter(|line| !line.contains(AGENT)).collect();
    ensure!(foreign.is_empty(), "a permitted connection did not come from the agent: {foreign:?}");
    yard.witness.forget_at(&aim.addresses());
    Ok(())
}

/// Looks each technique up in the journal, until all are there or the agent had its time to write.
fn record(yard: &Yard, trials: &mut [Trial]) -> Result<()> {
    // What is not found by then is an error of its technique.
    let _ = wait_for("the record of every technique", yard::TOLD_WITHIN, || {
        let ledger = Ledger::read(yard)?;
        for trial in &mut *trials {
            trial.found = ledger.find(yard, trial.technique, &trial.aim);
        }
        Ok(trials.iter().all(|trial| trial.found.is_ok()).then_some(()))
    });
    check_interrupted()
}
