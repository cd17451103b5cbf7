//! What looks like personal data, where no label says so.

use super::*;
use crate::harness::trail;

const CONTACTS: &str = "create table app.contacts(id int, mail text, card varchar(30), note text);\n\
    insert into app.contacts select i, 'ada' || i || '@example.com', '4111 1111 1111 1111', 'nothing to see' from generate_series(1, 5) i;\n\
    grant select on app.contacts to shop_trust";

pub(super) fn cases(world: &mut World) -> Result<()> {
    let pair = Pair::copy(world, 904)?;
    let [database, _] = &pair.names;
    world.postgres.admin_in(database, CONTACTS)?;
    let client = world.client_at(HOST, "seen").database(database);
    let sql = "select id, mail, card, note from app.contacts";
    for _ in 0..2 {
        let rows = client.psql(&[sql])?.ok()?;
        ensure!(rows.contains("ada1@example.com"), "what is only told was changed: {rows}");
    }
    client.psql(&["copy app.contacts to stdout"])?.ok()?;
    let events = trail::everything(&world.agent)?;
    let told: Vec<String> = events
        .iter()
        .filter(|event| event["event"] == "detected" && event["database"] == database.as_str())
        .map(|event| {
            format!("{} {}", event["place"].as_str().unwrap_or("-"), event["kind"].as_str().unwrap_or("-"))
        })
        .collect();
    let expect = ["app.contacts.mail e-mail address", "app.contacts.card card number", "COPY e-mail address"];
    ensure!(told == expect, "{told:?}");
    let listed = world.agent.command(&["db", "discover", "leaks"])?.ok()?;
    let label = format!("column = \"app.contacts.card\"\ntags = [\"pii\"]\ndatabase = \"{database}\"\n");
    ensure!(listed.contains(&label), "{listed}");
    let none = world.agent.command(&["db", "discover", "hard"])?.ok()?;
    ensure!(none.is_empty(), "{none}");
    Ok(())
}
