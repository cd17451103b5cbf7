//! People who log in at the provider to say yes: by the code that `chaperone login` shows, with a browser.

use std::os::unix::fs::PermissionsExt;

use super::*;

const PERSON: &str = include_str!("../../../clients/person.mjs");

/// The provider gives people other tokens than workloads.
pub(super) fn config(idp: &Idp) -> String {
    format!(
        "\n[[providers]]\nname = \"staff\"\nissuer = \"http://127.0.0.1:{}\"\naudience = \"chaperone-approvals\"\n\
         algorithms = [\"ES256\"]\ngroups = [\"db-oncall\", \"sales\"]\n\n[login]\nprovider = \"staff\"\n\
         client_id = \"chaperone-cli\"\nscope = \"openid\"\nresource = \"urn:chaperone-approvals\"\n\
         [login.may_lend]\ndb-oncall = [\"mail-readers\"]\n",
        idp.port
    )
}

/// A user's own state.
fn state(world: &World, who: &str) -> PathBuf {
    world.scratch.path().join(format!("state-{who}"))
}

/// A command as this person gives it.
fn command(world: &World, who: &str, args: &[&str]) -> Result<Output> {
    world.agent.program(args).env("XDG_STATE_HOME", state(world, who)).limit(20).run()
}

fn browse(stage: &Stage, address: &str, who: &str, answer: &str) -> Result<String> {
    let file = stage.idp.folder.join("person.mjs");
    fs::write(&file, PERSON)?;
    let browser = Program::new("/usr/bin/node").args([file.as_os_str()]).args([address, who, answer]);
    browser.limit(30).run()?.ok()
}

/// Logs in, or tries to: with what `chaperone login` said in the end.
fn log_in(stage: &Stage, who: &str, answer: &str) -> Result<(Option<i32>, String)> {
    let world = &stage.world;
    let log = world.scratch.path().join(format!("login-{who}-{answer}.log"));
    // Of an earlier time.
    let _ = fs::remove_file(&log);
    let program = world.agent.program(&["login"]).env("XDG_STATE_HOME", state(world, who));
    let running = program.log(&log)?.start()?;
    let address = wait_for("the address to open", Duration::from_secs(15), || {
        let text = fs::read_to_string(&log)?;
        Ok(text.lines().find_map(|line| line.strip_prefix("or    ").map(str::to_owned)))
    })?;
    browse(stage, &address, who, answer)?;
    // It asks every five seconds.
    let output = running.finish(Duration::from_secs(30))?;
    Ok((output.code, fs::read_to_string(&log)?))
}

fn request(world: &World) -> Result<String> {
    wait_for("a request", Duration::from_secs(10), || {
        let text = world.agent.command(&["approvals", "--json"])?.ok()?;
        let held: Vec<Value> = serde_json::from_str(&text).with_context(|| text.clone())?;
        Ok(held.first().and_then(|hold| hold["id"].as_str().map(str::to_owned)))
    })
}

fn refused(output: Result<Output>, why: &str) -> Result<()> {
    let output = output?;
    ensure!(output.code == Some(1) && output.stderr.contains(why), "expected `{why}`: {output}");
    Ok(())
}

