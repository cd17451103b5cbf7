//! What the server does beside a write, and shows elsewhere: rows in the order of an index, rows that a key locks, a
//! trigger that fires when something changed, bytes in its log. Each tells of a masked value to whom the gate lets write.

use super::*;

/// An index by which rows of one name come in the order of their tokens; a trigger that notes what was changed.
const MADE: &str = "create index users_name_token on app.users (name, token);\n\
    alter table app.wide add changed int not null default 0;\n\
    create function app.count_changes() returns trigger language plpgsql as 'begin new.changed := old.changed + 1; return new; end';\n\
    create trigger counts before update on app.wide for each row when (old.* is distinct from new.*) execute function app.count_changes();\n\
    create trigger coded before update on app.members for each row when (old.code is distinct from new.code)\n\
      execute function app.watch();\n\
    update app.users set name = 'same'; create unique index on app.gen (upper_token, id);\n\
    set session_replication_role = replica; insert into app.tags select distinct tag from app.members";

/// By the index, which also happens by itself in tables that are larger.
const BY_INDEX: &str = "set enable_seqscan = off; set enable_bitmapscan = off;\n";

/// Settings and a guess, and what shows how it went. The same text for all values of `GUESS`.
const ASKED: [(&str, &str); 5] = [
    (
        "begin; update app.users set token = GUESS where id = 1;",
        "select string_agg(id::text, ' ') from (select id from only app.users where name = 'same') s;",
    ),
    (
        "begin; update app.members set tag = GUESS where id = 1;",
        "select count(*) from app.tags where xmax <> 0;",
    ),
    ("begin; update app.wide set secret = GUESS where c1 = 1;", "select changed from app.wide where c1 = 1;"),
    (
        "begin; select pg_current_wal_insert_lsn() as before \\gset\nupdate app.part set token = GUESS where id = 1;",
        "select pg_current_wal_insert_lsn() - :'before';",
    ),
    ("begin; insert into app.gen(id, token) values (1, GUESS);", "select 'new';"),
];

pub(super) fn cases(world: &mut World) -> Result<()> {
    let pair = Pair::copy(world, 919)?;
    let [database, direct] = &pair.names;
    for name in [database, direct] {
        world.postgres.admin_in(name, MADE)?;
    }
    let secret = |sql: &str| world.postgres.admin_in(direct, sql);
    let right = [
        secret("select token from only app.users where id = 1")?,
        secret("select tag from app.members where id = 1")?,
        secret("select secret from app.wide where c1 = 1")?,
        secret("select token from app.part where id = 1")?,
        secret("select token from app.gen where id = 1")?,
    ];
    let wrong = [
        "0".into(),
        secret("select tag from app.members where id = 2")?,
        "0".into(),
        "0".repeat(20),
        "0".into(),
    ];
    let client =
        |place, database: &str| world.client_in(place, HOST, "shop_trust").database(database).limit(30);
    let bot = client(&world.places.billing_bot, database);
    let past = client(&world.places.bypassed, direct);
    for (((write, shown), right), wrong) in ASKED.iter().zip(right).zip(wrong) {
        let script = |guess: &str| {
            let write = write.replace("GUESS", &format!("'{guess}'"));
            format!("{BY_INDEX}{write}\n{shown}\nrollback;\n")
        };
        let [yes, no] = [&right, &wrong].map(|guess| past.script(&script(guess)));
        let (yes, no) = (yes?, no?);
        ensure!(yes.stdout != no.stdout, "directly, {write} {shown} tells nothing: {yes}");
        for guess in [&right, &wrong] {
            let tried = bot.script(&script(guess))?;
            let denied = tried.stderr.contains("42501");
            ensure!(
                denied && !tried.stdout.contains("UPDATE") && !tried.stdout.contains("INSERT"),
                "{write}: {tried}"
            );
        }
    }
    // What tells nothing is done as before.
    let plain = "update app.users set name = 'x' where id = 1; insert into app.members(id, org_id) values (77, 1);\n\
                 update app.wide set c13 = 5 where c1 = 1; update app.members set born = '2000-01-01' where id = 1; insert into app.wide(c1) values (9);\n";
    bot.script(plain)?.ok()?;
    let own = bot.psql(&["insert into app.users(id, name, token) values (77, 'same', 'guess')"])?;
    ensure!(own.stderr.contains("rows may come in its order"), "{own}");
    Ok(())
}

/// Plans that the server logs, and sends to whoever asks for what is logged: they show what EXPLAIN is refused for.
const LOGGED: &str = "set client_min_messages = LEVEL;\nbegin; declare c cursor for select id, token from app.users;\n\
    fetch 1 from c;\nclose c;\nrollback;\n";

pub(super) fn logged(world: &mut World) -> Result<()> {
    let pair = Pair::copy(world, 920)?;
    let [database, _] = &pair.names;
    for name in &pair.names {
        let set = |what: &str| format!("alter role shop_trust in database {name} set {what};\n");
        world.postgres.admin(
            &(set("session_preload_libraries = 'auto_explain'") + &set("auto_explain.log_min_duration = 0")),
        )?;
    }
    let client = |place| world.client_in(place, HOST, "shop_trust").database(database).limit(30);
    let (past, bot) = (client(&world.places.bypassed), client(&world.places.billing_bot));
    let direct = past.script(&LOGGED.replace("LEVEL", "log"))?;
    ensure!(direct.stderr.contains("width="), "directly, no plan comes: {direct}");
    let tried = bot.script(&LOGGED.replace("LEVEL", "log"))?;
    ensure!(!tried.stderr.contains("width=") && tried.stderr.contains("client_min_messages"), "{tried}");
    let login =
        bot.env("PGOPTIONS", "-c client_min_messages=log").script(&LOGGED.replace("LEVEL", "notice"))?;
    ensure!(!login.stderr.contains("width="), "{login}");
    Ok(())
}
