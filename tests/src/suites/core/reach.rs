//! Who is redirected, who is left alone, who is refused; and what happens without the agent.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::harness::postgres::SCRAM_PASSWORD;
use crate::harness::report::Case;
use crate::harness::spawn::wait_for;
use crate::harness::trail::{self, holds};
use crate::harness::world::World;

pub(super) const CASES: &[Case<World>] = &[
    Case { name: "the original destination is right for every address, IPv6 too", run: destinations },
    Case { name: "the client sees the server it asked for as its peer", run: peer_name },
    Case { name: "a client outside the governed cgroup is untouched", run: outside },
    Case { name: "a client in a bypassed cgroup is untouched", run: bypassed },
    Case { name: "a client in a barred cgroup reaches nothing", run: barred },
    Case { name: "an unknown cgroup is refused with 28000", run: unknown },
    Case { name: "an identity without permission to connect is refused with 28000", run: no_permission },
    Case { name: "the listener's port gives nothing to who connects to it directly", run: listener },
    Case { name: "other ports of the same server are not redirected", run: other_ports },
    Case {
        name: "with the agent killed a governed client is refused, and served again after a restart",
        run: killed,
    },
    Case {
        name: "with the agent stopped a governed client is refused, and served again after a restart",
        run: stopped,
    },
];

fn destinations(world: &mut World) -> Result<()> {
    for (host, target) in
        [("127.0.0.1", "shop"), ("::1", "shop"), ("127.0.0.2", "shop-md5"), ("127.0.0.3", "shop-trust")]
    {
        let user = format!("to-{host}");
        world.client_at(host, &user).psql(&["select 1"])?.ok()?;
        let port = world.postgres.port;
        let asked = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let trail = world.trail(&user)?;
        holds(trail.first("session_start")?, &json!({"target": target, "original_destination": asked}))?;
    }
    Ok(())
}

fn peer_name(world: &mut World) -> Result<()> {
    let source = "import socket, sys\ns = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)\n\
                  print(*s.getpeername()[:2])";
    for host in ["127.0.0.2", "::1"] {
        let peer = world.client_at(host, "peer").python(source, &[])?.ok()?;
        ensure!(peer == format!("{host} {}\n", world.postgres.port), "{peer:?}");
    }
    Ok(())
}

fn outside(world: &mut World) -> Result<()> {
    untouched(world, "app-outside", |world| &world.places.outside)
}

fn bypassed(world: &mut World) -> Result<()> {
    untouched(world, "app-bypassed", |world| &world.places.bypassed)
}

/// Needs its own password, sees its own account and its data in clear, and leaves no session.
fn untouched(world: &World, name: &str, place: fn(&World) -> &crate::harness::cgroup::Cgroup) -> Result<()> {
    let sessions = trail::sessions(&world.agent)?.len();
    let client = world.client_in(place(world), "127.0.0.1", "shop_scram").env("PGAPPNAME", name);
    let error = client.clone().env("PGPASSWORD", "wrong").psql(&["select 1"])?.refused()?;
    ensure!(error.contains("password authentication failed"), "{error}");
    let rows =
        client.env("PGPASSWORD", SCRAM_PASSWORD).psql(&["select email from customers where id = 1"])?.ok()?;
    ensure!(rows == "ada.quill@example.com\n", "{rows:?}");
    ensure!(trail::sessions(&world.agent)?.len() == sessions, "a session was recorded");
    Ok(())
}

fn barred(world: &mut World) -> Result<()> {
    let error =
        world.client_in(&world.places.barred, "127.0.0.1", "barred").psql(&["select 1"])?.refused()?;
    ensure!(error.contains("Operation not permitted") || error.contains("Connection refused"), "{error}");
    Ok(())
}

fn unknown(world: &mut World) -> Result<()> {
    let mark = world.postgres.log()?.len();
    let client =
        world.client_in(&world.places.unknown, "127.0.0.1", "shop_scram").env("PGPASSWORD", SCRAM_PASSWORD);
    refused_28000(&client)?;
    let log = world.postgres.log()?.split_off(mark);
    ensure!(!log.contains("connection authorized: user=shop_scram"), "the server was logged in to:\n{log}");
    Ok(())
}

