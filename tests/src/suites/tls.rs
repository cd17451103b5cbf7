//! TLS and proof of identity, both ways: what clients can verify of us, and what we prove to a target.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::harness::client::Client;
use crate::harness::report::{self, Case};
use crate::harness::spawn::Program;
use crate::harness::world::{Wishes, World};
use crate::suites::drivers::{JARS, go_client, packaged};

const CASES: &[Case<World>] = &[
    Case {
        name: "verify-ca and verify-full hold with the host's authority, by address and by name",
        run: verified,
    },
    Case { name: "verify-full fails for another name, and without the authority", run: not_verified },
    Case {
        name: "the system's store is trusted once the authority is installed in it, and not after",
        run: system,
    },
    Case { name: "PA03: direct TLS works, and insists on the protocol's name", run: direct },
    Case {
        name: "PA04: protocol 3.2 with its long cancel keys, and what is newer, are negotiated",
        run: versions,
    },
    Case { name: "PA04: a cancel request works in protocol 3.0 and 3.2, and from nobody else", run: cancels },
    Case { name: "without a placeholder password, clients that insist on proof say so", run: no_proof },
    Case { name: "with one, channel_binding=require and require_auth=scram-sha-256 work", run: proof },
    Case { name: "a wrong placeholder password is refused, and gives no access anyway", run: wrong_proof },
    Case { name: "the login at the target is bound to its certificate", run: bound },
    Case { name: "a client certificate logs in to a target that wants one", run: certificate },
];

/// What clients of `shop-tls` are asked for; worth nothing anywhere.
const PLACEHOLDER: &str = "worth-nothing";

pub(super) fn run(filter: Option<&str>) -> Result<()> {
    let mut world = World::prepare("tls", Wishes::default())?;
    let password = world.scratch.folder("etc", 0o755)?.join("placeholder");
    fs::write(&password, PLACEHOLDER)?;
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
    let pem = |world: &World, name: &str| world.postgres.file(name);
    world.wishes.more = format!(
        "\n[[targets]]\nname = \"shop-proof\"\nprotocol = \"postgres\"\naddresses = [\"127.0.0.8\"]\nport = {port}\n\
         env = \"prod\"\nuser = \"shop_scram\"\npassword_file = {scram:?}\nclient_password_file = {password:?}\n\
         client_names = [\"proof.internal\"]\n\
         [[targets]]\nname = \"shop-cert\"\nprotocol = \"postgres\"\naddresses = [\"127.0.0.9\"]\nport = {port}\n\
         env = \"prod\"\nuser = \"shop_cert\"\n[targets.tls]\nca_file = {ca:?}\nserver_name = \"db.internal\"\n\
         cert_file = {cert:?}\nkey_file = {key:?}\n",
        port = world.postgres.port,
        scram = world.scratch.folder("etc", 0o755)?.join("shop.password"),
        ca = pem(&world, "ca.pem"),
        cert = pem(&world, "shop_cert.pem"),
        key = pem(&world, "shop_cert.key"),
    );
    world.write_config()?;
    world.start_agent()?;
    report::run("tls", &mut world, CASES, filter, |world| world.agent.log_tail())
}

fn authority(world: &World) -> PathBuf {
    world.agent.state.join("trust/ca.pem")
}

/// The newest libpq there is, told `options` of a connection string; says what `sql` gives.
fn libpq(world: &World, host: &str, options: &str, sql: &str) -> Result<crate::harness::spawn::Output> {
    let path = packaged("python").to_string_lossy().into_owned();
    let program = "import sys, psycopg\nhost, port, user, database, options, sql = sys.argv[1:]\n\
                   with psycopg.connect(f'host={host} port={port} user={user} dbname={database} {options}') as c:\n\
                   \x20   print(*c.execute(sql).fetchone())\n";
    client(world, host).env("PYTHONPATH", &path).python(program, &[options, sql])
}

fn client<'a>(world: &'a World, host: &str) -> Client<'a> {
    world.client_at(host, "tls").env("PYTHONDONTWRITEBYTECODE", "1")
}

