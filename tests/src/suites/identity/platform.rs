//! Tokens that the platform gives, instead of a client of the provider: by a command, by SPIFFE's Workload API.

use super::*;

const ISSUER: &str = include_str!("../../../clients/issuer.mjs");

/// The platform's issuer, and what hands its tokens out.
pub(super) struct Platform {
    _issuer: Running,
    _spiffe: Running,
}

impl Platform {
    /// `idle-bot` and `mail-bot` are nobody without its tokens.
    pub(super) fn start(world: &mut World, runtimes: &Runtimes) -> Result<Self> {
        let folder = world.scratch.folder("platform", 0o755)?;
        let port = free_port()?;
        fs::write(folder.join("issuer.mjs"), ISSUER)?;
        let log = folder.join("log");
        let issuer = Program::new("/usr/bin/node").args([folder.join("issuer.mjs").as_os_str()]);
        let issuer = issuer.args([port.to_string()]).args([&folder]).log(&log)?.start()?;
        wait_for("the platform's issuer", Duration::from_secs(15), || {
            Ok(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(()))
        })
        .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        let spiffe = runtimes.serve_file("spiffe", &folder.join("spiffe.json"))?;
        let token = |source: String| format!("[identities.token]\nprovider = \"platform\"\n{source}");
        let file = folder.join("command.token");
        world.wishes.identity.push((
            "idle-bot",
            token(format!(
                "subject = \"by-command\"\ncommand = [\"/bin/cat\", {file:?}]\ncommand_user = \"nobody\"\n"
            )),
        ));
        world.wishes.identity.push((
            "mail-bot",
            token(format!(
                "subject = \"spiffe://chaperone.test/mail-bot\"\nspiffe_socket = {:?}\n",
                runtimes.socket("spiffe")
            )),
        ));
        world.wishes.more += &format!(
            "\n[[providers]]\nname = \"platform\"\nissuer = \"http://127.0.0.1:{port}\"\naudience = \"chaperone\"\n\
             algorithms = [\"ES256\"]\ngroups = [\"mail-readers\"]\n"
        );
        Ok(Self { _issuer: issuer, _spiffe: spiffe })
    }
}

pub(super) fn tokens(stage: &mut Stage) -> Result<()> {
    let world = &stage.world;
    let groups = |user: &str| {
        Ok::<_, anyhow::Error>(world.trail(user)?.first("session_start")?["identity"]["groups"].clone())
    };
    let mail_bot = wait_for("a token of the Workload API", Duration::from_secs(20), || {
        let output = world.client_in(&world.places.mail_bot, "127.0.0.1", "svid").psql(&[MAIL])?;
        Ok((output.code == Some(0)).then_some(output))
    })?;
    ensure!(mail_bot.stdout.contains("@example"), "{mail_bot}");
    ensure!(groups("svid")? == json!(["ai-agents", "mail-readers"]), "{}", groups("svid")?);
    // Whom no policy lets in is known all the same, by the group that the command's token gives.
    let refused = world.client_in(&world.places.idle_bot, "127.0.0.1", "by-command").psql(&["select 1"])?;
    ensure!(refused.code == Some(2) && !refused.stderr.contains("has no token"), "{refused}");
    Ok(())
}
