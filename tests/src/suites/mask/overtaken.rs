//! The schema changes between what the analysis saw and what the server looks up.

use super::*;

pub(super) fn cases(world: &mut World) -> Result<()> {
    let pair = Pair::copy(world, 905)?;
    let [database, _] = &pair.names;
    let client = world.client_in(&world.places.mail_bot, HOST, "shop_trust").database(database).limit(120);
    let said = client.python(include_str!("../../../clients/overtaken.py"), &[])?.ok()?;
    let expect = [
        "before: plain1",
        // What is not being changed is served.
        "while it changes: 55006",
        "beside it: 1",
        "after it: plain1",
        "behind a wait: ended",
        "in a group: ended",
        "schemas that change places: plain, ended",
        "a schema dropped and made: plain, ended",
        "what CASCADE took along: plain, ended",
        "a column of a parent: plain, ended",
        "a table in front: plain, ended",
    ];
    ensure!(said.lines().eq(expect), "{said}");
    Ok(())
}
