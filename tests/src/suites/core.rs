//! The whole line with unmodified clients.

use anyhow::{Result, ensure};

use crate::harness::report::{self, Case};
use crate::harness::world::{Wishes, World};

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let mut world = World::prepare("core", Wishes::default())?;
    report::run("core", &mut world, CASES, filter, |world| world.agent.log_tail())
}

const CASES: &[Case<World>] =
    &[Case { name: "the server answers past the agent, account by account", run: server }];

fn server(world: &mut World) -> Result<()> {
    for (user, password) in [
        ("shop_scram", "scram-kXv0aYq3"),
        ("shop_md5", "md5-T7pLw2bz"),
        ("shop_trust", ""),
        ("shop_tls", "tls-9QhGm4sd"),
    ] {
        let client = world.client_in(&world.places.outside, "127.0.0.2", user).env("PGPASSWORD", password);
        let rows = client.psql(&["select count(*) from customers"])?.ok()?;
        ensure!(rows == "5\n", "{user}: {rows:?}");
    }
    Ok(())
}
