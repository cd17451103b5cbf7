//! The ways to the server that are compared, each told apart only by where the client connects.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::harness::client::Client;
use crate::harness::postgres::{SCRAM_PASSWORD, free_port};
use crate::harness::spawn::{Program, Running, wait_for};
use crate::harness::world::World;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Arm {
    Direct,
    HaProxy,
    PgBouncer,
    Chaperone,
}

impl Arm {
    pub(super) const ALL: [Self; 4] = [Self::Direct, Self::HaProxy, Self::PgBouncer, Self::Chaperone];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::HaProxy => "HAProxy",
            Self::PgBouncer => "PgBouncer",
            Self::Chaperone => "Chaperone",
        }
    }
}

/// The other proxies, running.
pub(super) struct Arms {
    haproxy: (Running, u16),
    pgbouncer: (Running, u16),
}

impl Arms {
    pub(super) fn start(world: &World) -> Result<Self> {
        Ok(Self { haproxy: haproxy(world)?, pgbouncer: pgbouncer(world)? })
    }

    /// The process whose CPU time an arm is charged with.
    pub(super) fn process(&self, arm: Arm, world: &World) -> Option<u32> {
        match arm {
            Arm::Direct => None,
            Arm::HaProxy => Some(self.haproxy.0.pid()),
            Arm::PgBouncer => Some(self.pgbouncer.0.pid()),
            Arm::Chaperone => world.agent.pid().ok(),
        }
    }

    pub(super) fn client<'a>(&self, arm: Arm, world: &'a World) -> Client<'a> {
        let bypassed = world.client_in(&world.places.bypassed, "127.0.0.1", "shop_scram");
        let client = match arm {
            Arm::Direct => bypassed,
            Arm::HaProxy => bypassed.port(self.haproxy.1),
            Arm::PgBouncer => bypassed.port(self.pgbouncer.1),
            Arm::Chaperone => world.client("shop_scram"),
        };
        client.env("PGPASSWORD", SCRAM_PASSWORD).env("PGSSLMODE", "disable").limit(600)
    }
}

fn haproxy(world: &World) -> Result<(Running, u16)> {
    let port = free_port()?;
    let config = world.scratch.path().join("haproxy.cfg");
    let text = format!(
        "global\n  maxconn 500\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 10m\n  timeout server 10m\n\
         listen pg\n  bind 127.0.0.1:{port}\n  server pg 127.0.0.1:{}\n",
        world.postgres.port
    );
    fs::write(&config, text)?;
    let program = Program::new("/usr/sbin/haproxy").args(["-db".as_ref(), "-f".as_ref(), config.as_os_str()]);
    listening(program.log(&world.scratch.path().join("haproxy.log"))?, port).context("starting HAProxy")
}

fn pgbouncer(world: &World) -> Result<(Running, u16)> {
    let port = free_port()?;
    let folder = world.scratch.folder("pgbouncer", 0o755)?;
    let config = folder.join("pgbouncer.ini");
    let text = format!(
        "[databases]\nshop = host=127.0.0.1 port={} dbname=shop user=shop_scram password={SCRAM_PASSWORD}\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
         pool_mode = session\nmax_client_conn = 200\ndefault_pool_size = 50\nlog_connections = 0\n\
         log_disconnections = 0\nignore_startup_parameters = extra_float_digits\n",
        world.postgres.port
    );
    fs::write(&config, text)?;
    let program = Program::new("/usr/sbin/pgbouncer").user("postgres")?.args([config.as_os_str()]);
    listening(program.log(&world.scratch.path().join("pgbouncer.log"))?, port).context("starting PgBouncer")
}

fn listening(program: Program, port: u16) -> Result<(Running, u16)> {
    let running = program.start()?;
    wait_for("an open port", Duration::from_secs(10), || {
        Ok(std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop))
    })?;
    Ok((running, port))
}