pub(super) fn approves(stage: &mut Stage) -> Result<()> {
    let (code, said) = log_in(stage, "anna", "yes")?;
    ensure!(code == Some(0) && said.contains("logged in as anna (db-oncall) for "), "{said}");
    let (code, said) = log_in(stage, "sam", "yes")?;
    ensure!(code == Some(0) && said.contains("logged in as sam (sales)"), "{said}");
    let (code, said) = log_in(stage, "ben", "no")?;
    ensure!(code == Some(1) && said.contains("the login was refused at the provider"), "{said}");

    let world = &stage.world;
    mail_in_clear(world, true, 15)?;
    let kept = state(world, "anna").join("chaperone/login.json");
    let mode = fs::metadata(&kept)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "{mode:o}");
    ensure!(!said.contains("eyJ"), "it printed the token: {said}");
    let kept: Value = serde_json::from_str(&fs::read_to_string(&kept)?)?;
    let token = kept["token"].as_str().context("no token kept")?;

    let client = world.client("by-login").start_script("delete from orders where id = 24;\n")?;
    let id = request(world)?;
    refused(command(world, "ben", &["approve", &id]), "`chaperone login` first")?;
    refused(command(world, "sam", &["approve", &id]), "in none of the groups")?;
    // Her token, used by a governed process: it is asked who it is before anything it shows is looked at.
    let stolen = world.agent.program(&["approve", &id]).env("XDG_STATE_HOME", state(world, "anna"));
    refused(stolen.inside(&world.places.billing_bot)?.limit(20).run(), "is governed")?;
    command(world, "anna", &["approve", &id, "--comment", "ticket 7"])?.ok()?;
    let output = client.finish(Duration::from_secs(20))?;
    ensure!(output.stdout == "DELETE 1\n", "{output}");

    let trail = world.trail("by-login")?;
    // What sam said is there as well, and did not count.
    let votes = trail.all("vote");
    let vote = votes.into_iter().find(|vote| vote["by"] == "anna").context("no vote of anna")?;
    holds(vote, &json!({"hold": id, "approve": true, "by": "anna", "comment": "ticket 7"}))?;
    holds(
        &vote["login"],
        &json!({"issuer": format!("http://127.0.0.1:{}", stage.idp.port), "subject": "anna"}),
    )?;
    ensure!(vote["login"]["token_id"].is_string() && vote["signature"].is_null(), "{vote}");
    holds(trail.first("hold_resolved")?, &json!({"outcome": "approved", "by": "anna"}))?;
    let receipt = format!("{}/{}", vote["session"].as_str().context("no session")?, vote["op"]);
    let receipt = world.agent.command(&["why", &receipt])?.ok()?;
    ensure!(receipt.contains("logged in") && receipt.contains("as anna, token "), "{receipt}");
    for file in fs::read_dir(world.agent.written_journal()?)? {
        let bytes = fs::read(file?.path())?;
        ensure!(
            !bytes.windows(token.len()).any(|part| part == token.as_bytes()),
            "the journal has her token"
        );
    }
    ensure!(!world.agent.log().contains(token), "the log has her token");
    Ok(())
}

pub(super) fn grants(stage: &mut Stage) -> Result<()> {
    let (code, said) = log_in(stage, "anna", "yes")?;
    ensure!(code == Some(0), "{said}");
    let world = &stage.world;
    let asked = ["grant", "idle-bot", "--target", "shop", "--for", "60s", "--reason", "release 7", "--json"];
    refused(command(world, "ben", &asked), "`chaperone login` first")?;
    let lent = [&asked[..], &["--group", "ai-agents"]].concat();
    refused(command(world, "anna", &lent), "may not lend: ai-agents")?;
    let grant: Value = serde_json::from_str(&command(world, "anna", &asked)?.ok()?)?;
    ensure!(grant["given"][0]["by"] == "anna", "{grant}");
    let id = grant["id"].as_str().context("a grant without id")?;
    let events = everything(&world.agent)?;
    let issued = events.iter().find(|event| event["grant"] == id && event["event"] == "grant_issued");
    let issued = issued.context("the grant is not in the journal")?;
    holds(&issued["login"], &json!({"subject": "anna"}))?;
    // Altered, her token is nobody's; and who has logged out is nobody again.
    let file = state(world, "anna").join("chaperone/login.json");
    let good = fs::read_to_string(&file)?;
    let kept: Value = serde_json::from_str(&good)?;
    let token = kept["token"].as_str().context("no token kept")?;
    let (head, signature) = token.rsplit_once('.').context("no token")?;
    let other: String = signature.chars().rev().collect();
    fs::write(&file, good.replace(token, &format!("{head}.{other}")))?;
    refused(command(world, "anna", &asked), "the login does not count")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    refused(command(world, "anna", &asked), "may be read by others")?;
    command(world, "anna", &["logout"])?.ok()?;
    refused(command(world, "anna", &asked), "`chaperone login` first")?;
    world.agent.command(&["revoke", id])?.ok().map(drop)
}
