//! What the journal costs and how fast it answers, measured with its own writer: `cargo xtask bench record` runs it.
//!
//! Makes a journal of a number of operations (the first argument, 1,000,000 by default) in a folder (the second one, or a
//! temporary one), as sessions of PostgreSQL leave them: statement, rows, result. Prints a table.

use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chaperone::record::event::{Event, Identity, Step, Verdict, Workload};
use chaperone::record::query::{self, Filter};
use chaperone::record::{Burst, Journal, Options, PublicKey, head, prove, public_path, verify};
use regex::Regex;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Statements of each session, and sessions at once.
const STATEMENTS: u64 = 50;
const AT_ONCE: u64 = 20;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let operations: u64 = arguments.next().map_or(Ok(1_000_000), |count| count.parse())?;
    let given = arguments.next().map(PathBuf::from);
    let folder = given.clone().unwrap_or_else(|| {
        std::env::temp_dir().join(format!("chaperone-bench-journal-{}", std::process::id()))
    });
    let outcome = measure(&folder, operations);
    if given.is_none() {
        let _best_effort = fs::remove_dir_all(&folder);
    }
    outcome
}

fn measure(folder: &Path, operations: u64) -> Outcome<()> {
    let mut out = std::io::stdout().lock();
    let options = Options::new(&folder.join("state"), 64 << 30);
    let took = write(&options, operations)?;
    let bytes = used(&options.dir)?;
    writeln!(out, "| a journal of {operations} operations | |\n|---|--:|")?;
    let per = took.as_secs_f64() * 1e6 / operations as f64;
    let megabytes = bytes as f64 / 1e6;
    writeln!(
        out,
        "| written, statement, rows and result each | {per:.1} µs an operation, {megabytes:.0} MB |"
    )?;

    let rows = random(1 << 20);
    for (what, bytes) in [("noise, which does not compress", rows.clone()), ("text", text(1 << 20))] {
        let state = folder.join("rows");
        let journal = Journal::open(&Options::new(&state, 64 << 30))?;
        let started = Instant::now();
        let mut offset = 0;
        for _ in 0..400 {
            journal.append_served(Burst { session: "s", offset, bytes: &bytes }, Burst::NOTHING, &[])?;
            offset += bytes.len() as u64;
        }
        let rate = offset as f64 / 1e6 / started.elapsed().as_secs_f64();
        journal.close()?;
        drop(journal);
        fs::remove_dir_all(&state)?;
        writeln!(out, "| rows recorded, {what} | {rate:.0} MB/s |")?;
    }

    let key = PublicKey::load(&public_path(&options.key))?;
    let started = Instant::now();
    let report = verify::verify(&options.dir, &key, None)?;
    let took = started.elapsed();
    if !report.ok {
        return Err(format!("{report:#?}").into());
    }
    let rate = megabytes / took.as_secs_f64();
    writeln!(out, "| `verify` | {:.1} s, {rate:.0} MB/s |", took.as_secs_f64())?;
    let started = Instant::now();
    prove::record(&options.dir, &key, head::load(&options.dir, &key)?.ok_or("no head")?.seq / 2)?;
    writeln!(out, "| `prove` one record | {:.1} s |", started.elapsed().as_secs_f64())?;

    let session = id(operations / STATEMENTS / 2);
    let pattern = Regex::new("(?i)id = 777[0-9]7 ")?;
    for (how, with) in
        [("the first time, making indexes", true), ("after that", true), ("without indexes", false)]
    {
        if !with {
            block_indexes(&options.dir)?;
        }
        let mut times = Vec::new();
        let mut ask = |what: &str, question: &mut dyn FnMut() -> Outcome<u64>| -> Outcome<()> {
            let started = Instant::now();
            let found = question()?;
            times.push(format!("{what} {} ({found})", shown(started.elapsed())));
            Ok(())
        };
        let dir = &options.dir;
        ask("`sessions`", &mut || Ok(query::sessions(dir, &Filter::default())?.sessions.len() as u64))?;
        let denied = Filter { denied: true, identity: Some("bot-3".into()), ..Filter::default() };
        ask("`--denied --identity`", &mut || Ok(query::sessions(dir, &denied)?.sessions.len() as u64))?;
        let text = Filter { text: Some("where id = 4242".into()), ..Filter::default() };
        ask("`--text`", &mut || Ok(query::sessions(dir, &text)?.sessions.len() as u64))?;
        ask("`grep`", &mut || {
            let mut hits = 0;
            query::grep(dir, &pattern, |_| hits += 1)?;
            Ok(hits)
        })?;
        ask("`replay`", &mut || Ok(query::replay(dir, &session, 20)?.operations.len() as u64))?;
        ask("`why`", &mut || Ok(query::receipt(dir, &format!("{session}/7"))?.seq))?;
        writeln!(out, "| questions, {how} | {} |", times.join(", "))?;
    }
    Ok(())
}

