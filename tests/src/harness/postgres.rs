//! A private PostgreSQL server: its own data, port, accounts, certificates and log, gone with the suite.
//!
//! It listens on several loopback addresses, so that one server can stand behind several targets. Accounts have
//! passwords that only the agent is told; `pg_hba.conf` gives each account one way of authentication.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use nix::unistd::User;

use super::net::Netns;
use super::scratch::Scratch;
use super::spawn::{Program, Running, wait_for};

/// The account the server runs as; it refuses root.
const ACCOUNT: &str = "postgres";

/// Loopback addresses the server answers on.
pub(crate) const ADDRESSES: [&str; 10] = [
    "127.0.0.1",
    "127.0.0.2",
    "127.0.0.3",
    "127.0.0.4",
    "127.0.0.5",
    "127.0.0.6",
    "127.0.0.7",
    "127.0.0.8",
    "127.0.0.9",
    "::1",
];

/// The name in the server's certificate.
pub(crate) const SERVER_NAME: &str = "db.internal";

pub(crate) const SCRAM_PASSWORD: &str = "scram-kXv0aYq3";
pub(crate) const MD5_PASSWORD: &str = "md5-T7pLw2bz";
pub(crate) const TLS_PASSWORD: &str = "tls-9QhGm4sd";

const HBA: &str = "\
local   all shop_bench trust
local   all postgres   trust
local   all all        reject
hostssl all shop_tls   all scram-sha-256
hostssl all shop_cert  all cert
host    all shop_scram all scram-sha-256
host    all shop_md5   all md5
host    all shop_trust all trust
host    replication shop_trust all trust
host    all shop_bench all trust
host    all all        all reject
";

pub(crate) struct Postgres {
    programs: PathBuf,
    folder: PathBuf,
    pub(crate) port: u16,
    server: Option<Running>,
    statements_logged: bool,
    /// Where it runs when it is not this machine's own network namespace, and the addresses it has there.
    elsewhere: Option<(Arc<Netns>, Vec<&'static str>)>,
}

impl Postgres {
    /// Starts a server with the database `shop`, its accounts and its invented customers.
    pub(crate) fn start(scratch: &Scratch) -> Result<Self> {
        Self::start_with(scratch, true, None)
    }

    /// As `start`, with nothing but connections in the log, for measuring.
    pub(crate) fn start_quiet(scratch: &Scratch) -> Result<Self> {
        Self::start_with(scratch, false, None)
    }

    /// As `start`, in a network namespace, at these addresses of it and the usual port.
    pub(crate) fn start_in(
        scratch: &Scratch,
        netns: Arc<Netns>,
        addresses: Vec<&'static str>,
    ) -> Result<Self> {
        Self::start_with(scratch, true, Some((netns, addresses)))
    }

    /// As `start`, of other versions: for each, a name and the folder with its `initdb` and `postgres`.
    pub(crate) fn start_versions(scratch: &Scratch, versions: Vec<(String, PathBuf)>) -> Result<Vec<Self>> {
        let folders =
            versions.into_iter().map(|(name, programs)| Self::folder(scratch, &name, programs, true, None));
        let mut servers = folders.collect::<Result<Vec<Self>>>()?;
        // Making their files takes longer than starting them, and servers are children of the main thread.
        std::thread::scope(|scope| {
            let makers: Vec<_> = servers.iter().map(|server| scope.spawn(|| server.files())).collect();
            makers
                .into_iter()
                .try_for_each(|maker| maker.join().unwrap_or_else(|_| bail!("a thread panicked")))
        })?;
        servers.iter_mut().try_for_each(Self::fill)?;
        Ok(servers)
    }

