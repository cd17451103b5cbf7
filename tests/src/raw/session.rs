//! Random sessions: statements the server refuses, aborted transactions, names used again, pipelines, cursors, COPY,
//! settings, and attempts to hide a table behind another.

use super::generate::{self, Random};
use super::wire;
use super::words::{COPIES, NAMES, OBJECTS, OTHERS, PLAIN, SETTINGS, TRANSACTIONS};

/// One exchange: what is sent at once, how many ReadyForQuery are due, and how it reads.
pub(super) struct Step {
    pub(super) bytes: Vec<u8>,
    pub(super) due: usize,
    pub(super) shown: String,
}

/// Few names, so that they are used again.
const STATEMENTS: &[&str] = &["", "s", "t"];
const PORTALS: &[&str] = &["", "c", "d"];

/// Takes its course from the seed alone.
pub(super) fn session(seed: u64, cases: &[String]) -> Vec<Step> {
    let mut player = Player::new(seed, cases);
    let count = 3 + player.random.below(8);
    let mut steps: Vec<Step> = (0..count).map(|_| player.step()).collect();
    // Whatever happened: everybody agrees on where the session stands.
    steps.push(simple("ROLLBACK"));
    steps.push(simple(PROBE));
    steps
}

/// The last exchange of each session.
pub(super) const PROBE: &str = "SELECT 'in step' AS probe";

pub(super) struct Player<'a> {
    pub(super) random: Random,
    cases: &'a [String],
}

impl<'a> Player<'a> {
    pub(super) fn new(seed: u64, cases: &'a [String]) -> Self {
        Self { random: Random::new(seed), cases }
    }

    pub(super) fn step(&mut self) -> Step {
        match self.random.below(16) {
            0..=2 => simple(&self.text()),
            3..=6 => self.group(),
            7 | 8 => self.either(NAMES),
            9 | 10 => self.either(TRANSACTIONS),
            11 => self.copy(),
            12 => self.either(SETTINGS),
            13 => self.either(OBJECTS),
            14 => self.either(OTHERS),
            _ => self.odd(),
        }
    }

    /// One statement, or several in a string.
    fn text(&mut self) -> String {
        let sql = self.sql();
        if self.random.once(5) { format!("{sql}; {}", self.sql()) } else { sql }
    }

    pub(super) fn sql(&mut self) -> String {
        match self.random.below(8) {
            0..=2 => {
                let random = std::mem::replace(&mut self.random, Random::new(0));
                let (sql, next) = generate::statement(random);
                self.random = next;
                sql
            }
            3 | 4 if !self.cases.is_empty() => {
                let sql = self.cases[self.random.below(self.cases.len())].clone();
                if self.random.once(3) { self.mutated(&sql) } else { sql }
            }
            _ => self.random.one(PLAIN).to_owned(),
        }
    }

    /// One word exchanged for another of its kind.
    fn mutated(&mut self, sql: &str) -> String {
        const WORDS: &[&[&str]] = &[
            &["token", "ssn", "pin", "name", "id", "email", "blob"],
            &["users", "child", "part", "members", "gen", "wide", "v_users", "log"],
            &["SELECT", "SELECT DISTINCT", "SELECT ALL"],
            &["UNION ALL", "UNION", "EXCEPT", "INTERSECT ALL"],
            &["WHERE", "HAVING", "ORDER BY", "GROUP BY", "LIMIT"],
            &[" = ", " < ", " || ", " IS DISTINCT FROM ", " ~ "],
        ];
        let family = WORDS[self.random.below(WORDS.len())];
        let (from, to) = (self.random.one(family), self.random.one(family));
        sql.replacen(from, to, 1)
    }

    fn filled(&mut self, list: &[&str]) -> String {
        let text = self.random.one(list);
        let name = |names: &[&str], random: &mut Random| match random.one(&names[1..]) {
            name if random.once(9) => name.to_ascii_uppercase(),
            name => name.to_owned(),
        };
        let text = text.replace("{s}", &name(STATEMENTS, &mut self.random));
        let text = text.replace("{c}", &name(PORTALS, &mut self.random));
        if text.contains("{q}") { text.replace("{q}", &self.sql()) } else { text }
    }

    /// As a simple query, or in the extended protocol.
    pub(super) fn either(&mut self, list: &[&str]) -> Step {
        let sql = self.filled(list);
        if sql.ends_with("FROM STDIN") {
            return self.copy_in(&sql);
        }
        match self.random.below(5) {
            0 => {
                let (name, binary) = (self.random.one(STATEMENTS), self.random.once(2));
                let bytes = [
                    wire::parse(name, &sql),
                    wire::bind("", name, 0, binary),
                    wire::execute("", 0),
                    wire::sync(),
                ];
                Step { bytes: bytes.concat(), due: 1, shown: format!("parse, run {name:?}: {sql}") }
            }
            1 => {
                let next = self.filled(list);
                Step {
                    bytes: [wire::query(&sql), wire::query(&next)].concat(),
                    due: 2,
                    shown: format!("{sql} >> {next}"),
                }
            }
            _ => simple(&sql),
        }
    }

