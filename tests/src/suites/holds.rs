//! Access for a time, and the people who give it: asked for by connecting, granted, used, ended on the second.

mod apart;
mod ended;
mod full;
mod yes;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::client::Client;
use crate::harness::postgres::free_port;
use crate::harness::report::{self, Case};
use crate::harness::spawn::{Output, Running, wait_for};
use crate::harness::term::Term;
use crate::harness::trail::{Trail, holds};
use crate::harness::world::{POLICY, Wishes, World};

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let retry = vec![("mail-bot", "hold = \"retry\"\n".to_owned())];
    let wishes = Wishes { hold_timeout_s: 6, identity: retry, ..Wishes::default() };
    let mut world = World::prepare("holds", wishes)?;
    world.wishes.more = people(&world)? + &webhook(&world)?;
    world.write_config()?;
    world.write_policy(&format!("{POLICY}{ASKING}"))?;
    world.start_agent()?;
    report::run("holds", &mut world, CASES, filter, |world| world.agent.log_tail())
}

/// `idle-bot` gets in by asking; rows of `scratch` are deleted when two people say so.
const ASKING: &str = r#"
@id("idle-connects")
permit(principal == NonHumanIdentity::"idle-bot", action == Action::"connect", resource in Env::"prod");
@id("idle-reads")
permit(principal == NonHumanIdentity::"idle-bot", action in Action::"sql:read", resource in Env::"prod");
@id("idle-sleeps")
permit(principal == NonHumanIdentity::"idle-bot", action == Action::"sql:call", resource == Routine::"shop/shop/pg_catalog.pg_sleep");
@id("idle-asks") @approval("db-oncall") @approval_ttl("30s") @reason("it gets in when somebody grants it")
forbid(principal == NonHumanIdentity::"idle-bot", action == Action::"connect", resource);
@id("two-people") @approval("db-oncall") @quorum("2") @reason("two people for this")
forbid(principal, action == Action::"sql:delete", resource == Table::"shop/shop/public.scratch");
"#;

const CASES: &[Case<World>] = &[
    Case { name: "a connection without a permit asks, waits, and goes on once granted", run: asks },
    Case {
        name: "PA17: a grant that ends cuts the session off in mid-query, within a second",
        run: ended::expires,
    },
    Case { name: "a grant that is revoked cuts the session off, within a second", run: ended::revoked },
    Case { name: "a session that is killed is cut off in mid-query, within a second", run: ended::killed },
    Case {
        name: "a client that reads nothing any more is cut off as soon, and the server stops",
        run: ended::stalled,
    },
    Case { name: "access that is denied or that nobody grants is refused with the reason", run: not_granted },
    Case { name: "a client that hangs up takes its request with it", run: hung_up },
    Case { name: "a grant is good for its uses and no more", run: uses },
    Case { name: "a grant is good for its rows and no more", run: rows },
    Case { name: "a grant lends a group while it lasts", run: lends },
    Case { name: "a yes counts from the right person, with their signature, from outside", run: whose_yes },
    Case { name: "a yes is for exactly these bind values", run: yes::exact_to_the_bind },
    Case {
        name: "approvers see what it touches, and nobody waits long for its locks",
        run: yes::touches_and_locks,
    },
    Case {
        name: "where it says so, approvers are told again who waits for its locks, and it goes on",
        run: yes::escalates,
    },
    Case {
        name: "a yes that comes late, after the deadline or the session, is refused and recorded",
        run: yes::too_late,
    },
    Case { name: "policy says who may say yes to what", run: yes::policy_says_who },
    Case { name: "two yeses at the same time are one", run: yes::at_once },
    Case { name: "a quorum is of different people", run: yes::quorum },
    Case {
        name: "a receipt has the signatures of who said yes, and what is left of a grant",
        run: yes::receipt,
    },
    Case {
        name: "who does not wait is told the request, and the same passes once after it",
        run: apart::retries,
    },
    Case { name: "a yes is for the settings by which dates in it are read", run: apart::dates },
    Case {
        name: "a request that nobody waits for and nobody answers has its end on record",
        run: apart::unanswered,
    },
    Case {
        name: "who does not wait for access connects again once it is granted",
        run: apart::retries_access,
    },
    Case {
        name: "a request is announced to a webhook, signed, without its statement",
        run: apart::announced,
    },
    Case { name: "policy test and explain say what is decided", run: apart::asked_offline },
    Case {
        name: "a policy that no longer lets in ends live sessions in mid-query",
        run: ended::policy_closes,
    },
    Case { name: "an identity that changes ends its live sessions", run: ended::identity_changes },
    Case { name: "somebody else's login name gives no right of theirs, and is recorded", run: foreign },
    Case {
        name: "where the disk is full nothing is granted or used, and what ended has ended",
        run: full::full,
    },
    Case { name: "grants are there after a restart, and a damaged file is refused", run: restart },
];