    fn start_with(
        scratch: &Scratch,
        statements_logged: bool,
        elsewhere: Option<(Arc<Netns>, Vec<&'static str>)>,
    ) -> Result<Self> {
        let mut postgres = Self::folder(scratch, "pg", programs()?, statements_logged, elsewhere)?;
        postgres.files()?;
        postgres.fill()?;
        Ok(postgres)
    }

    fn folder(
        scratch: &Scratch,
        name: &str,
        programs: PathBuf,
        statements_logged: bool,
        elsewhere: Option<(Arc<Netns>, Vec<&'static str>)>,
    ) -> Result<Self> {
        let folder = scratch.folder(name, 0o755)?;
        let user = User::from_name(ACCOUNT)?.context("no account `postgres`: is postgresql-15 installed?")?;
        chown(&folder, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        let port = if elsewhere.is_some() { 5432 } else { free_port()? };
        Ok(Self { programs, folder, port, server: None, statements_logged, elsewhere })
    }

    fn files(&self) -> Result<()> {
        self.init()?;
        self.certificates()
    }

    fn fill(&mut self) -> Result<()> {
        self.launch()?;
        self.admin_in("postgres", ACCOUNTS)?;
        self.admin(SHOP).map(drop)
    }

    fn init(&self) -> Result<()> {
        let data = self.folder.join("data");
        Program::new(self.programs.join("initdb"))
            .user(ACCOUNT)?
            .args(["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8"])
            .args(["-D".as_ref(), data.as_os_str()])
            .run()?
            .ok()
            .context("initdb")?;
        fs::write(data.join("pg_hba.conf"), HBA)?;
        let mut settings = format!(
            "listen_addresses = '{}'\nport = {}\nunix_socket_directories = '{}'\nfsync = off\n\
             max_connections = 200\nlog_connections = on\nlog_line_prefix = '%m [%p] %u@%d %r %a '\n\
             ssl = on\nssl_cert_file = '{folder}/server.pem'\nssl_key_file = '{folder}/server.key'\n\
             ssl_ca_file = '{folder}/ca.pem'\n",
            self.addresses().join(","),
            self.port,
            self.folder.display(),
            folder = self.folder.display(),
        );
        if self.statements_logged {
            settings += "log_disconnections = on\nlog_statement = all\nwal_level = logical\n";
        } else {
            settings += "log_connections = off\nautovacuum = off\nshared_buffers = 512MB\n";
        }
        fs::write(data.join("postgresql.auto.conf"), settings)?;
        Ok(())
    }

    /// A certificate authority for an afternoon, the server's certificate, and an authority nobody should trust.
    fn certificates(&self) -> Result<()> {
        let path = |name: &str| self.folder.join(name).to_string_lossy().into_owned();
        let openssl = |args: &[&str]| -> Result<()> {
            Program::new("/usr/bin/openssl").user(ACCOUNT)?.args(args).run()?.ok().context("openssl")?;
            Ok(())
        };
        for ca in ["ca", "other-ca"] {
            let (key, pem) = (path(&format!("{ca}.key")), path(&format!("{ca}.pem")));
            let subject = format!("/CN=Throw-away {ca}");
            openssl(&[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
                "-subj",
                &subject,
                "-keyout",
                &key,
                "-out",
                &pem,
            ])?;
        }
        let server = format!("subjectAltName = DNS:{SERVER_NAME}\nextendedKeyUsage = serverAuth\n");
        let client = "extendedKeyUsage = clientAuth\n".to_owned();
        for (file, subject, extensions) in
            [("server", SERVER_NAME, server), ("shop_cert", "shop_cert", client)]
        {
            let named = |ending: &str| path(&format!("{file}.{ending}"));
            let (key, request, pem, names) = (named("key"), named("csr"), named("pem"), named("ext"));
            fs::write(&names, extensions)?;
            fs::set_permissions(&names, fs::Permissions::from_mode(0o644))?;
            let subject = format!("/CN={subject}");
            openssl(&[
                "req",
                "-new",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-subj",
                &subject,
                "-keyout",
                &key,
                "-out",
                &request,
            ])?;
            openssl(&[
                "x509",
                "-req",
                "-in",
                &request,
                "-CA",
                &path("ca.pem"),
                "-CAkey",
                &path("ca.key"),
                "-CAcreateserial",
                "-days",
                "2",
                "-extfile",
                &names,
                "-out",
                &pem,
            ])?;
        }
        Ok(())
    }

    fn addresses(&self) -> &[&'static str] {
        self.elsewhere.as_ref().map_or(&ADDRESSES, |(_, addresses)| addresses)
    }

    fn launch(&mut self) -> Result<()> {
        let mut server = Program::new(self.programs.join("postgres"));
        if let Some((netns, _)) = &self.elsewhere {
            server = server.netns(&netns.path())?;
        }
        let server = server
            .user(ACCOUNT)?
            .args(["-D".as_ref(), self.folder.join("data").as_os_str()])
            .log(&self.folder.join("log"))?
            .start()?;
        self.server = Some(server);
        self.wait_ready()
    }

    /// Until the server answers, for instance after a crash of one of its processes.
    pub(crate) fn wait_ready(&mut self) -> Result<()> {
        wait_for("PostgreSQL being ready", Duration::from_secs(30), || {
            if let Some(server) = &mut self.server {
                ensure!(!server.exited()?, "PostgreSQL ended at once:\n{}", self.log_tail());
            }
            Ok(self.admin_in("postgres", "select 1").is_ok().then_some(()))
        })
        .with_context(|| self.log_tail())
    }

    /// Runs SQL as the superuser over the Unix socket, past the agent, and gives the rows.
    pub(crate) fn admin(&self, sql: &str) -> Result<String> {
        self.admin_in("shop", sql)
    }

    /// The same in another database.
    pub(crate) fn admin_in(&self, database: &str, sql: &str) -> Result<String> {
        let output = Program::new("/usr/bin/psql")
            .args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database])
            .args(["-h".as_ref(), self.folder.as_os_str()])
            .args(["-p", &self.port.to_string()])
            .stdin(sql)
            .run()?
            .ok()?;
        Ok(output.trim_end().to_owned())
    }

    /// The tables `pgbench -S` reads, readable by everybody.
    pub(crate) fn pgbench_tables(&self) -> Result<()> {
        Program::new("/usr/bin/pgbench")
            .args(["-i", "-q", "-s", "10", "-U", "postgres", "-p", &self.port.to_string()])
            .args(["-h".as_ref(), self.folder.as_os_str(), "shop".as_ref()])
            .limit(120)
            .run()?
            .ok()?;
        self.admin("grant select on all tables in schema public to public").map(drop)
    }

    /// One of the programs that came with the server.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// A file the server made: `ca.pem`, `other-ca.pem`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Everything the server logged: who connected, and each statement it was sent.
    pub(crate) fn log(&self) -> Result<String> {
        fs::read_to_string(self.folder.join("log")).context("reading the server's log")
    }

    fn log_tail(&self) -> String {
        let log = self.log().unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.iter().rev().take(15).rev().copied().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let Some(server) = &mut self.server else { return };
        // "Immediate": it ends its children, which sit in sessions of their own, and writes nothing.
        let _ = server.signal(Signal::SIGQUIT);
        let _ = wait_for("PostgreSQL's end", Duration::from_secs(5), || Ok(server.exited()?.then_some(())));
    }
}

/// The newest server installed the Debian way.
fn programs() -> Result<PathBuf> {
    let base = Path::new("/usr/lib/postgresql");
    let mut versions: Vec<u32> = fs::read_dir(base)
        .context("no /usr/lib/postgresql: is postgresql-15 installed?")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|version: &u32| base.join(version.to_string()).join("bin/initdb").exists())
        .collect();
    versions.sort_unstable();
    let newest = versions.last().context("no PostgreSQL server below /usr/lib/postgresql")?;
    Ok(base.join(newest.to_string()).join("bin"))
}

/// A port nobody has, below the range the kernel hands out by itself. Never the same twice: nobody binds the port
/// that the agent's redirected connections go to, so it would look free for ever.
pub(crate) fn free_port() -> Result<u16> {
    static STEP: AtomicU16 = AtomicU16::new(0);
    let offset = u16::try_from(std::process::id() % 10_000)?;
    std::iter::repeat_with(|| STEP.fetch_add(1, Ordering::Relaxed))
        .take(2000)
        .map(|step| 20_000 + (offset + step) % 10_000)
        .find(|port| ADDRESSES.iter().all(|address| TcpListener::bind((*address, *port)).is_ok()))
        .context("no free port on the loopback addresses, IPv6's ::1 among them")
}

const ACCOUNTS: &str = "\
set password_encryption = 'scram-sha-256';
create role shop_scram login password 'scram-kXv0aYq3';
create role shop_tls login password 'tls-9QhGm4sd';
create role shop_cert login;
create role shop_trust login;
create role shop_bench login;
set password_encryption = 'md5';
create role shop_md5 login password 'md5-T7pLw2bz';
create database shop;
";

const SHOP: &str = include_str!("shop.sql");
