//! The whole line with unmodified clients: kernel, identity, decision, mask, hold, record, real server.

mod decide;
mod hold;
mod login;
mod mask;
mod names;
mod reach;
mod styles;
mod table;
mod wire;

use anyhow::Result;

use crate::harness::report::{self, Case};
use crate::harness::world::{Wishes, World};

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let mut world = World::prepare(
        "core",
        Wishes { target: vec![("shop-md5", "catalogue_max_age_s = 1")], ..Wishes::default() },
    )?;
    world.wishes.more = styles::target(&world)?;
    world.write_config()?;
    world.start_agent()?;
    let cases: Vec<Case<World>> = [
        login::CASES,
        reach::CASES,
        decide::CASES,
        mask::CASES,
        styles::CASES,
        names::CASES,
        hold::CASES,
        wire::CASES,
        table::CASES,
    ]
    .into_iter()
    .flatten()
    .copied()
    .collect();
    report::run("core", &mut world, &cases, filter, |world| world.agent.log_tail())
}
