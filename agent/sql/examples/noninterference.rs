//! Checks the promise against a real server: whatever the analysis lets through must look the same, once masked, in two
//! databases that differ in masked values only. Runs the case files and then random queries; prints every difference.
//!
//! `noninterference COUNT SEED` with the two databases `shop_a` and `shop_b` behind `$PGHOST` (a socket directory) and
//! `$PGPORT`, made from `tests/fixture` as its README says. Uses the role `agent` without a password.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a tool of the tests"
)]

#[path = "../tests/support/mod.rs"]
#[expect(dead_code, reason = "shared with the tests")]
mod support;

#[path = "noninterference/generate.rs"]
mod generate;
#[path = "noninterference/wire.rs"]
mod wire;

use std::collections::{BTreeMap, HashMap};

use chaperone_sql::{NameOp, Origin, Output, Statement, View, analyse};
use wire::{Reply, Result as SetResult, Server};

fn main() -> std::io::Result<()> {
    let number =
        |at: usize, default: u64| std::env::args().nth(at).and_then(|n| n.parse().ok()).unwrap_or(default);
    let view = support::labelled();
    let mut judge =
        Judge { view, a: Server::connect("shop_a")?, b: Server::connect("shop_b")?, tally: BTreeMap::new() };
    for file in ["leaks.txt", "ordinary.txt", "psql.txt"] {
        let text = std::fs::read_to_string(support::directory().join("cases").join(file))?;
        for line in text.lines().filter_map(|line| line.split_once(" | ")) {
            if OWN.iter().any(|word| line.1.contains(word)) {
                continue;
            }
            judge.session(&line.1.split(" ;; ").collect::<Vec<_>>())?;
        }
    }
    println!("cases: {:?}", judge.tally);
    judge.tally.clear();
    let mut random = generate::Random::new(number(2, 1));
    for _ in 0..number(1, 10_000) {
        let (sql, next) = generate::statement(random);
        random = next;
        judge.session(&[&sql])?;
    }
    println!("random: {:#?}", judge.tally);
    Ok(())
}

/// What differs between two databases, two sessions or two moments for good reasons.
const OWN: &[&str] = &[
    "current_database",
    "pid",
    "pg_locks",
    "xmin",
    "pg_table_size",
    "EXPLAIN (ANALYZE",
    "random()",
    "shobj_description",
    "pg_database",
];

struct Judge {
    view: View,
    a: Server,
    b: Server,
    tally: BTreeMap<String, usize>,
}

impl Judge {
    fn count(&mut self, what: &str) {
        *self.tally.entry(what.to_owned()).or_default() += 1;
    }

    /// One session of simple queries, rolled back at the end.
    fn session(&mut self, strings: &[&str]) -> std::io::Result<()> {
        let mut names = HashMap::new();
        let controlled = strings.iter().any(|sql| {
            let upper = sql.trim_start().to_ascii_uppercase();
            ["BEGIN", "START", "COMMIT", "ROLLBACK", "END"].iter().any(|word| upper.starts_with(word))
        });
        if !controlled {
            self.a.query("BEGIN")?;
            self.b.query("BEGIN")?;
        }
        for sql in strings {
            match analyse(sql, &self.view) {
                Err(refusal) => {
                    let kind = format!("{:?}", refusal.kind);
                    let kind: String = kind.chars().take_while(char::is_ascii_alphanumeric).collect();
                    self.count(&format!("refused {kind}"));
                    if std::env::var_os("SHOW_REFUSED").is_some_and(|wanted| *wanted == *kind) {
                        let served = self.a.query(sql)?.error.is_none();
                        if served {
                            println!("REFUSED {}: {sql}", refusal.reason);
                        }
                    }
                    break;
                }
                Ok(statements) if statements.iter().any(|it| it.copy.is_some()) => {}
                Ok(statements) => self.compare(sql, &statements, &mut names)?,
            }
        }
        for server in [&mut self.a, &mut self.b] {
            server.query("ROLLBACK")?;
            server.query("DEALLOCATE ALL")?;
        }
        Ok(())
    }