    /// A pipeline up to its Sync, in any order.
    pub(super) fn group(&mut self) -> Step {
        let (mut bytes, mut shown) = (Vec::new(), Vec::new());
        for _ in 0..1 + self.random.below(6) {
            let (statement, portal) = (self.random.one(STATEMENTS), self.random.one(PORTALS));
            let rows = [0, 0, 1, 2][self.random.below(4)];
            let binary = self.random.once(2);
            let parameters = u16::from(self.random.once(4));
            let (part, text) = match self.random.below(12) {
                0..=2 => {
                    let sql = if self.random.once(4) { self.filled(NAMES) } else { self.sql() };
                    let parameters = u16::from(sql.contains("$1"));
                    let described =
                        if self.random.once(2) { wire::describe(b'P', portal) } else { Vec::new() };
                    let all = [
                        wire::parse(statement, &sql),
                        wire::bind(portal, statement, parameters, binary),
                        described,
                        wire::execute(portal, rows),
                    ];
                    (all.concat(), format!("all {statement:?} {portal:?} {binary} {rows}: {sql}"))
                }
                3 | 4 => {
                    let sql = self.sql();
                    (wire::parse(statement, &sql), format!("parse {statement:?}: {sql}"))
                }
                5 | 6 => (
                    wire::bind(portal, statement, parameters, binary),
                    format!("bind {portal:?} {statement:?} {parameters} {binary}"),
                ),
                7 | 8 => (wire::execute(portal, rows), format!("execute {portal:?} {rows}")),
                9 => match self.random.once(2) {
                    true => (wire::describe(b'S', statement), format!("describe statement {statement:?}")),
                    false => (wire::describe(b'P', portal), format!("describe portal {portal:?}")),
                },
                10 => match self.random.once(2) {
                    true => (wire::close(b'S', statement), format!("close statement {statement:?}")),
                    false => (wire::close(b'P', portal), format!("close portal {portal:?}")),
                },
                _ => (wire::flush(), "flush".to_owned()),
            };
            bytes.extend(part);
            shown.push(text);
        }
        bytes.extend(wire::sync());
        Step { bytes, due: 1, shown: shown.join(" | ") }
    }

    fn copy(&mut self) -> Step {
        match self.random.below(4) {
            0 => self.copy_in("COPY log(m) FROM STDIN"),
            1 => self.copy_in("COPY users(id, token) FROM STDIN"),
            _ => {
                let sql = self.filled(COPIES);
                if self.random.once(3) {
                    let bytes = [
                        wire::parse("", &sql),
                        wire::bind("", "", 0, false),
                        wire::execute("", 0),
                        wire::sync(),
                    ];
                    return Step { bytes: bytes.concat(), due: 1, shown: format!("parse, run: {sql}") };
                }
                simple(&sql)
            }
        }
    }

    fn copy_in(&mut self, sql: &str) -> Step {
        let rows: &[u8] = if sql.contains("id, token") { b"1\tguess\n91\tnew\n" } else { b"word\nother\n" };
        let end = match self.random.below(4) {
            0 => wire::copy_fail("changed my mind"),
            1 => [wire::copy_data(b"no such\trow\tat all\n"), wire::copy_done()].concat(),
            _ => wire::copy_done(),
        };
        Step {
            bytes: [wire::query(sql), wire::copy_data(rows), end].concat(),
            due: 1,
            shown: format!("{sql} ({} bytes)", rows.len()),
        }
    }

    fn odd(&mut self) -> Step {
        match self.random.below(6) {
            // Bind of a parameter that does not fit: the server's error speaks of values.
            0 | 1 => {
                let sql = "SELECT token, $1::date FROM users";
                let bytes =
                    [wire::parse("", sql), wire::bind("", "", 1, true), wire::execute("", 0), wire::sync()];
                Step { bytes: bytes.concat(), due: 1, shown: format!("binds 1: {sql}") }
            }
            2 => Step {
                bytes: [wire::copy_data(b"stray\n"), wire::copy_done(), wire::sync()].concat(),
                due: 1,
                shown: "stray CopyData".to_owned(),
            },
            3 => Step {
                // version()
                bytes: wire::function_call(89),
                due: 1,
                shown: "FunctionCall".to_owned(),
            },
            4 => Step {
                bytes: [wire::sync(), wire::sync(), wire::query("SELECT token FROM users"), wire::sync()]
                    .concat(),
                due: 4,
                shown: "Sync, Sync, a query, Sync".to_owned(),
            },
            _ => {
                let (name, sql) = (self.random.one(STATEMENTS), self.sql());
                let second = self.sql();
                let group = |sql: &str, binary| {
                    [
                        wire::parse(name, sql),
                        wire::bind("", name, 0, binary),
                        wire::execute("", 0),
                        wire::sync(),
                    ]
                    .concat()
                };
                Step {
                    bytes: [group(&sql, false), group(&second, true)].concat(),
                    due: 2,
                    shown: format!("two groups {name:?}: {sql} || {second}"),
                }
            }
        }
    }
}

pub(super) fn simple(sql: &str) -> Step {
    Step { bytes: wire::query(sql), due: 1, shown: sql.to_owned() }
}
