//! Other network namespaces: served without anything installed in them, told apart, let go of, and no way around the
//! agent.

mod dead;
mod flood;
mod guard;
mod lab;
mod life;
mod old;
mod serve;
mod storm;
mod upgrade;

use anyhow::Result;

use crate::harness::report::{self, Case};

use lab::Lab;

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let mut lab = Lab::start()?;
    let cases: Vec<Case<Lab>> = [
        serve::CASES,
        life::CASES,
        old::CASES,
        upgrade::CASES,
        dead::CASES,
        guard::CASES,
        flood::CASES,
        storm::CASES,
    ]
    .into_iter()
    .flatten()
    .copied()
    .collect();
    report::run("netns", &mut lab, &cases, filter, |lab| lab.agent.log_tail())
}
