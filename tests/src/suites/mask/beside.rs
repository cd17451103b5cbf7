//! Two sessions in one database, of two identities or of one, and somebody who changes its schema past the agent.

use super::random::Counts;
use super::*;

/// How many runs, each in a database of its own.
pub(super) struct Wanted {
    pub(super) runs: u64,
    pub(super) seed: u64,
}

pub(super) fn sessions(world: &mut World) -> Result<()> {
    run(world, &Wanted { runs: 4, seed: 23 })
}

pub(super) fn run(world: &World, wanted: &Wanted) -> Result<()> {
    // First without anybody between: what is looked for must be found.
    let bypassed = &world.places.bypassed;
    let found = one(world, 1, [bypassed, bypassed])?.findings;
    ensure!(found > 2, "directly, only {found} findings");
    let mut sum = Counts::default();
    for seed in wanted.seed..wanted.seed + wanted.runs {
        let places = &world.places;
        let reads = if seed % 3 == 0 { &places.mail_bot } else { &places.billing_bot };
        sum.add(one(world, seed, [reads, &places.mail_bot])?);
    }
    eprintln!("        {} runs: {sum:?}", wanted.runs);
    ensure!(sum.findings == 0, "{} findings:\n{}", sum.findings, sum.text);
    // Sessions that are all refused show nothing.
    ensure!(sum.rows > sum.exchanges / 4, "hardly a row was served: {sum:?}");
    Ok(())
}

fn one(world: &World, seed: u64, [reads, changes]: [&Cgroup; 2]) -> Result<Counts> {
    let database = Copy { world, name: format!("leak_beside{seed}") };
    let (name, planted) = (&database.name, planted_in(world));
    world.postgres.admin(&format!("create database {name} template {}", TEMPLATES[0]))?;
    let seed = seed.to_string();
    let own = &world.places.bypassed;
    let mut args = vec![name.as_str(), table::path(&planted)?, &seed];
    for cgroup in [reads, changes, own] {
        args.push(table::path(cgroup.path())?);
    }
    Counts::of(&raw(world, own, &["beside", HOST, "shop_trust"], &args)?.run()?.ok()?)
}

/// A database of this name, as long as it is needed.
struct Copy<'a> {
    world: &'a World,
    name: String,
}

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        // It goes with the server anyway.
        let _ = self.world.postgres.admin(&format!("drop database if exists {} with (force)", self.name));
    }
}
