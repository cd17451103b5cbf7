//! The main scenario, told as it happens and again at the end; a step that does not show what it claims ends it.
//!
//! psql is run exactly as shown, with no settings, in a cgroup that the configuration names as `billing-bot`.

mod script;

use std::io::Write;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::harness::world::{Wishes, World};

pub(crate) fn run() -> Result<()> {
    let started = Instant::now();
    let mut story = Story::default();
    story.progress("starting a throw-away PostgreSQL with invented customers");
    let wishes = Wishes { hold_timeout_s: 60, ..Wishes::default() };
    let mut world = World::prepare("demo", wishes)?;
    story.progress("loading the kernel programs, attaching them to a cgroup of our own, starting the agent");
    world.start_agent()?;
    let outcome = script::play(&mut world, &mut story);
    let tail = world.agent.log_tail();
    story.progress("stopping the agent, detaching the programs, removing everything");
    drop(world);
    outcome.with_context(|| format!("the agent's log:\n{tail}"))?;
    story.tell()?;
    eprintln!("every step showed what it claims; {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// What happened, for telling it at the end.
#[derive(Default)]
pub(crate) struct Story {
    steps: Vec<Step>,
}

struct Step {
    title: String,
    lines: Vec<String>,
}

impl Story {
    fn progress(&self, text: &str) {
        eprintln!("... {text}");
    }

    fn step(&mut self, title: &str) {
        self.progress(title);
        self.steps.push(Step { title: title.into(), lines: Vec::new() });
    }

    /// A command somebody typed, and what it printed.
    fn shell(&mut self, who: &str, command: &str, output: &str) {
        self.line(&format!("{who} {command}"));
        for line in output.trim_end().lines() {
            self.line(&format!("    {line}"));
        }
    }

    fn line(&mut self, text: &str) {
        if let Some(step) = self.steps.last_mut() {
            step.lines.push(text.into());
        }
    }

    fn tell(&self) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let rule = "=".repeat(100);
        writeln!(out, "\n{rule}\n")?;
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(out, "{}. {}\n", number + 1, step.title)?;
            for line in &step.lines {
                writeln!(out, "   {line}")?;
            }
            writeln!(out)?;
        }
        writeln!(out, "{rule}")?;
        Ok(())
    }
}
