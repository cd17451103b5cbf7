//! Unmodified clients: psql, pgbench and Python drivers, told a host, a port, a user and a database and no more.

use std::path::Path;

use anyhow::Result;

use super::cgroup::Cgroup;
use super::net::Netns;
use super::spawn::{Output, Program, Running};

/// The account clients run as: not root, and not the server's.
const ACCOUNT: &str = "nobody";

/// Debian's interpreter, because the drivers come as Debian packages.
const PYTHON: &str = "/usr/bin/python3";

/// Where a client connects to and who it says it is.
#[derive(Clone)]
pub(crate) struct Client<'a> {
    cgroup: Option<&'a Cgroup>,
    netns: Option<&'a Netns>,
    host: String,
    port: u16,
    user: String,
    database: String,
    environment: Vec<(String, String)>,
    limit: u64,
}

impl<'a> Client<'a> {
    /// A client in `cgroup` that claims to be `user`; none = in no cgroup of ours.
    pub(crate) fn new(cgroup: Option<&'a Cgroup>, host: &str, port: u16, user: &str) -> Self {
        Self {
            cgroup,
            netns: None,
            host: host.into(),
            port,
            user: user.into(),
            database: "shop".into(),
            environment: Vec::new(),
            limit: 30,
        }
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    pub(crate) fn netns(mut self, netns: &'a Netns) -> Self {
        self.netns = Some(netns);
        self
    }

    /// Another name for where it connects to.
    pub(crate) fn host(mut self, name: &str) -> Self {
        self.host = name.into();
        self
    }

    /// Another port than the server's.
    pub(crate) fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    pub(crate) fn database(mut self, name: &str) -> Self {
        self.database = name.into();
        self
    }

    pub(crate) fn limit(mut self, seconds: u64) -> Self {
        self.limit = seconds;
        self
    }

    /// psql in its plainest form, one `-c` per entry; unaligned output without headers, errors with SQLSTATE.
    pub(crate) fn psql(&self, commands: &[&str]) -> Result<Output> {
        let commands = commands.iter().flat_map(|command| ["-c", command]);
        self.psql_program()?.args(commands).run()
    }

    /// psql exactly as a person types it, with its own layout; `shown` is what was typed.
    pub(crate) fn typed(&self, sql: &str) -> Result<(String, Program)> {
        let shown = format!("psql {} -d {} -c {}", self.where_to().join(" "), self.database, quoted(sql));
        Ok((shown, self.program("/usr/bin/psql", &[])?.args(["-c", sql])))
    }

    /// psql fed a script; it goes on after errors, as it does by itself.
    pub(crate) fn script(&self, text: &str) -> Result<Output> {
        self.psql_program()?.stdin(text).run()
    }

    /// psql with a script, still running.
    pub(crate) fn start_script(&self, text: &str) -> Result<Running> {
        self.psql_program()?.stdin(text).start()
    }

    fn psql_program(&self) -> Result<Program> {
        self.program("/usr/bin/psql", &["-XAt", "-v", "VERBOSITY=verbose"])
    }

    /// A program that takes its options like psql.
    pub(crate) fn tool(&self, path: &str, args: &[&str]) -> Result<Program> {
        self.program(path, args)
    }

    /// A program that is told where to connect, and no database.
    pub(crate) fn bare_tool(&self, path: &str, args: &[&str]) -> Result<Program> {
        Ok(self.prepare(path)?.args(self.where_to()).args(args))
    }

    /// psql as PostgreSQL's own regression suite runs it.
    pub(crate) fn regress(&self, text: Vec<u8>) -> Result<Output> {
        let flags = ["-X", "-a", "-q", "-v", "HIDE_TABLEAM=on", "-v", "HIDE_TOAST_COMPRESSION=on"];
        self.program("/usr/bin/psql", &flags)?.stdin(text).run()
    }

    /// pgbench with a script file.
    pub(crate) fn pgbench(&self, script: &Path, args: &[&str]) -> Result<Output> {
        let program = self.prepare("/usr/bin/pgbench")?.args(["-n", "-f"]).args([script]).args(args);
        program.args(self.where_to()).args([self.database.as_str()]).run()
    }

    /// The same, still running.
    pub(crate) fn start_pgbench(&self, script: &Path, args: &[&str]) -> Result<Running> {
        let program = self.prepare("/usr/bin/pgbench")?.args(["-n", "-f"]).args([script]).args(args);
        program.args(self.where_to()).args([self.database.as_str()]).start()
    }

    /// pgbench with a script of its own.
    pub(crate) fn pgbench_builtin(&self, args: &[&str]) -> Result<Output> {
        self.prepare("/usr/bin/pgbench")?.args(args).args(self.where_to()).args([&self.database]).run()
    }

    /// psql whose output is counted and thrown away: the number of bytes.
    pub(crate) fn psql_counted(&self, command: &str) -> Result<u64> {
        self.psql_program()?.args(["-c", command]).count_output().run()?.counted()
    }

    /// A Python program given host, port, user, database and `args` as its arguments.
    pub(crate) fn python(&self, source: &str, args: &[&str]) -> Result<Output> {
        self.python_program(source, args)?.run()
    }

    /// The same, still running.
    pub(crate) fn start_python(&self, source: &str, args: &[&str]) -> Result<Running> {
        self.python_program(source, args)?.start()
    }

    /// Any program, given host, port, user and database behind `args`.
    pub(crate) fn run(&self, path: impl AsRef<Path>, args: &[&str]) -> Result<Output> {
        let port = self.port.to_string();
        let whom = [&self.host, port.as_str(), &self.user, &self.database];
        self.prepare(path)?.args(args).args(whom).run()
    }

    fn python_program(&self, source: &str, args: &[&str]) -> Result<Program> {
        let port = self.port.to_string();
        let program =
            self.prepare(PYTHON)?.args(["-c", source, &self.host, &port, &self.user, &self.database]);
        Ok(program.args(args))
    }

    fn program(&self, path: &str, args: &[&str]) -> Result<Program> {
        Ok(self.prepare(path)?.args(args).args(self.where_to()).args(["-d", &self.database]))
    }

    fn where_to(&self) -> Vec<String> {
        let port = self.port.to_string();
        ["-h", &self.host, "-p", &port, "-U", &self.user].map(String::from).to_vec()
    }

    fn prepare(&self, path: impl AsRef<Path>) -> Result<Program> {
        let mut program = Program::new(path).user(ACCOUNT)?.limit(self.limit);
        for (name, value) in &self.environment {
            program = program.env(name, value);
        }
        if let Some(netns) = self.netns {
            program = program.netns(&netns.path())?;
        }
        match self.cgroup {
            Some(cgroup) => program.inside(cgroup),
            None => Ok(program),
        }
    }
}

/// An argument as a shell wants it.
fn quoted(text: &str) -> String {
    if text.contains('\'') { format!("\"{text}\"") } else { format!("'{text}'") }
}
