//! What looks like personal data, where no label says so.

use serde_json::json;

use super::*;
use crate::harness::trail::{self, holds};

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

/// A target without a label on this table, where what is recognised is replaced.
const NOTES: &str = "create table notes(id int, mail text, card varchar(30), pan bigint, said jsonb, tags text[], note text);\n\
    insert into notes select i, 'ada' || i || '@example.com', '4111 1111 1111 1111', 4111111111111111, \
    '{\"to\": \"ada@example.com\"}', array['a', 'ada@example.com'], 'call +44 20 7946 0958 now' from generate_series(1, 3) i;\n\
    insert into notes values (4, 'none', '1234', 5, '{}', array['b'], 'nothing to see');\n\
    grant select on notes to shop_trust";

pub(super) fn masked(world: &mut World) -> Result<()> {
    world.postgres.admin(NOTES)?;
    let client = world.client_at("127.0.0.3", "masked");
    let all = "select * from notes order by id";
    let (hit, clean) = ("***|***|4111111111111111|||***", "4|none|1234|5|{}|{b}|nothing to see");
    let rows: String = (1..=3).map(|n| format!("{n}|{hit}\n")).collect::<String>() + clean + "\n";
    ensure!(client.psql(&[all])?.ok()? == rows, "{}", client.psql(&[all])?);
    let trail = world.trail("masked")?;
    holds(trail.result(all)?, &json!({"rows": 4, "masked_cells": 15, "tag": "SELECT 4"}))?;
    // In the extended protocol, named and not, in text and in binary, and row by row from a cursor.
    let said = client.python(include_str!("../../../clients/looked.py"), &[])?.ok()?;
    let row = "('***', '***', 4111111111111111, None, None, '***')\n";
    let last = "('none', '1234', 5, {}, ['b'], 'nothing to see')\n";
    ensure!(said == (row.repeat(3) + last).repeat(5), "{said}");
    for (options, expect) in [
        ("", "1\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N\n4\tnone\t1234\t5\t{}\t{b}\tnothing to see\n"),
        ("(format csv)", "1,,,,,,\n4,none,1234,5,{},{b},nothing to see\n"),
    ] {
        let sql = format!("copy (select * from notes where id in (1, 4) order by id) to stdout {options}");
        let copied = client.psql(&[&sql])?.ok()?;
        ensure!(copied == expect, "{sql}: {copied}");
    }
    let sql = "copy (select mail, note from notes where id in (1, 4) order by id) to stdout (format binary)";
    let copied = client.psql(&[sql])?;
    ensure!(!copied.stdout.contains("ada1") && copied.stdout.contains("nothing to see"), "{copied}");
    let error = client.psql(&["select mail::int from notes"])?;
    ensure!(error.stderr.contains("22P02") && error.stderr.contains("withheld: it looks like"), "{error}");
    ensure!(!error.stderr.contains("ada1"), "{error}");
    // A label decides where there is one: who may see what it is on sees it, from the table and from a view.
    let reader = world.client_in(&world.places.mail_bot, "127.0.0.3", "reader");
    for source in ["customers", "customer_contacts"] {
        let shown = reader.psql(&[&format!("select email from {source} where id = 1")])?.ok()?;
        ensure!(shown == "ada.quill@example.com\n", "{source}: {shown}");
    }
    ensure!(reader.psql(&["select mail from notes where id = 1"])?.ok()? == "***\n");
    let told: Vec<String> = trail::everything(&world.agent)?
        .iter()
        .filter(|event| event["event"] == "detected" && event["target"] == "shop-trust")
        .filter_map(|event| Some(format!("{} {}", event["place"].as_str()?, event["kind"].as_str()?)))
        .collect();
    for expect in
        ["public.notes.mail e-mail address", "public.notes.card card number", "error e-mail address"]
    {
        ensure!(told.iter().any(|place| place == expect), "{expect} is not among {told:?}");
    }
    Ok(())
}
