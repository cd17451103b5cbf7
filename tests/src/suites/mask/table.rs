//! The cases, one by one, beside what the server answers when nobody stands between.

use std::time::Duration;

use super::*;
use crate::raw::cases::{self, Expect};

/// What came of one case in one way of sending it.
pub(super) struct Line {
    pub(super) verdict: String,
    rows: String,
    hash: String,
    pub(super) leak: String,
}

pub(super) type Lines = BTreeMap<(String, String), Line>;

pub(super) fn matrix(world: &mut World) -> Result<()> {
    let (one, other) = (Pair::copy(world, 900)?, Pair::copy(world, 901)?);
    let direct = start(world, &world.places.bypassed, &one.names[0])?;
    let governed = start(world, &world.places.billing_bot, &other.names[0])?;
    let (direct, governed) = (lines(direct)?, lines(governed)?);
    let mut wrong = Vec::new();
    let mut counts = BTreeMap::<&str, usize>::new();
    for case in cases::all()? {
        for way in ["simple", "text", "binary"] {
            let key = (case.id.clone(), way.to_owned());
            let (Some(direct), Some(line)) = (direct.get(&key), governed.get(&key)) else {
                bail!("{} was not played in {way}", case.id);
            };
            if let Some(problem) = judge(&case, line, direct) {
                wrong.push(format!("{} ({way}) {:?}: {problem}", case.id, case.strings));
            }
            *counts.entry(came_out(case.expect, line)).or_default() += 1;
            if !direct.leak.is_empty() {
                *counts.entry("directly leaking").or_default() += 1;
            }
        }
    }
    eprintln!("        {} cases in 3 ways: {counts:?}", governed.len() / 3);
    ensure!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    // What is found nowhere is not looked for.
    ensure!(counts["directly leaking"] > 400, "only {counts:?}: is anything planted?");
    Ok(())
}

fn came_out(expect: Expect, line: &Line) -> &'static str {
    match (line.verdict.as_str(), expect) {
        ("denied", _) => "denied",
        ("served", Expect::Mask) => "masked",
        ("served", _) => "as direct",
        _ => "refused by the server",
    }
}

fn judge(case: &cases::Case, line: &Line, direct: &Line) -> Option<String> {
    let said = |what: &str| Some(format!("{what}: {}, directly {}", line.verdict, direct.verdict));
    if !line.leak.is_empty() {
        return said(&format!("{} came out", line.leak));
    }
    match case.expect {
        Expect::Deny if line.verdict == "denied" => None,
        // The extended protocol takes one statement at a time, and the server says so before anybody else.
        Expect::Deny => said("not denied"),
        Expect::Allow if line.hash == direct.hash => None,
        // An error may have less to say, and what a session is told about itself is another thing each time.
        Expect::Allow
            if line.verdict == direct.verdict
                && (line.verdict != "served" || case.strings.iter().any(|sql| cases::is_own(sql))) =>
        {
            None
        }
        Expect::Allow => said("not as direct"),
        Expect::Mask if line.verdict == direct.verdict && (line.rows == direct.rows || is_of_now(case)) => {
            None
        }
        Expect::Mask => said(&format!("{} rows, directly {}", line.rows, direct.rows)),
    }
}

/// Asks who is there, and others come and go.
fn is_of_now(case: &cases::Case) -> bool {
    case.strings.iter().any(|sql| sql.contains("pg_stat_activity"))
}

fn start(world: &World, place: &Cgroup, database: &str) -> Result<Running> {
    let planted = planted_in(world);
    let args = [database, path(&planted)?, "simple", "text", "binary"];
    raw(world, place, &["matrix", HOST, "shop_trust"], &args)?.start()
}

pub(super) fn lines(played: Running) -> Result<Lines> {
    let output = played.finish(Duration::from_secs(180))?.ok()?;
    let mut lines = Lines::new();
    for line in output.lines() {
        let mut words = line.split('\t').map(str::to_owned);
        let mut next = || words.next().unwrap_or_default();
        let key = (next(), next());
        lines.insert(key, Line { verdict: next(), rows: next(), hash: next(), leak: next() });
    }
    Ok(lines)
}

/// What psql asks for its backslash commands: permitted, and answered as directly.
pub(super) fn catalogue(world: &mut World) -> Result<()> {
    let pair = Pair::copy(world, 902)?;
    let [database, _] = &pair.names;
    let client = |place| world.client_in(place, HOST, "shop_trust").database(database).limit(60);
    let direct = client(&world.places.bypassed).script(&commands())?;
    let governed = client(&world.places.billing_bot).script(&commands())?;
    let asked = direct.stdout.matches("********* QUERY").count();
    let denied = governed.stderr.matches("denied by policy").count();
    let passed = asked.saturating_sub(denied);
    eprintln!("        psql: {passed} of {asked} catalogue queries pass");
    for line in governed.stderr.lines().filter(|line| line.contains("denied by policy")) {
        eprintln!("        {line}");
    }
    ensure!(asked >= 469, "only {asked} queries:\n{direct}");
    // One in thirty may be refused; none is.
    ensure!(passed * 100 >= asked * 97, "{denied} of {asked} denied:\n{}", governed.stderr);
    if denied == 0 {
        let differs = direct.stdout.lines().zip(governed.stdout.lines()).find(|(a, b)| a != b);
        ensure!(direct.stdout == governed.stdout, "psql shows something else: {differs:?}");
    }
    Ok(())
}

/// Backslash commands of psql, and the relations they are asked about.
fn commands() -> String {
    const LISTS: &str = "\\d \\d+ \\dS \\da \\dA \\dA+ \\dAc \\dAf \\db \\dc \\dC \\dd \\dD \\dD+ \\ddp \\dE \\det \\des \\dew \\deu \\df \\df+ \
        \\dF \\dFd \\dFp \\dFt \\dg \\dg+ \\di \\di+ \\dl \\dL \\dL+ \\dm \\dm+ \\dn \\dn+ \\do \\dO \\dp \\dP \\dP+ \\drds \\dRp \\dRp+ \\dRs \
        \\ds \\dt \\dtS \\dT \\dT+ \\du \\du+ \\dv \\dv+ \\dx \\dx+ \\dX \\dy \\z \\dconfig";
    const RELATIONS: &str = "app.users app.child app.part app.part1 app.\"Users Q\" app.members app.keys app.gen app.clean \
        app.wide app.log app.ruled app.watched app.v_users app.mv_users app.v_over app.v_rec app.public_part app.orgs other.users";
    let mut text = "\\set ECHO_HIDDEN on\n".to_owned();
    for command in LISTS.split_whitespace() {
        text += &format!("{command}\n{command} app.*\n");
    }
    for relation in RELATIONS.split_whitespace().filter(|name| !name.ends_with("Users") && *name != "Q\"") {
        text += &format!("\\d {relation}\n\\d+ {relation}\n\\dp {relation}\n");
    }
    text += "\\d app.\"Users Q\"\n\\dt app.*\n\\df app.*\n\\df+ app.*\n\\sv app.v_users\n\\dT+ app.*\n\\do app.*\n\\dC+ *\n";
    text
}

pub(super) fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not text")
}
