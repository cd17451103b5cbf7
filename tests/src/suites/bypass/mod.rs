//! Every way past the gate that we know of, tried as the attacker would, from inside a governed cgroup.
//!
//! Each technique is run twice. First with no agent, where it must reach the target: an attack that reaches nothing
//! proves nothing. Then with the agent, where three things must hold: the target saw not one packet, the attacker saw
//! what he should, and the attempt is in the journal. Every technique aims at addresses of its own, so that packets
//! and records are told apart and techniques can run side by side.

mod corpus;
mod ledger;
mod technique;
mod witness;
mod yard;

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::harness::spawn::{Output, check_interrupted, wait_for};
use ledger::Ledger;
use technique::{Aim, Technique, Without};
use yard::Yard;

/// Techniques run at once: most of their time is waiting for an answer that does not come.
const SIDE_BY_SIDE: usize = 4;

type Chosen = Vec<(Aim, &'static Technique)>;

/// What a technique that did as it should did, for its line.
enum Outcome {
    /// The words of the attacker's program, or of the witness.
    Done(String),
    /// The kernel of this machine cannot do it at all; its error.
    NotPossible(String),
}

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let chosen: Chosen = corpus::all()
        .enumerate()
        .map(|(index, technique)| (Aim::number(index, technique.name), technique))
        .filter(|(_, technique)| filter.is_none_or(|part| technique.name.contains(part)))
        .collect();
    ensure!(!chosen.is_empty(), "bypass: no technique of that name");
    let started = Instant::now();
    let mut yard = Yard::prepare()?;
    let made = started.elapsed();
    let without = try_all(&chosen, |aim, technique| without_the_agent(&yard, aim, technique))?;
    let tried = started.elapsed();
    yard.witness.forget();
    yard.local.forget();
    yard.start_agent()?;
    let with = try_all(&chosen, |aim, technique| with_the_agent(&yard, aim, technique))?;
    let found = recorded(&yard, &chosen)?;
    eprintln!(
        "making the yard took {:.0} s, without the agent {:.0} s, with it {:.0} s",
        made.as_secs_f64(),
        (tried - made).as_secs_f64(),
        (started.elapsed() - tried).as_secs_f64()
    );
    report(&yard, &chosen, without, with, found)
}

fn try_all(
    chosen: &Chosen,
    attempt: impl Fn(&Aim, &Technique) -> Result<Outcome> + Sync,
) -> Result<Vec<Result<Outcome>>> {
    let next = AtomicUsize::new(0);
    let outcomes: Vec<_> =
        chosen.iter().map(|_| Mutex::new(Err(anyhow!("interrupted before it was tried")))).collect();
    let work = || {
        while check_interrupted().is_ok() {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let (Some((aim, technique)), Some(slot)) = (chosen.get(index), outcomes.get(index)) else {
                break;
            };
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = attempt(aim, technique);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(work);
        }
    });
    check_interrupted()?;
    Ok(outcomes.into_iter().map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
}

/// The attack must be one: the target sees it.
fn without_the_agent(yard: &Yard, aim: &Aim, technique: &Technique) -> Result<Outcome> {
    let said = last_line(yard.attack(technique, aim)?)?;
    match technique.without {
        Without::MayBeMissing(errors)
            if errors.iter().any(|error| said == format!("unsupported {error}")) =>
        {
            Ok(Outcome::NotPossible(said))
        }
        Without::Reaches | Without::MayBeMissing(_) => {
            let seen = sightings(yard, aim);
            let first = seen.first().with_context(|| format!("it does not reach the target: {said}"))?;
            Ok(Outcome::Done(first.clone()))
        }
    }
}

/// What the attacker sees must be what he should.
fn with_the_agent(yard: &Yard, aim: &Aim, technique: &Technique) -> Result<Outcome> {
    let said = last_line(yard.attack(technique, aim)?)?;
    if let Without::MayBeMissing(errors) = technique.without
        && errors.iter().any(|error| said == format!("unsupported {error}"))
    {
        return Ok(Outcome::NotPossible(said));
    }
    ensure!(
        technique.sees.iter().any(|sees| said.starts_with(sees)),
        "the attacker saw `{said}`, expected {}",
        technique.sees.join(" or ")
    );
    Ok(Outcome::Done(said))
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
        seen.extend(yard.local.all());
    }
    seen
}

/// Looks each technique up in the journal, until all are there or the agent had its time to write.
fn recorded(yard: &Yard, chosen: &Chosen) -> Result<Vec<Result<String>>> {
    let look = || -> Result<Vec<Result<String>>> {
        let ledger = Ledger::read(yard)?;
        Ok(chosen.iter().map(|(aim, technique)| ledger.find(yard, technique, aim)).collect())
    };
    let complete = wait_for("the record of every technique", yard::TOLD_WITHIN, || {
        let found = look()?;
        Ok(found.iter().all(Result::is_ok).then_some(found))
    });
    complete.or_else(|_| look())
}

/// One line per technique, then the counts. An error when anything is not as it should be.
fn report(
    yard: &Yard,
    chosen: &Chosen,
    without: Vec<Result<Outcome>>,
    with: Vec<Result<Outcome>>,
    found: Vec<Result<String>>,
) -> Result<()> {
    let (mut held, mut not_possible, mut escapes, mut failed) = (0, 0, 0, Vec::new());
    for ((((aim, technique), without), with), found) in chosen.iter().zip(without).zip(with).zip(found) {
        let line = format!("{:15} {}", technique.name, technique.says);
        let seen = sightings(yard, aim);
        if let Some(first) = seen.first() {
            escapes += 1;
            failed.push(technique.name);
            eprintln!("ESCAPED bypass: {line}\n  the target saw {} of it, first: {first}", seen.len());
            continue;
        }
        match (without, with, found) {
            (Ok(Outcome::NotPossible(said)), Ok(Outcome::NotPossible(_)), _) => {
                not_possible += 1;
                eprintln!("n/a     bypass: {line}: not possible here: {said}");
            }
            (Ok(Outcome::Done(_)), Ok(Outcome::Done(said)), Ok(found)) => {
                held += 1;
                eprintln!("ok      bypass: {line}: {said}; {found}");
            }
            (without, with, found) => {
                failed.push(technique.name);
                eprintln!("FAILED  bypass: {line}");
                let errors =
                    [("without the agent", without.err()), ("with it", with.err()), ("record", found.err())];
                for (phase, error) in errors {
                    if let Some(error) = error {
                        eprintln!("  {phase}: {error:#}");
                    }
                }
            }
        }
    }
    // What nobody aimed at and was hit all the same would be an escape too.
    let stray = yard.witness.all().len() + yard.local.all().len();
    if escapes == 0 && stray > 0 {
        escapes += 1;
        eprintln!("ESCAPED bypass: packets at addresses of no technique: {:?}", yard.witness.all());
    }
    if !failed.is_empty() {
        eprintln!("  --- the agent's log, its end:\n{}\n  ---", yard.agent.log_tail());
    }
    let mut out = std::io::stdout();
    writeln!(
        out,
        "\nbypass: {} techniques, {held} held, {not_possible} not possible on this kernel",
        chosen.len()
    )?;
    writeln!(out, "escapes: {escapes}")?;
    // Where a program that counts tests looks for it.
    writeln!(out, "\n{} passed, {} failed", held + not_possible, failed.len())?;
    if escapes > 0 || !failed.is_empty() {
        bail!("bypass: {escapes} escapes; failed: {}", failed.join(", "));
    }
    Ok(())
}
