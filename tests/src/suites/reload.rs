//! Changing policy and configuration under way: what is wrong is refused and the last good stays in force.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::report::{self, Case};
use crate::harness::spawn::{Running, wait_for};
use crate::harness::trail::Trail;
use crate::harness::world::{POLICY, Wishes, World};

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let mut world = World::start("reload", Wishes::default())?;
    report::run("reload", &mut world, CASES, filter, |world| world.agent.log_tail())
}

const CASES: &[Case<World>] = &[
    Case { name: "check passes what the suite runs with", run: check_good },
    Case { name: "check refuses a typo in a policy and says where", run: check_policy },
    Case { name: "check refuses a rule that can never match", run: check_never },
    Case { name: "check refuses an unknown key in the configuration", run: check_key },
    Case { name: "a policy with a typo is refused and the last good kept", run: typo },
    Case { name: "a configuration with a typo is refused and the last good kept", run: config_typo },
    Case { name: "half a file is refused with its place, and the last good kept", run: half },
    Case {
        name: "files that are replaced or written while they are read are taken whole or not at all",
        run: meanwhile,
    },
    Case { name: "a mended policy is applied by SIGHUP, to running sessions too", run: mended },
    Case { name: "who is exempt no more may not operate it any more either", run: exempt_no_more },
    Case { name: "an agent does not start with a policy that has a typo", run: start_refused },
    Case { name: "doctor and status answer", run: doctor },
];

fn check_good(world: &mut World) -> Result<()> {
    world.agent.command(&["check"])?.ok().map(drop)
}

fn check_policy(world: &mut World) -> Result<()> {
    let typo = POLICY.replace("Action::\"sql:ddl\"", "Action::\"sql:dll\"");
    refused_by_check(world, &typo, &["sql:dll", "shop.cedar"])
}

fn check_never(world: &mut World) -> Result<()> {
    let never = format!(
        "{POLICY}\n@id(\"nobody\")\npermit(principal in Group::\"ai-agnets\", action in Action::\"sql:read\", resource);\n"
    );
    refused_by_check(world, &never, &["nobody", "ai-agnets"])
}

fn refused_by_check(world: &World, policy: &str, words: &[&str]) -> Result<()> {
    world.write_policy(policy)?;
    let output = world.agent.command(&["check"]);
    world.write_policy(POLICY)?;
    let output = output?;
    ensure!(output.code == Some(2), "{output}");
    let said = format!("{}{}", output.stdout, output.stderr);
    for word in words {
        ensure!(said.contains(word), "`{word}` is not in: {said}");
    }
    Ok(())
}

fn check_key(world: &mut World) -> Result<()> {
    let good = fs::read_to_string(&world.agent.config)?;
    fs::write(&world.agent.config, good.replace("timeout_s", "timeout_sec"))?;
    let output = world.agent.command(&["check"]);
    world.write_config()?;
    let output = output?;
    ensure!(output.code == Some(2) && output.stderr.contains("timeout_sec"), "{output}");
    Ok(())
}

fn typo(world: &mut World) -> Result<()> {
    let mark = world.agent.log().len();
    world.write_policy(&POLICY.replace(
        "forbid(principal, action == Action::\"sql:ddl\"",
        "forbid(principle, action == Action::\"sql:ddl\"",
    ))?;
    world.agent.reload()?;
    let log = wait_for_log(world, mark, "shop.cedar");
    let denied = world.client("typo").psql(&["drop table orders"]);
    let served = world.client("typo").psql(&["select 1"]);
    world.write_policy(POLICY)?;
    log?;
    ensure!(denied?.stderr.contains("denied by policy \"no-ddl\""), "the last good policy is not in force");
    served?.ok()?;
    Ok(())
}

fn config_typo(world: &mut World) -> Result<()> {
    let mark = world.agent.log().len();
    let good = fs::read_to_string(&world.agent.config)?;
    fs::write(&world.agent.config, good.replace("listen_port", "listen_prot"))?;
    world.agent.reload()?;
    let log = wait_for_log(world, mark, "listen_prot");
    world.write_config()?;
    log?;
    world.client("config-typo").psql(&["select 1"])?.ok().map(drop)
}

