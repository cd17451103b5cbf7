//! A database that is not in UTF-8 cuts names by its own bytes.

use super::*;

const TABLES: &str = "create schema app; grant usage on schema app to shop_trust;\n\
    create table app.users(id int, name text, email text, ssn text, token text, pin int, dob date, blob bytea, prof jsonb);\n\
    insert into app.users(id, name, token) values (1, 'Zo' || chr(235), 'hidden-token');\n\
    grant select on app.users to shop_trust";

pub(super) fn cases(world: &mut World) -> Result<()> {
    let postgres = &world.postgres;
    postgres.admin(
        "create database leak_latin template template0 encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'",
    )?;
    postgres.admin_in("leak_latin", TABLES)?;
    // 41 letters: 41 bytes there, 81 in UTF-8, of which the first 63 are the same.
    let (x, z) = (format!("{}x", "\u{e9}".repeat(40)), format!("{}z", "\u{e9}".repeat(40)));
    let sql = format!(
        "select (select \"{x}\" from (select 1::text as \"{z}\") s) from (select token as \"{x}\" from users) u"
    );
    let client = |place| world.client_in(place, HOST, "shop_trust").database("leak_latin");
    let direct = client(&world.places.bypassed).psql(&["set client_encoding to 'UTF8'", &sql])?.ok()?;
    ensure!(direct.ends_with("hidden-token\n"), "directly, it says nothing: {direct}");
    let bot = client(&world.places.billing_bot);
    let tried = bot.psql(&[&sql])?;
    ensure!(tried.stdout.is_empty() && tried.stderr.contains("not in UTF-8"), "{tried}");
    let plain = bot.psql(&["select id, name as \u{e9}, token from users"])?.ok()?;
    ensure!(plain == "1|Zo\u{eb}|***\n", "{plain}");
    Ok(())
}
