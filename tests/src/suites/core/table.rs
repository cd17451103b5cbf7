//! Rows of the protocol's table of cases that no other case shows: numbered as there, `PA01` to `PA20`. The others'
//! names begin with their number, too, here and in the suites `tls`, `bad`, `dba`, `drivers`, `holds` and `servers`.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::postgres::TLS_PASSWORD;
use crate::harness::report::Case;
use crate::harness::spawn::wait_for;
use crate::harness::trail::Trail;
use crate::harness::world::World;

pub(super) const CASES: &[Case<World>] = &[
    Case { name: "PA01: SSLRequest, then TLS, and TLS that is verified to the target", run: tls },
    Case { name: "PA02: GSSENCRequest, then SSLRequest, are answered N and S", run: gss_then_tls },
    Case { name: "PA06: the target's password is nowhere with the client", run: secretless },
    Case {
        name: "PA07: rows are as directly in every way to ask for them, but for what is masked",
        run: rows,
    },
    Case { name: "PA12: COPY of 100 MB in and out, byte for byte, in bounded memory", run: copy },
    Case { name: "PA13: one value of 200 MB, byte for byte, in bounded memory", run: large_value },
    Case {
        name: "PA19: DISCARD ALL and SET client_encoding are denied, and the session goes on",
        run: pinned,
    },
    Case { name: "PA20: an unknown message, and impossible lengths, are 08P01 and the end", run: broken },
];

fn tls(world: &mut World) -> Result<()> {
    let program = "import psycopg, sys\nhost, port, user, database = sys.argv[1:5]\n\
                   c = psycopg.connect(f'host={host} port={port} user={user} dbname={database} sslmode=require')\n\
                   print(c.execute('select current_user').fetchone()[0], c.pgconn.ssl_in_use)\n";
    let mark = world.postgres.log()?.len();
    let said = world.client_at("127.0.0.4", "pa01").python(program, &[])?.ok()?;
    ensure!(said == "shop_tls True\n", "{said}");
    let log = world.postgres.log()?.split_off(mark);
    ensure!(log.contains("user=shop_tls") && log.contains("SSL enabled"), "{log}");
    Ok(())
}

fn gss_then_tls(world: &mut World) -> Result<()> {
    let program = "import socket, ssl, struct, sys\nhost, port, user, database = sys.argv[1:5]\n\
        s = socket.create_connection((host, int(port)), timeout=20)\n\
        s.sendall(struct.pack('!ii', 8, 80877104))\nn = s.recv(1).decode()\n\
        s.sendall(struct.pack('!ii', 8, 80877103))\ny = s.recv(1).decode()\n\
        context = ssl.create_default_context()\n\
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE\n\
        s = context.wrap_socket(s)\n\
        body = struct.pack('!i', 196608) + b'user\\0' + user.encode() + b'\\0database\\0' + database.encode() + b'\\0\\0'\n\
        s.sendall(struct.pack('!i', len(body) + 4) + body)\nprint(n, y, s.recv(1).decode())\n";
    let said = world.client("pa02").python(program, &[])?.ok()?;
    ensure!(said == "N S R\n", "{said}");
    Ok(())
}

