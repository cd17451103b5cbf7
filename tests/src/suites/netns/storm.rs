//! Many connects at once: each ends up where it was going, and nothing of those that were given up is left.

use anyhow::Result;

use crate::harness::report::Case;
use crate::harness::spawn::Program;
use crate::harness::storm::{self, arguments};

use super::lab::{Lab, PORT};

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
    let (args, count) = arguments(3000, PORT, &DESTINATIONS);
    let program = Program::new("/usr/bin/python3").args(args).inside(&lab.unknown)?;
    let said = storm::storm(&lab.agent, program.netns(&lab.pods[0].path())?, count)?;
    eprintln!("        {said}");
    Ok(())
}