fn verified(world: &mut World) -> Result<()> {
    let ca = authority(world).to_string_lossy().into_owned();
    let mode = fs::metadata(world.agent.state.join("trust/ca.key"))?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "the authority's key has mode {mode:o}");
    // Readable by clients, wherever the state directory is.
    let copy = world.scratch.folder("etc", 0o755)?.join("host-ca.pem");
    fs::copy(&ca, &copy)?;
    for mode in ["verify-ca", "verify-full"] {
        let options = format!("sslmode={mode} sslrootcert={}", copy.display());
        let said = libpq(world, "127.0.0.1", &options, "select email from customers where id = 1")?.ok()?;
        ensure!(said == "***\n", "{mode}: {said}");
    }
    let psql = client(world, "127.0.0.4")
        .env("PGSSLMODE", "verify-full")
        .env("PGSSLROOTCERT", &copy.to_string_lossy())
        .env("PGHOSTADDR", "127.0.0.4")
        .host("db.internal")
        .psql(&["select 7"])?;
    ensure!(psql.ok()? == "7\n");
    Ok(())
}

fn not_verified(world: &mut World) -> Result<()> {
    let copy = world.scratch.folder("etc", 0o755)?.join("host-ca.pem");
    let options = format!("sslmode=verify-full sslrootcert={} hostaddr=127.0.0.4", copy.display());
    let said = libpq(world, "elsewhere.internal", &options, "select 7")?;
    ensure!(said.stderr.contains("does not match host name"), "{said}");
    let other = format!("sslmode=verify-ca sslrootcert={}", world.postgres.file("other-ca.pem").display());
    let said = libpq(world, "127.0.0.1", &other, "select 7")?;
    ensure!(said.stderr.contains("certificate verify failed"), "{said}");
    Ok(())
}

fn system(world: &mut World) -> Result<()> {
    // A mount namespace of its own: the machine's store stays as it is.
    let script = "set -e\n\
        for folder in /etc/ssl/certs /usr/local/share/ca-certificates; do\n\
        \x20 copy=$(mktemp -d); cp -a $folder/. $copy; mount -t tmpfs none $folder; chmod 755 $folder\n\
        \x20 cp -a $copy/. $folder; rm -rf $copy\n\
        done\n\
        ask() { (echo 0 > $GOVERNED/cgroup.procs; exec setpriv --reuid nobody --clear-groups \
        /bin/sh -c '/usr/bin/python3 -c \"$PROGRAM\" 127.0.0.1 $PORT; $GO verified 127.0.0.1 $PORT tls shop; \
        /usr/bin/java -XX:TieredStopAtLevel=1 -cp $JARS bsh.Interpreter $JDBC 127.0.0.1 $PORT; \
        node $NODE 127.0.0.1 $PORT') || true; }\n\
        ask\n\
        $CHAPERONE --config $CONFIG trust install >/dev/null; ask\n\
        $CHAPERONE --config $CONFIG trust show | grep '^system store'\n\
        $CHAPERONE --config $CONFIG trust remove >/dev/null; ask\n\
        $CHAPERONE --config $CONFIG trust show | grep '^system store'\n";
    let program = "import asyncio, asyncpg, ssl, sys\n\
        async def main():\n\
        \x20   try:\n\
        \x20       c = await asyncpg.connect(host=sys.argv[1], port=int(sys.argv[2]), user='tls', database='shop',\n\
        \x20                                 ssl=ssl.create_default_context())\n\
        \x20       print(await c.fetchval('select 7'))\n\
        \x20   except ssl.SSLCertVerificationError:\n\
        \x20       print('not trusted')\n\
        asyncio.run(main())\n";
    let folder = world.scratch.folder("trusting", 0o755)?;
    let file = |name: &str, text: &str| -> Result<PathBuf> {
        let file = folder.join(name);
        fs::write(&file, text)?;
        Ok(file)
    };
    let output = Program::new("/usr/bin/unshare")
        .args(["--mount", "--propagation", "private", "/bin/bash", "-c", script])
        .env("GOVERNED", world.places.billing_bot.path())
        .env("PROGRAM", program)
        .env("PORT", world.postgres.port.to_string())
        .env("GO", go_client(world)?)
        .env("JARS", JARS)
        .env("JDBC", file("verified.bsh", include_str!("../../clients/drivers/verified.bsh"))?)
        .env("NODE", file("verified.js", include_str!("../../clients/drivers/verified.js"))?)
        .env("NODE_PATH", packaged("node").join("node_modules"))
        .env("NODE_EXTRA_CA_CERTS", "/usr/local/share/ca-certificates/chaperone-host-ca.crt")
        .env("CHAPERONE", world.agent.binary())
        .env("CONFIG", &world.agent.config)
        .limit(90)
        .run()?;
    let no = "not trusted\npgx does not trust\npq does not trust\nJDBC does not trust\nnode does not trust\n";
    let yes = "7\npgx ***\npq ***\nJDBC ***\nnode ***\n";
    let expect = format!("{no}{yes}system store installed\n{no}system store not installed\n");
    ensure!(output.stdout == expect, "{output}");
    ensure!(!PathBuf::from("/usr/local/share/ca-certificates/chaperone-host-ca.crt").exists());
    Ok(())
}