/// The target wants SCRAM over TLS. Nothing the client was sent, holds in memory or was started with has the secret.
fn secretless(world: &mut World) -> Result<()> {
    let stop = world.scratch.folder("pa06", 0o777)?.join("stop");
    let client = world.client_at("127.0.0.4", "pa06").env("PGSSLMODE", "disable");
    let client = client.start_python(include_str!("../../../clients/secretless.py"), &[path(&stop)?])?;
    Trail::when(&world.agent, "pa06", |trail| trail.statement("select 'here I stay'").is_ok())?;
    let (secret, offered) = (TLS_PASSWORD.as_bytes(), b"dummy-7c1f");
    let found = wait_for("the client's own password in its memory", Duration::from_secs(10), || {
        Ok(holds(client.pid(), offered)?.then_some(holds(client.pid(), secret)?))
    })?;
    ensure!(!found, "the target's password is in the client's memory");
    let environment = fs::read(format!("/proc/{}/environ", client.pid()))?;
    ensure!(!contains(&environment, secret), "it is in the client's environment");
    fs::write(&stop, "")?;
    let said = client.finish(Duration::from_secs(30))?.ok()?;
    let sent = (0..said.trim_end().len() / 2).map(|at| u8::from_str_radix(&said[2 * at..2 * at + 2], 16));
    let sent = sent.collect::<Result<Vec<u8>, _>>().context("what the client was sent")?;
    ensure!(contains(&sent, b"server_version") && !contains(&sent, secret), "{said}");
    Ok(())
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Whether the memory a process can write to has these bytes.
fn holds(pid: u32, part: &[u8]) -> Result<bool> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut memory = fs::File::open(format!("/proc/{pid}/mem"))?;
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let range = line.split(' ').next().unwrap_or_default();
        let (from, to) = range.split_once('-').with_context(|| line.to_owned())?;
        let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        let mut bytes = Vec::new();
        memory.seek(SeekFrom::Start(from))?;
        // Pages that cannot be read have nothing in them.
        let _ = (&mut memory).take(to - from).read_to_end(&mut bytes);
        if contains(&bytes, part) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn rows(world: &mut World) -> Result<()> {
    let source = include_str!("../../../clients/rows.py");
    for [driver, way] in [
        ["psycopg2", "simple"],
        ["psycopg", "text"],
        ["psycopg", "binary"],
        ["asyncpg", "named"],
        ["asyncpg", "unnamed"],
    ] {
        let direct = world.client_in(&world.places.bypassed, "127.0.0.3", "shop_trust");
        let direct = direct.python(source, &[driver, way])?.ok()?;
        let governed = world.client("pa07").python(source, &[driver, way])?.ok()?;
        let (mut masked, mut same) = (0, 0);
        for (direct, governed) in direct.lines().zip(governed.lines()) {
            if direct.contains("@example") {
                ensure!(is_masked(direct, governed), "{driver} {way}: {governed}, directly {direct}");
                masked += 1;
            } else {
                ensure!(direct == governed, "{driver} {way}: {governed}, directly {direct}");
                same += 1;
            }
        }
        let times = if driver == "psycopg2" { 1 } else { 2 };
        // Other cases delete orders.
        let enough = masked == 5 * times && same > 20 * times;
        ensure!(enough, "{driver} {way}: {masked} masked, {same} the same");
        ensure!(direct.lines().count() == governed.lines().count(), "{driver} {way}: {governed}");
    }
    Ok(())
}

/// The row of a customer, whose third, fourth and sixth cells are masked, and as they should be.
fn is_masked(direct: &str, governed: &str) -> bool {
    let cells = |line: &str| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
    let (direct, governed) = (cells(direct), cells(governed));
    let expect = |(at, cell): (usize, &String)| match at {
        2 | 3 => "'***'".to_owned(),
        5 => "None".to_owned(),
        _ => cell.clone(),
    };
    governed == direct.iter().enumerate().map(expect).collect::<Vec<_>>()
}

/// Kilobytes the agent may hold beyond what it held before, whatever goes through it.
const MORE_AT_MOST: u64 = 16 << 10;

/// Runs something and says how many kilobytes more than before the agent held at most meanwhile.
fn grown(world: &World, work: impl FnOnce() -> Result<()>) -> Result<u64> {
    let pid = world.agent.pid()?;
    let number = |name: &str| -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
        line.trim().trim_end_matches(" kB").parse().context("a number of kB")
    };
    let before = number("VmRSS:")?;
    // The high-water mark begins anew (proc(5)).
    fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
    work()?;
    Ok(number("VmHWM:")?.saturating_sub(before))
}

fn bulk(world: &World, user: &str, what: &str, size: u64) -> Result<String> {
    let source = include_str!("../../../clients/bulk.py");
    world.client(user).limit(120).python(source, &[what, &size.to_string()])?.ok()
}

fn copy(world: &mut World) -> Result<()> {
    let size = 100_000_000;
    let grown = grown(world, || {
        let said = bulk(world, "pa12", "copy", size)?;
        ensure!(said == format!("{size} True\n"), "{said}");
        Ok(())
    })?;
    world.postgres.admin("delete from scratch where word like 'bulk-%'; vacuum scratch")?;
    ensure!(grown < MORE_AT_MOST, "the agent grew by {grown} kB");
    Ok(())
}

fn large_value(world: &mut World) -> Result<()> {
    let size = 200_000_000;
    let grown = grown(world, || {
        let said = bulk(world, "pa13", "value", size)?;
        ensure!(said == format!("{size} True\n"), "{said}");
        Ok(())
    })?;
    ensure!(grown < MORE_AT_MOST, "the agent grew by {grown} kB");
    Ok(())
}

fn pinned(world: &mut World) -> Result<()> {
    let script = "discard all;\nset client_encoding = 'latin1';\nset names 'sjis';\nselect 'alive';\n";
    let output = world.client("pa19").script(script)?;
    ensure!(output.stderr.matches("42501").count() == 3 && output.stdout == "alive\n", "{output}");
    Ok(())
}

fn broken(world: &mut World) -> Result<()> {
    let said = world.client("pa20").python(include_str!("../../../clients/broken.py"), &[])?.ok()?;
    ensure!(said == "FATAL 08P01\n".repeat(3), "{said}");
    wait_for("the end of the target's side", Duration::from_secs(10), || {
        let open = "select count(*) from pg_stat_activity where usename = 'shop_scram' and state = 'idle'";
        Ok((world.postgres.admin(open)? == "0").then_some(()))
    })
}

fn path(path: &std::path::Path) -> Result<&str> {
    path.to_str().context("a path that is not text")
}