/// Where the policies can be cut so that no rule ends there.
fn in_a_rule() -> Result<usize> {
    let rule = "forbid(principal, action == Action::\"sql:delete\"";
    Ok(POLICY.find(rule).context("no such rule")? + rule.len())
}

/// What a writer left half-written: cut in the middle of a rule, or not a byte there yet.
fn half(world: &mut World) -> Result<()> {
    let cut = in_a_rule()?;
    let line = POLICY[..cut].lines().count();
    let good = fs::read_to_string(&world.agent.config)?;
    let in_policy = |text: &str, words: &str| -> Result<()> {
        let mark = world.agent.log().len();
        world.write_policy(text)?;
        world.agent.reload()?;
        let log = wait_for_log(world, mark, words);
        world.write_policy(POLICY)?;
        log
    };
    in_policy(&POLICY[..cut], &format!("shop.cedar:{line}:"))?;
    in_policy("", "shop.cedar:1:1: there is no policy in it")?;
    in_policy("// not yet\n", "shop.cedar:1:1: there is no policy in it")?;
    let mark = world.agent.log().len();
    let at = good.find("listen_port").context("no such key")? + "listen_po".len();
    fs::write(&world.agent.config, &good[..at])?;
    world.agent.reload()?;
    let log = wait_for_log(world, mark, &format!("line {}", good[..at].lines().count()));
    world.write_config()?;
    log?;
    let denied = world.client("half").psql(&["drop table orders"])?;
    ensure!(denied.stderr.contains("denied by policy \"no-ddl\""), "the last good is not in force: {denied}");
    world.client("half").psql(&["select 1"])?.ok().map(drop)
}

