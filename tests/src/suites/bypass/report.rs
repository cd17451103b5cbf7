//! One line per technique, then the counts.

use std::io::Write as _;

use anyhow::{Result, bail};

use super::technique::When;
use super::yard::Yard;
use super::{Outcome, Trial};

/// What became of a technique.
enum Verdict {
    Held(String),
    NotPossible(String),
    /// Needs more than a container has; what happened is what the threat model says.
    Shown(String),
    Escaped(String),
    Failed(Vec<String>),
}

/// Prints everything; an error when anything is not as it should be.
pub(super) fn print(yard: &Yard, trials: &[Trial], stormed: Option<&str>) -> Result<()> {
    let (mut held, mut not_possible, mut shown, mut escapes, mut failed) = (0, 0, 0, 0, Vec::new());
    for trial in trials {
        let line = format!("bypass: {:16} {}", trial.technique.name, trial.technique.says);
        match verdict(trial) {
            Verdict::Held(how) => {
                held += 1;
                eprintln!("ok      {line}: {how}");
            }
            Verdict::NotPossible(error) => {
                not_possible += 1;
                eprintln!("n/a     {line}: not possible here: {error}");
            }
            Verdict::Shown(how) => {
                shown += 1;
                eprintln!("beyond  {line}: {how}");
            }
            Verdict::Escaped(first) => {
                escapes += 1;
                eprintln!("ESCAPED {line}\n  the target saw {} of it, first: {first}", trial.seen.len());
            }
            Verdict::Failed(errors) => {
                failed.push(trial.technique.name);
                eprintln!("FAILED  {line}\n  {}", errors.join("\n  "));
            }
        }
    }
    escapes += strays(yard, trials);
    if escapes > 0 || !failed.is_empty() {
        eprintln!("  --- the agent's log, its end:\n{}\n  ---", yard.agent.log_tail());
    }
    let mut out = std::io::stdout();
    if let Some(stormed) = stormed {
        writeln!(out, "\nbypass: {stormed}")?;
    }
    writeln!(
        out,
        "\nbypass: {} techniques: {held} held, {not_possible} not possible on this kernel, {shown} beyond a container \
         and as the threat model says\nescapes: {escapes}",
        trials.len()
    )?;
    // Where a program that counts tests looks for it.
    writeln!(out, "\n{} passed, {} failed", held + not_possible + shown, failed.len() + escapes)?;
    if escapes > 0 || !failed.is_empty() {
        bail!("bypass: {escapes} escapes; failed: {}", failed.join(", "));
    }
    Ok(())
}

fn verdict(trial: &Trial) -> Verdict {
    let beyond = trial.technique.when == When::Beyond;
    if let Some(first) = trial.seen.first()
        && !beyond
    {
        return Verdict::Escaped(first.clone());
    }
    match (&trial.without, &trial.with, &trial.found) {
        (Ok(Outcome::NotPossible(said)), Ok(Outcome::NotPossible(_)), _) => {
            Verdict::NotPossible(said.clone())
        }
        (Ok(Outcome::Done(_)), Ok(Outcome::Done(said)), Ok(found)) if beyond => {
            Verdict::Shown(format!("{said}; {found}"))
        }
        (Ok(Outcome::Done(_)), Ok(Outcome::Done(said)), Ok(found)) => {
            Verdict::Held(format!("{said}; {found}"))
        }
        (without, with, found) => {
            let errors = [
                ("without the agent", without.as_ref().err()),
                ("with it", with.as_ref().err()),
                ("record", found.as_ref().err()),
            ];
            Verdict::Failed(
                errors
                    .into_iter()
                    .filter_map(|(phase, error)| error.map(|error| format!("{phase}: {error:#}")))
                    .collect(),
            )
        }
    }
}

/// What nobody aimed at and was hit all the same is an escape too.
fn strays(yard: &Yard, trials: &[Trial]) -> usize {
    let aimed_at: Vec<_> = trials.iter().flat_map(|trial| trial.aim.addresses()).collect();
    let strays = yard.witness.all().into_iter().filter(|(address, _)| !aimed_at.contains(address));
    let strays: Vec<String> = strays.map(|(address, line)| format!("{address}: {line}")).collect();
    if !strays.is_empty() {
        eprintln!("ESCAPED bypass: at addresses of no technique the target saw\n  {}", strays.join("\n  "));
    }
    strays.len()
}