/// A webhook on loopback that nobody listens to yet; its port is in a file.
fn webhook(world: &World) -> Result<String> {
    let port = free_port()?;
    fs::write(world.scratch.path().join("webhook.port"), port.to_string())?;
    let secret = world.scratch.path().join("webhook.secret");
    fs::write(&secret, "0123456789abcdef0123\n")?;
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
    Ok(format!(
        "\n[[webhooks]]\nname = \"oncall\"\nurl = \"http://127.0.0.1:{port}/told\"\nsecret_file = {secret:?}\n"
    ))
}

/// Keys of the approvers, made as an operator makes them, and the configuration that names them.
fn people(world: &World) -> Result<String> {
    let mut text = String::from("\n[grants]\nlongest_s = 600\n");
    for (name, groups, may_lend) in [
        ("anna", r#"["db-oncall"]"#, r#"["mail-readers"]"#),
        ("ben", r#"["db-oncall"]"#, "[]"),
        ("sam", r#"["sales"]"#, "[]"),
        ("olga", r#"["db-oncall"]"#, "[]"),
    ] {
        let file = key(world, name);
        let line = world.agent.command(&["new-key", &file])?.ok()?;
        text +=
            &format!("\n[[approvers]]\nname = {name:?}\n{line}groups = {groups}\nmay_lend = {may_lend}\n");
    }
    Ok(text)
}

fn key(world: &World, name: &str) -> String {
    world.scratch.path().join(format!("{name}.pem")).display().to_string()
}

fn idle<'a>(world: &'a World, user: &str) -> Client<'a> {
    world.client_in(&world.places.idle_bot, "127.0.0.1", user)
}

/// What waits, newest last.
fn waiting(world: &World) -> Result<Vec<Value>> {
    let text = world.agent.command(&["approvals", "--json"])?.ok()?;
    serde_json::from_str(&text).with_context(|| text.clone())
}

/// The id of the one request that waits.
fn request(world: &World) -> Result<String> {
    wait_for("a request", Duration::from_secs(10), || {
        Ok(waiting(world)?.first().and_then(|hold| hold["id"].as_str().map(str::to_owned)))
    })
    .with_context(|| format!("log of the agent:\n{}", world.agent.log_tail()))
}

fn nothing_waits(world: &World) -> Result<()> {
    wait_for("the request being gone", Duration::from_secs(5), || {
        Ok(waiting(world)?.is_empty().then_some(()))
    })
}

fn approve(world: &World, id: &str, who: &str, more: &[&str]) -> Result<Output> {
    let key = key(world, who);
    world.agent.command(&[&["approve", id, "--key", &key], more].concat())
}

/// Grants as anna; the id.
fn grant(world: &World, more: &[&str]) -> Result<String> {
    let key = key(world, "anna");
    let args = [&["grant"], more, &["--reason", "test", "--key", &key, "--json"]].concat();
    let text = world.agent.command(&args)?.ok()?;
    let grant: Value = serde_json::from_str(&text)?;
    Ok(grant["id"].as_str().context("a grant without id")?.to_owned())
}

fn finish(client: Running) -> Result<Output> {
    client.finish(Duration::from_secs(20))
}

/// What other cases left would let it in as well.
fn revoke_all(world: &World) -> Result<()> {
    let text = world.agent.command(&["grants", "--json"])?.ok()?;
    for grant in serde_json::from_str::<Vec<Value>>(&text)? {
        world.agent.command(&["revoke", grant["id"].as_str().unwrap_or_default()])?.ok()?;
    }
    Ok(())
}

fn asks(world: &mut World) -> Result<()> {
    revoke_all(world)?;
    let client = idle(world, "asks").start_script("select 'in';\n")?;
    let id = request(world)?;
    let waits = waiting(world)?;
    holds(
        &waits[0],
        &json!({"what": "access", "target": "shop", "database": "shop", "policies": ["idle-asks"]}),
    )?;
    ensure!(
        waits[0]["workload"]["comm"] == "psql" && waits[0]["identity"]["name"] == "idle-bot",
        "{waits:?}"
    );
    let shown = world.agent.command(&["approvals"])?.ok()?;
    // Who called it, back to the first process: the suite's own program is among them.
    ensure!(shown.contains("asks for   a connection") && shown.contains("run by     "), "{shown}");
    ensure!(shown.contains("called as  ") && shown.contains("/e2e"), "{shown}");
    let output = approve(world, &id, "anna", &["--for", "20s", "--comment", "release 7", "--ticket", "T-1"])?;
    ensure!(output.code == Some(0), "{output}");
    let output = finish(client)?;
    ensure!(output.stdout == "in\n", "{output}");
    ensure!(output.stderr.contains(&format!("access asked for, request {id}")), "{output}");
    let trail = world.trail("asks")?;
    holds(
        trail.first("access_asked")?,
        &json!({"hold": id, "claimed_user": "asks", "policies": ["idle-asks"]}),
    )?;
    holds(trail.first("hold_resolved")?, &json!({"hold": id, "outcome": "approved", "by": "anna"}))?;
    let used = trail.first("grant_used")?["grant"].as_str().context("no grant")?.to_owned();
    let told = world.agent.command(&["why", &format!("{}/0", trail.session)])?.ok()?;
    for word in [
        "held, and approved; it was let in",
        "rules      idle-asks",
        "yes from anna: release 7",
        "signed     by key ",
    ] {
        ensure!(told.contains(word), "no {word:?} in {told}");
    }
    // The grant outlives the session: the next one goes straight in.
    let again = idle(world, "asks-again").psql(&["select 'again'"])?;
    ensure!(again.stdout == "again\n" && !again.stderr.contains("asked for"), "{again}");
    let listed = world.agent.command(&["grants"])?.ok()?;
    ensure!(listed.contains(&used) && listed.contains("anna") && listed.contains("T-1"), "{listed}");
    world.agent.command(&["revoke", &used])?.ok().map(drop)
}

fn not_granted(world: &mut World) -> Result<()> {
    revoke_all(world)?;
    let client = idle(world, "denied").start_script("select 1;\n")?;
    let id = request(world)?;
    world.agent.command(&["deny", &id, "--comment", "not on Fridays"])?.ok()?;
    let output = finish(client)?;
    ensure!(
        output.code == Some(2) && output.stderr.contains("an approver denied access: not on Fridays"),
        "{output}"
    );
    let output = finish(idle(world, "late").start_script("select 1;\n")?)?;
    ensure!(output.code == Some(2) && output.stderr.contains("nobody granted access in time"), "{output}");
    ensure!(output.seconds >= 5.5, "it waited {:.1} s only", output.seconds);
    nothing_waits(world)
}

fn hung_up(world: &mut World) -> Result<()> {
    revoke_all(world)?;
    let client = idle(world, "hung-up").start_script("select 1;\n")?;
    let id = request(world)?;
    client.signal(Signal::SIGKILL)?;
    drop(client);
    nothing_waits(world)?;
    let late = approve(world, &id, "anna", &[])?;
    ensure!(late.code == Some(1), "a withdrawn request was granted: {late}");
    Ok(())
}

fn uses(world: &mut World) -> Result<()> {
    revoke_all(world)?;
    let nowhere = grant(world, &["idle-bot", "--target", "elsewhere", "--for", "60s"]);
    let nowhere = nowhere.err().context("a grant for a target that there is not")?;
    ensure!(format!("{nowhere:#}").contains("no target is called elsewhere"), "{nowhere:#}");
    let id = grant(world, &["idle-bot", "--for", "60s", "--uses", "1"])?;
    ensure!(idle(world, "first").psql(&["select 1"])?.stdout == "1\n");
    let second = idle(world, "second").start_script("select 1;\n")?;
    let asked = request(world)?;
    world.agent.command(&["deny", &asked])?.ok()?;
    ensure!(finish(second)?.code == Some(2));
    world.agent.command(&["revoke", &id])?.ok().map(drop)
}

fn rows(world: &mut World) -> Result<()> {
    revoke_all(world)?;
    grant(world, &["idle-bot", "--for", "60s", "--rows", "10"])?;
    let output = idle(world, "rows").psql(&[
        "select n from generate_series(1, 6) as g(n)",
        "select n from generate_series(1, 6) as g(n)",
    ])?;
    let served = output.stdout.lines().count();
    // The statement that goes beyond is cut, or its session ended first: whoever comes round earlier.
    let said = ["54000", "its rows are used up"].iter().any(|why| output.stderr.contains(why));
    ensure!((6..=10).contains(&served) && said, "{served} rows: {output}");
    // One that stays within ends with the last row it may have.
    grant(world, &["idle-bot", "--for", "60s", "--rows", "3"])?;
    let script = "select n from generate_series(1, 3) as g(n);\n\\! sleep 1\nselect 9;\n";
    let output = idle(world, "rows-all").script(script)?;
    ensure!(output.stdout == "1\n2\n3\n" && output.stderr.contains("its rows are used up"), "{output}");
    Ok(())
}

fn lends(world: &mut World) -> Result<()> {
    let mail = "select email from customers where id = 1";
    let masked = world.client("lends").psql(&[mail])?.ok()?;
    ensure!(masked == "***\n", "{masked}");
    let not = key(world, "ben");
    let args =
        ["grant", "billing-bot", "--group", "mail-readers", "--for", "9s", "--reason", "x", "--key", &not];
    let output = world.agent.command(&args)?;
    ensure!(output.code == Some(1) && output.stderr.contains("may not lend"), "{output}");
    let id = grant(world, &["billing-bot", "--group", "mail-readers", "--for", "60s"])?;
    let clear = world.client("lends-clear").psql(&[mail])?.ok()?;
    ensure!(clear.contains("@example"), "{clear}");
    let groups = &world.trail("lends-clear")?.first("session_start")?["identity"]["groups"].clone();
    ensure!(groups.as_array().is_some_and(|groups| groups.contains(&json!("mail-readers"))), "{groups}");
    world.agent.command(&["revoke", &id])?.ok()?;
    ensure!(world.client("lends-again").psql(&[mail])?.ok()? == "***\n");
    Ok(())
}

fn whose_yes(world: &mut World) -> Result<()> {
    revoke_all(world)?;
    let client = idle(world, "whose").start_script("select 'in';\n")?;
    let id = request(world)?;
    let refused = |output: Result<Output>, why: &str| -> Result<()> {
        let output = output?;
        ensure!(output.code == Some(1) && output.stderr.contains(why), "expected `{why}`: {output}");
        Ok(())
    };
    refused(world.agent.command(&["approve", &id]), "an approver's signature is needed")?;
    refused(approve(world, &id, "sam", &[]), "in none of the groups")?;
    refused(approve(world, &id, "olga", &[]), "stands behind the identity")?;
    let own = world.agent.command(&[
        "grant",
        "idle-bot",
        "--for",
        "9s",
        "--reason",
        "x",
        "--key",
        &key(world, "olga"),
    ]);
    refused(own, "does not grant for it")?;
    // The right person's key, stolen by a governed process.
    let stolen = world.command_inside(&["approve", &id, "--key", &key(world, "anna")]);
    refused(stolen, "is governed")?;
    let stranger = world.scratch.path().join("stranger.pem").display().to_string();
    world.agent.command(&["new-key", &stranger])?.ok()?;
    refused(world.agent.command(&["approve", &id, "--key", &stranger]), "belongs to no approver")?;
    ensure!(waiting(world)?.len() == 1, "a yes that does not count ended the request");
    approve(world, &id, "ben", &["--for", "5s", "--uses", "1"])?.ok()?;
    ensure!(finish(client)?.stdout == "in\n");
    Ok(())
}

fn foreign(world: &mut World) -> Result<()> {
    for (claimed, belongs_to) in [("dba", "the target's accounts"), ("mail-bot", "identity mail-bot")] {
        let client = world.client(claimed).env("PGPASSWORD", "the real one");
        let output = client.psql(&["select email from customers where id = 1", "drop table orders"])?;
        ensure!(
            output.stdout == "***\n" && output.stderr.contains("denied by policy \"no-ddl\""),
            "{output}"
        );
        let trail = world.trail(claimed)?;
        holds(trail.first("session_start")?, &json!({"claimed_user": claimed}))?;
        holds(
            trail.first("foreign_credential")?,
            &json!({"identity": "billing-bot", "claimed_user": claimed, "belongs_to": belongs_to}),
        )?;
    }
    let own = world.client("billing-bot");
    own.psql(&["select 1"])?.ok()?;
    ensure!(world.trail("billing-bot")?.all("foreign_credential").is_empty(), "its own name is not foreign");
    Ok(())
}

fn restart(world: &mut World) -> Result<()> {
    revoke_all(world)?;
    grant(world, &["idle-bot", "--for", "60s"])?;
    world.agent.stop()?;
    world.start_agent()?;
    ensure!(idle(world, "kept").psql(&["select 1"])?.stdout == "1\n", "the grant was lost");
    world.agent.stop()?;
    let file = world.agent.state.join("grants.sqlite");
    let aside = world.scratch.folder("aside", 0o700)?;
    // With what SQLite keeps beside it: that alone could mend the file.
    let names = ["grants.sqlite", "grants.sqlite-wal", "grants.sqlite-shm"];
    let there: Vec<&str> = names.into_iter().filter(|name| world.agent.state.join(name).exists()).collect();
    for name in &there {
        fs::rename(world.agent.state.join(name), aside.join(name))?;
    }
    fs::write(&file, b"not a database at all, not even nearly")?;
    world.agent.launch(&world.places.agent)?;
    let ended = world.agent.wait_end(Duration::from_secs(15));
    fs::remove_file(&file)?;
    for name in &there {
        fs::copy(aside.join(name), world.agent.state.join(name))?;
    }
    world.start_agent()?;
    if ended?.code != Some(1) {
        bail!("it started on a damaged file");
    }
    ensure!(world.agent.log().contains("grants.sqlite"), "{}", world.agent.log_tail());
    ensure!(idle(world, "kept-again").psql(&["select 1"])?.stdout == "1\n");
    Ok(())
}