/// Somebody replaces the file and writes into it as fast as they can, while it is read again and again.
fn meanwhile(world: &mut World) -> Result<()> {
    let digest = |world: &World| -> Result<String> {
        let status = world.agent.status()?.context("no agent answers")?;
        status["policy_sha256"].as_str().context("no digest").map(str::to_owned)
    };
    let reload = |world: &World| -> Result<()> {
        let mark = world.agent.log().len();
        world.agent.reload()?;
        wait_for("a reload", Duration::from_secs(10), || {
            let log = world.agent.log_since(mark);
            Ok((log.contains(" reloaded ") || log.contains("reload refused")).then_some(()))
        })
    };
    let other = format!("{POLICY}\n// The same, in another version.\n");
    let mut known = Vec::new();
    for text in [&other, POLICY] {
        world.write_policy(text)?;
        reload(world)?;
        known.push(digest(world)?);
    }
    ensure!(known[0] != known[1]);
    let (path, stop) = (world.agent.policy.join("shop.cedar"), Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let cut = in_a_rule()?;
    let writer = std::thread::spawn(move || -> std::io::Result<u64> {
        let mut times = 0;
        while !stopped.load(Ordering::Relaxed) {
            for text in [&*other, POLICY] {
                let new = path.with_extension("new");
                fs::write(&new, text)?;
                fs::rename(&new, &path)?;
                fs::write(&path, &text[..cut])?;
                fs::write(&path, text)?;
                times += 1;
                // Leaves some of the processor to who reads.
                std::thread::sleep(Duration::from_micros(300));
            }
        }
        Ok(times)
    });
    let outcome = (0..25).try_for_each(|_| {
        reload(world)?;
        let now = digest(world)?;
        ensure!(known.contains(&now), "a policy nobody wrote is in force");
        Ok(())
    });
    stop.store(true, Ordering::Relaxed);
    let times = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    world.write_policy(POLICY)?;
    reload(world)?;
    outcome?;
    ensure!(times > 0 && digest(world)? == known[1], "the last one written is not in force");
    Ok(())
}

fn wait_for_log(world: &World, mark: usize, word: &str) -> Result<()> {
    wait_for(&format!("`{word}` in the agent's log"), Duration::from_secs(10), || {
        Ok(world.agent.log_since(mark).contains(word).then_some(()))
    })
    .with_context(|| world.agent.log_since(mark))
}

fn mended(world: &mut World) -> Result<()> {
    let go = world.scratch.folder("go", 0o777)?.join("go");
    let running = waiting_session(world, &go)?;
    let fresh = format!(
        "{POLICY}\n@id(\"no-orders\")\n@reason(\"orders are closed today\")\n\
         forbid(principal, action in Action::\"sql:read\", resource == Table::\"shop/shop/public.orders\");\n"
    );
    world.write_policy(&fresh)?;
    world.agent.reload()?;
    let closed = wait_for("the new policy in force", Duration::from_secs(10), || {
        let output = world.client("mended-new").psql(&["select count(*) from orders"])?;
        Ok(output.stderr.contains("denied by policy \"no-orders\": orders are closed today").then_some(()))
    });
    fs::write(&go, "")?;
    let output = running.finish(Duration::from_secs(20))?;
    world.write_policy(POLICY)?;
    world.agent.reload()?;
    closed?;
    ensure!(output.stdout == "40\n" && output.stderr.contains("no-orders"), "the running session: {output}");
    wait_for("the old policy back in force", Duration::from_secs(10), || {
        Ok((world.client("mended-back").psql(&["select count(*) from orders"])?.stdout == "40\n")
            .then_some(()))
    })
}

fn exempt_no_more(world: &mut World) -> Result<()> {
    let asked = |world: &World| world.agent.program(&["approvals"]).inside(&world.places.bypassed)?.run();
    asked(world)?.ok()?;
    let good = fs::read_to_string(&world.agent.config)?;
    let list = format!("bypass = [{:?}]", world.places.bypassed.name());
    ensure!(good.contains(&list), "the configuration is not what the case thinks:\n{good}");
    fs::write(&world.agent.config, good.replace(&list, "bypass = []"))?;
    world.agent.reload()?;
    let refused = wait_for("the caller being refused", Duration::from_secs(10), || {
        let output = asked(world)?;
        Ok((output.code == Some(1)).then_some(output))
    });
    fs::write(&world.agent.config, good)?;
    world.agent.reload()?;
    ensure!(refused?.stderr.contains("is governed"));
    wait_for("the caller being let in again", Duration::from_secs(10), || {
        Ok((asked(world)?.code == Some(0)).then_some(()))
    })
}

/// A session that has read once, and reads again when the file appears.
fn waiting_session(world: &World, go: &std::path::Path) -> Result<Running> {
    let script = format!(
        "select count(*) from orders;\n\\! while ! test -e {}; do sleep 0.05; done\nselect count(*) from orders;\n",
        go.display()
    );
    let running = world.client("mended").start_script(&script)?;
    Trail::when(&world.agent, "mended", |trail| !trail.all("result").is_empty())?;
    Ok(running)
}

fn start_refused(world: &mut World) -> Result<()> {
    world.agent.stop()?;
    world.write_policy(&POLICY.replace("Group::\"ai-agents\"", "Gruop::\"ai-agents\""))?;
    let launched = world.agent.launch(&world.places.agent);
    let ended = launched.and_then(|()| world.agent.wait_end(Duration::from_secs(15)));
    world.write_policy(POLICY)?;
    world.start_agent()?;
    let output = ended?;
    ensure!(output.code == Some(2), "{output}");
    ensure!(world.agent.log().contains("Gruop"), "the log does not name the mistake");
    world.client("start-again").psql(&["select 1"])?.ok().map(drop)
}

fn doctor(world: &mut World) -> Result<()> {
    let said = world.agent.command(&["doctor", "--json"])?;
    let findings: Vec<serde_json::Value> =
        serde_json::from_str(&said.stdout).with_context(|| format!("{said}"))?;
    let in_memory = |finding: &serde_json::Value| {
        finding["name"].as_str().is_some_and(|name| name.contains("in memory")) && finding["ok"] == true
    };
    ensure!(findings.iter().any(in_memory), "{said}");
    world.agent.command(&["status"])?.ok().map(drop)
}