fn no_permission(world: &mut World) -> Result<()> {
    refused_28000(&world.client_in(&world.places.idle_bot, "127.0.0.1", "idle"))
}

fn refused_28000(client: &crate::harness::client::Client<'_>) -> Result<()> {
    let output = client.python(include_str!("../../../clients/sqlstate.py"), &["select 1"])?;
    let said = output.ok()?;
    ensure!(said.starts_with("FATAL 28000 "), "{said}");
    Ok(())
}

fn listener(world: &mut World) -> Result<()> {
    let mark = world.postgres.log()?.len();
    let source = include_str!("../../../clients/sqlstate.py");
    for place in
        [&world.places.outside, &world.places.billing_bot, &world.places.unknown, &world.places.bypassed]
    {
        for host in ["127.0.0.1", "::1"] {
            let client = world.client_in(place, host, "sneak").port(world.listen_port);
            let said = client.python(source, &["select 1"])?.ok()?;
            let refused =
                ["ERROR_ON_CONNECT", "CLOSED", "FATAL 28000"].iter().any(|word| said.starts_with(word));
            ensure!(refused, "{}: {said}", place.name());
        }
    }
    let log = world.postgres.log()?.split_off(mark);
    ensure!(!log.contains("connection received"), "the server was reached:\n{log}");
    Ok(())
}

fn other_ports(world: &mut World) -> Result<()> {
    let server = std::net::TcpListener::bind("127.0.0.1:0")?;
    let source = "import socket, sys\ns = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)\n\
                  print(s.recv(9).decode())";
    let port = server.local_addr()?.port();
    let thread = std::thread::spawn(move || -> Result<()> {
        std::io::Write::write_all(&mut server.accept()?.0, b"untouched")?;
        Ok(())
    });
    let said = world.client("other").port(port).python(source, &[])?.ok()?;
    ensure!(said == "untouched\n", "{said:?}");
    thread.join().map_err(|_| anyhow::anyhow!("the small server panicked"))?
}

fn killed(world: &mut World) -> Result<()> {
    let session = world.client("cut-off").start_script("select 1;\n\\! sleep 20\nselect 2;\n")?;
    Trail::wait_for_start(world, "cut-off")?;
    world.agent.kill();
    drop(session);
    without_agent(world)
}

fn stopped(world: &mut World) -> Result<()> {
    world.agent.stop()?;
    without_agent(world)
}

struct Trail;

impl Trail {
    fn wait_for_start(world: &World, user: &str) -> Result<()> {
        trail::Trail::when(&world.agent, user, |trail| !trail.all("result").is_empty()).map(drop)
    }
}

fn without_agent(world: &mut World) -> Result<()> {
    let outcome = refused_without_agent(world);
    world.start_agent()?;
    outcome?;
    let rows = world.client("after-restart").psql(&["select 5"])?.ok()?;
    ensure!(rows == "5\n", "{rows:?}");
    Ok(())
}

fn refused_without_agent(world: &World) -> Result<()> {
    let mark = world.postgres.log()?.len();
    for host in ["127.0.0.1", "127.0.0.2", "::1"] {
        let client = world.client_at(host, "shop_scram").env("PGPASSWORD", SCRAM_PASSWORD);
        let output = wait_for("an answer while the agent is away", Duration::from_secs(10), || {
            client.psql(&["select 1"]).map(Some)
        })?;
        ensure!(output.code == Some(2), "{output}");
        let refused = output.stderr.contains("Connection refused") || output.stderr.contains("not permitted");
        ensure!(refused, "{output}");
        ensure!(output.seconds < 5.0, "refused only after {:.1} s", output.seconds);
    }
    let log = world.postgres.log()?.split_off(mark);
    ensure!(!log.contains("connection received"), "the server was reached:\n{log}");
    let rows = world
        .client_in(&world.places.bypassed, "127.0.0.1", "shop_scram")
        .env("PGPASSWORD", SCRAM_PASSWORD)
        .psql(&["select 6"])?
        .ok()?;
    ensure!(rows == "6\n", "the bypassed client was hit too: {rows:?}");
    Ok(())
}