    fn compare(
        &mut self,
        sql: &str,
        list: &[Statement],
        names: &mut HashMap<String, Statement>,
    ) -> std::io::Result<()> {
        let (a, b) = (self.a.query(sql)?, self.b.query(sql)?);
        let timed_out = |reply: &Reply| {
            reply.error.as_ref().is_some_and(|(code, _)| matches!(code.as_str(), "57014" | "25P02"))
        };
        if timed_out(&a) || timed_out(&b) {
            self.count("timed out");
            return Ok(());
        }
        let mut problems = Vec::new();
        let strict = list.iter().any(|statement| statement.strict);
        let plans: Vec<Output> = list.iter().map(|statement| plan(statement, names)).collect();
        let (shown_a, shown_b) =
            (self.masked(&plans, &a, &mut problems), self.masked(&plans, &b, &mut problems));
        if shown_a != shown_b {
            problems.push(format!("differ: {shown_a:?} against {shown_b:?}"));
        }
        let error = |reply: &Reply| {
            reply.error.as_ref().map(|(code, text)| (code.clone(), if strict { "" } else { text }.to_owned()))
        };
        if error(&a) != error(&b) {
            problems.push(format!("errors differ: {:?} against {:?}", a.error, b.error));
        }
        let masks = plans.iter().any(Output::is_masked);
        self.count(match (&a.error, masks) {
            (Some(_), _) => "server error",
            (None, true) => "served masked",
            (None, false) => "served clean",
        });
        if let (Some((code, text)), true) = (&a.error, std::env::var_os("SHOW_ERRORS").is_some()) {
            println!("ERROR {code} {text}: {sql}");
        }
        for problem in problems {
            self.count("PROBLEM");
            println!("PROBLEM {sql}\n    {problem}");
        }
        Ok(())
    }

    /// The rows as the client would see them. Notes where the reply does not fit the plan.
    fn masked(&self, plans: &[Output], reply: &Reply, problems: &mut Vec<String>) -> Vec<SetResult> {
        let mut shown = Vec::new();
        for (result, plan) in reply.results.iter().zip(plans) {
            let mut result = result.clone();
            match plan {
                Output::Columns(columns) => {
                    if !result.columns.is_empty() && columns.len() != result.columns.len() {
                        problems.push(format!(
                            "{} columns planned, {} sent",
                            columns.len(),
                            result.columns.len()
                        ));
                    }
                    for (position, column) in columns.iter().enumerate() {
                        let Some(mask) = &column.mask else { continue };
                        for row in &mut result.rows {
                            if let Some(cell) = row.get_mut(position) {
                                *cell =
                                    mask.replacement().map(|text| String::from_utf8_lossy(text).into_owned());
                            }
                        }
                    }
                }
                Output::NoRows if !result.columns.is_empty() => {
                    problems.push("rows where none were planned".to_owned())
                }
                _ => {}
            }
            for (position, (oid, number)) in result.columns.iter().enumerate() {
                let masked = matches!(plan, Output::Columns(columns) if columns.get(position).is_some_and(|c| c.mask.is_some()));
                if self.view.origin(*oid, *number) != Origin::Clean && !masked {
                    problems.push(format!("column {position} comes from a masked column"));
                }
            }
            shown.push(result);
        }
        shown
    }
}

/// What the rows of a statement look like, names followed.
fn plan(statement: &Statement, names: &mut HashMap<String, Statement>) -> Output {
    match &statement.names {
        NameOp::Prepare { name, inner } | NameOp::DeclareCursor { name, inner, .. } => {
            names.insert(name.clone(), (**inner).clone());
        }
        NameOp::Execute(name) | NameOp::Fetch { name, sends_rows: true } => {
            return names.get(name).map_or(Output::NoRows, |inner| inner.output.clone());
        }
        _ => {}
    }
    statement.output.clone()
}