fn direct(world: &mut World) -> Result<()> {
    let said = libpq(world, "127.0.0.1", "sslmode=require sslnegotiation=direct", "select 7")?.ok()?;
    ensure!(said == "7\n", "{said}");
    let program = "import socket, ssl, sys\n\
        context = ssl.create_default_context()\n\
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE\n\
        s = context.wrap_socket(socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10))\n\
        try:\n\
        \x20   s.sendall(b'\\0\\0\\0\\x10\\0\\3\\0\\0user\\0a\\0\\0')\n\
        \x20   print(len(s.recv(100)))\n\
        except OSError:\n\
        \x20   print(0)\n";
    let said = client(world, "127.0.0.1").python(program, &[])?.ok()?;
    ensure!(said == "0\n", "served without ALPN: {said}");
    Ok(())
}

fn versions(world: &mut World) -> Result<()> {
    let newest = "sslmode=disable min_protocol_version=3.2 max_protocol_version=latest";
    let said = libpq(world, "127.0.0.1", newest, "select 7")?.ok()?;
    ensure!(said == "7\n", "{said}");
    let source = include_str!("../../clients/versions.py");
    let said = world.client("versions").python(source, &[])?.ok()?;
    ensure!(said == "3.0 4 -\n3.2 32 -\n3.2 32 3.2\n3.0 4 3.0 _pq_.x\n", "{said}");
    Ok(())
}

/// Something long, cancelled, by clients that speak 3.0 and 3.2.
pub(super) fn cancelled(client: Client<'_>) -> Result<()> {
    let path = packaged("python").to_string_lossy().into_owned();
    let program = "import psycopg, sys, threading\n\
        host, port, user, database = sys.argv[1:]\n\
        for version in ('3.0', '3.2'):\n\
        \x20   c = psycopg.connect(f'host={host} port={port} user={user} dbname={database} max_protocol_version={version}')\n\
        \x20   threading.Timer(0.5, c.cancel_safe).start()\n\
        \x20   try:\n\
        \x20       c.execute('select count(*) from generate_series(1, 4000000000)')\n\
        \x20   except psycopg.errors.QueryCanceled as error:\n\
        \x20       print(version, error.sqlstate)\n";
    let said = client.env("PYTHONPATH", &path).python(program, &[])?.ok()?;
    ensure!(said == "3.0 57014\n3.2 57014\n", "{said}");
    Ok(())
}

