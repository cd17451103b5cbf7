//! What is put off to the end of a transaction is checked at COMMIT, at SET CONSTRAINTS, or when nobody asks for it at
//! all: its errors and notices show nothing either.

use super::table::lines;
use super::*;
use crate::raw::cases::{self, Expect};

/// A key whose error quotes the masked value it refers to, and a trigger that says one in every field it can.
const LATE: &str = "alter table app.keys alter constraint keys_badge_fkey deferrable initially deferred;\n\
    insert into app.keys select badge, 'deferred' from app.members;\n\
    create function app.late() returns trigger language plpgsql as $$ declare t text; begin\n\
      select token into t from app.users where id = 1;\n\
      raise notice 'late %', t using detail = t, hint = t, column = t, constraint = t, datatype = t, table = t, schema = t;\n\
      if new.note = 'fail' then raise exception 'late %', t using detail = t, hint = t, column = t, constraint = t,\n\
        datatype = t, table = t, schema = t; end if;\n\
      if new.note = 'class' then raise insufficient_privilege using message = t; end if; return null; end $$;\n\
    create constraint trigger late after insert on app.watched deferrable initially deferred\n\
      for each row execute function app.late()";

pub(super) fn cases(world: &mut World) -> Result<()> {
    let pair = Pair::copy(world, 913)?;
    let planted = planted_in(world);
    let play = |place, database: &str| -> Result<_> {
        world.postgres.admin_in(database, LATE)?;
        let args = [database, table::path(&planted)?, "simple", "text", "binary"];
        lines(raw(world, place, &["deferred", HOST, "shop_trust"], &args)?.start()?)
    };
    let direct = play(&world.places.bypassed, &pair.names[0])?;
    let governed = play(&world.places.billing_bot, &pair.names[1])?;
    let mut wrong = Vec::new();
    for case in cases::deferred() {
        for way in ["simple", "text", "binary"] {
            let key = (case.id.clone(), way.to_owned());
            let (Some(direct), Some(line)) = (direct.get(&key), governed.get(&key)) else {
                bail!("{} was not played in {way}", case.id);
            };
            let expect = if case.expect == Expect::Deny { "denied" } else { &direct.verdict };
            // Without anybody between, each of them shows something.
            if direct.leak.is_empty() || !line.leak.is_empty() || line.verdict != expect {
                let (one, other) = (&direct.verdict, &line.verdict);
                let (shown, leak) = (&direct.leak, &line.leak);
                wrong.push(format!("{:?} ({way}): {other} {leak}, directly {one} {shown}", case.strings));
            }
        }
    }
    ensure!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}
