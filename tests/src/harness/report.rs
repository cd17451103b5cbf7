//! Runs the cases of a suite, a line for each, and counts.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use anyhow::{Result, anyhow, bail};

use super::spawn::check_interrupted;

/// Characters of a failure that are said again at the end.
const REASON: usize = 1200;

/// One case: its name is the sentence it proves.
pub(crate) struct Case<W> {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&mut W) -> Result<()>,
}

impl<W> Clone for Case<W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Case<W> {}

/// Runs all cases whose name holds `filter`; after a failure `tail` says what the agent logged.
pub(crate) fn run<W>(
    suite: &str,
    world: &mut W,
    cases: &[Case<W>],
    filter: Option<&str>,
    tail: fn(&W) -> String,
) -> Result<()> {
    let (mut passed, mut failed) = (0, Vec::new());
    for case in cases.iter().filter(|case| filter.is_none_or(|part| case.name.contains(part))) {
        check_interrupted()?;
        let started = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| (case.run)(world)))
            .unwrap_or_else(|panic| Err(anyhow!("panicked: {}", panic_text(panic.as_ref()))));
        let seconds = started.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                passed += 1;
                eprintln!("ok      {suite}: {} ({seconds:.1} s)", case.name);
            }
            Err(error) => {
                let reason: String = format!("{error:#}").chars().take(REASON).collect();
                failed.push(format!("  {}: {}", case.name, reason.replace('\n', "\n    ")));
                eprintln!("FAILED  {suite}: {} ({seconds:.1} s)\n  {error:#}", case.name);
                eprintln!("  --- the agent's log, its end:\n{}\n  ---", tail(world));
            }
        }
    }
    let counts = format!("{passed} passed, {} failed", failed.len());
    // Where a program that counts tests looks for it.
    writeln!(std::io::stdout(), "\n{counts}")?;
    if passed == 0 && failed.is_empty() {
        bail!("no case of that name");
    }
    if !failed.is_empty() {
        bail!("{counts}\n{}", failed.join("\n"));
    }
    Ok(())
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