fn cancels(world: &mut World) -> Result<()> {
    cancelled(client(world, "127.0.0.1"))?;
    // Somebody else's key, from another identity: nothing happens, and it is recorded.
    let file = world.scratch.folder("keys", 0o777)?.join("key").to_string_lossy().into_owned();
    let source = include_str!("../../clients/cancel.py");
    let mark = world.agent.log().len();
    let asking = world.client("cancel-mine").start_python(source, &["ask", &file])?;
    let thief = world.client_in(&world.places.mail_bot, "127.0.0.1", "cancel-yours");
    ensure!(thief.python(source, &["cancel", &file])?.ok()? == "closed\n");
    let said = asking.finish(std::time::Duration::from_secs(20))?.ok()?;
    ensure!(said == "3000000\n", "{said}");
    ensure!(world.agent.log_since(mark).contains("of another identity"), "it was not even noticed");
    Ok(())
}

fn no_proof(world: &mut World) -> Result<()> {
    for (options, word) in [
        ("channel_binding=require", "channel binding required"),
        ("require_auth=scram-sha-256", "server did not complete authentication"),
    ] {
        let said = libpq(world, "127.0.0.1", options, "select 7")?;
        ensure!(said.stderr.contains(word), "{options}: {said}");
    }
    Ok(())
}

fn proof(world: &mut World) -> Result<()> {
    for options in [
        "channel_binding=require",
        "require_auth=scram-sha-256",
        "channel_binding=require require_auth=scram-sha-256 sslnegotiation=direct sslmode=require",
        "channel_binding=disable sslmode=disable",
    ] {
        let options = format!("password={PLACEHOLDER} {options}");
        let said = libpq(world, "127.0.0.8", &options, "select current_user")?.ok()?;
        ensure!(said == "shop_scram\n", "{options}: {said}");
    }
    // Drivers with SCRAM of their own.
    let program = "import asyncio, sys, asyncpg\nasync def main():\n  c = await asyncpg.connect(host=sys.argv[1], \
                   port=int(sys.argv[2]), user='tls', database='shop', password='worth-nothing')\n  \
                   print(await c.fetchval('select 7'))\nasyncio.run(main())\n";
    ensure!(client(world, "127.0.0.8").python(program, &[])?.ok()? == "7\n", "asyncpg");
    let program = "const [host, port, user, database] = process.argv.slice(1)\n\
                   const c = new (require('pg').Client)({ host, port, user, database, password: 'worth-nothing' })\n\
                   c.connect().then(() => c.query('select 7 as n')).then(r => { console.log(r.rows[0].n); c.end() })";
    let modules = packaged("node").join("node_modules").to_string_lossy().into_owned();
    let node = client(world, "127.0.0.8").env("NODE_PATH", &modules);
    ensure!(node.run("/usr/bin/env", &["node", "-e", program, "--"])?.ok()? == "7\n", "node-postgres");
    Ok(())
}

fn wrong_proof(world: &mut World) -> Result<()> {
    let said = libpq(world, "127.0.0.8", "password=guess", "select 7")?;
    ensure!(said.stderr.contains("password authentication failed"), "{said}");
    // Who knows it and is nobody's identity is nobody still.
    let stranger = world.client_in(&world.places.unknown, "127.0.0.8", "tls").env("PGPASSWORD", PLACEHOLDER);
    let said = stranger.psql(&["select 7"])?.refused()?;
    ensure!(said.contains("connection refused"), "{said}");
    Ok(())
}

fn bound(world: &mut World) -> Result<()> {
    let mark = world.postgres.log()?.len();
    let rows = client(world, "127.0.0.4").psql(&["select current_user"])?.ok()?;
    ensure!(rows == "shop_tls\n", "{rows}");
    let log = world.postgres.log()?.split_off(mark);
    // What the server logs of its own side of the exchange (log_connections, PostgreSQL 14 and newer).
    ensure!(log.contains("method=scram-sha-256"), "{log}");
    Ok(())
}

fn certificate(world: &mut World) -> Result<()> {
    let mark = world.postgres.log()?.len();
    let rows = client(world, "127.0.0.9").psql(&["select current_user"])?.ok()?;
    ensure!(rows == "shop_cert\n", "{rows}");
    let log = world.postgres.log()?.split_off(mark);
    ensure!(log.contains("identity=\"CN=shop_cert\" method=cert"), "{log}");
    Ok(())
}