fn shown(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

fn id(session: u64) -> String {
    // As the agent's: the random part first would be as good.
    format!("{session:08x}a5a5702c805a54afadf25f07")
}

/// As the agent writes: a write for the statement, one for its rows and its result.
fn write(options: &Options, operations: u64) -> Outcome<Duration> {
    let journal = Journal::open(options)?;
    let start = Event::AgentStart {
        version: env!("CARGO_PKG_VERSION").into(),
        host: "bench".into(),
        pid: 1,
        config_sha256: "0".repeat(64),
        policy_sha256: "0123456789abcdef".repeat(4),
        predecessor: None,
    };
    journal.append(&[start])?;
    let mut rows = text(300);
    let mut offsets = vec![0_u64; usize::try_from(AT_ONCE)?];
    let started = Instant::now();
    let mut checked = Instant::now();
    for operation in 0..operations {
        let round = operation / (STATEMENTS * AT_ONCE);
        let (op, place) = (operation % (STATEMENTS * AT_ONCE) / AT_ONCE + 1, operation % AT_ONCE);
        let number = round * AT_ONCE + place;
        let session = id(number);
        let offset = offsets.get_mut(usize::try_from(place)?).ok_or("a place")?;
        if op == 1 {
            *offset = 0;
            journal.append(&[begin(&session, number)])?;
        }
        journal.append(&[statement(&session, op, operation)])?;
        if let Some(byte) = rows.get_mut(usize::try_from(operation % 300)?) {
            *byte = byte.wrapping_add(1);
        }
        let burst = Burst { session: &session, offset: *offset, bytes: &rows };
        *offset += rows.len() as u64;
        journal.append_served(burst, Burst::NOTHING, &[result(&session, op, *offset)])?;
        if op == STATEMENTS {
            journal.append(&[end(&session)])?;
        }
        if checked.elapsed() > Duration::from_secs(1) {
            checked = Instant::now();
            journal.checkpoint()?;
        }
    }
    let took = started.elapsed();
    journal.close()?;
    Ok(took)
}

fn begin(session: &str, number: u64) -> Event {
    Event::SessionStart {
        session: session.into(),
        protocol: "postgres".into(),
        target: format!("shop-{}", number % 3),
        original_destination: "10.0.0.5:5432".into(),
        client: "127.0.0.1:40000".into(),
        workload: Box::new(Workload {
            comm: "python3".into(),
            cgroup: Some("/agents.slice/bot.service".into()),
            ..Workload::default()
        }),
        identity: Identity { name: format!("bot-{}", number % 7), groups: vec!["ai-agents".into()] },
        claimed_user: "bot".into(),
        database: "shop".into(),
        application: None,
        settings: Vec::new(),
        upstream_user: "shop_app".into(),
    }
}

fn statement(session: &str, op: u64, number: u64) -> Event {
    Event::Statement {
        session: session.into(),
        op,
        step: Step::Query,
        prepared: None,
        sql: format!("select name, email, city from public.customers where id = {number} order by name"),
        sql_sha256: "ab".repeat(32),
        binds: [].into(),
        verdict: if number % 500 == 3 { Verdict::Deny } else { Verdict::Permit },
        policies: ["read-shop".into()].into(),
        policy: "0123456789abcdef".into(),
        reason: None,
        masked: vec!["public.customers.email".into()],
        hold: None,
    }
}

fn result(session: &str, op: u64, served_to: u64) -> Event {
    Event::Result {
        session: session.into(),
        op,
        rows: 3,
        bytes: 180,
        masked_cells: 3,
        tag: "SELECT 3".into(),
        sqlstate: None,
        served_to: Some(served_to),
    }
}

fn end(session: &str) -> Event {
    Event::SessionEnd {
        session: session.into(),
        reason: "the client said goodbye".into(),
        statements: STATEMENTS,
        rows: 3 * STATEMENTS,
        client_bytes: 4_000,
        upstream_bytes: 15_000,
    }
}

/// In place of each index stands what can neither be read nor replaced.
fn block_indexes(dir: &Path) -> Outcome<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "chx") {
            fs::remove_file(&path)?;
            fs::create_dir_all(path.join("blocked"))?;
        }
    }
    Ok(())
}

fn used(dir: &Path) -> Outcome<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        sum += entry?.metadata()?.len();
    }
    Ok(sum)
}

fn random(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

fn text(length: usize) -> Vec<u8> {
    let rows = (0..).flat_map(|n: u64| {
        format!("{n}\tcustomer {}\t***\t{}\n", n * 7919 % 10_007, n * 31 % 97).into_bytes()
    });
    rows.take(length).collect()
}
