//! Two governed sessions in one database, step by step in an order of chance, and a third one past the agent that changes
//! the schema beside them. Nothing planted may be in what the two are sent.
//!
//! One of the two mostly reads, the other mostly changes. Some steps are sent and read later, so that they wait in the
//! server for what the others do meanwhile; some stop between Parse and Bind. The course is the seed's alone.

use std::collections::VecDeque;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::fuzz;
use super::generate::Random;
use super::secrets::Secrets;
use super::session::{PROBE, Player, Step, simple};
use super::wire::{self, Connection, Due, Ending, Message, Place};
use super::words::{NAMES, OBJECTS, PLAIN, TRANSACTIONS};

mod movements;

/// Steps of all three in a run.
const STEPS: usize = 60;

/// How long one is waited for that may wait for another.
const SHORT: Duration = Duration::from_secs(1);

/// Behind a lock, the agent reads a changed schema for so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Before the probe: whatever happened, everybody agrees on where the session stands.
const LAST: &str = "ROLLBACK -- the last";

/// Who reads, who changes, and who is not governed.
const NAMED: [&str; 3] = ["reads", "changes", "beside"];
const READS: usize = 0;
const CHANGES: usize = 1;
const BESIDE: usize = 2;

/// A step of somebody's, and whether its answer is read at once.
struct Turn {
    who: usize,
    step: Step,
    due: Due,
    late: bool,
}

/// Plays one seed; prints findings, and a line of counts. The two sessions belong to the first and the second cgroup.
pub(super) fn run(at: &Place<'_>, secrets: &Secrets, seed: u64, cgroups: &[&str]) -> Result<()> {
    let &[reads, changes, own] = cgroups else { bail!("three cgroups, not {cgroups:?}") };
    let turns = course(seed)?;
    let mut play =
        Play { at, cgroups: [reads, changes, own], seats: Vec::new(), sent: Vec::new(), tally: [0; 4] };
    for who in [READS, CHANGES, BESIDE] {
        let connection = play.open(who)?;
        play.seats.push(Seat::new(connection));
    }
    let mut out = std::io::stdout().lock();
    let (mut findings, mut played) = (0, Vec::new());
    for turn in &turns {
        played.push(format!("{:8}{}", NAMED[turn.who], turn.step.shown));
        for finding in play.turn(turn, secrets)? {
            findings += 1;
            writeln!(out, "FINDING seed {seed}: {finding}:\n      {}", played.join("\n      "))?;
        }
    }
    let [rows, denied, errors, ended] = play.tally;
    writeln!(
        out,
        "exchanges {} rows {rows} denied {denied} errors {errors} ended {ended} timed-out 0 findings {findings}",
        turns.len()
    )?;
    Ok(())
}

/// Prints what a seed stands for.
pub(super) fn show(seed: u64) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for turn in course(seed)? {
        let late = if turn.late { " (read later)" } else { "" };
        writeln!(out, "{:8}{}{late}", NAMED[turn.who], turn.step.shown)?;
    }
    Ok(())
}

fn course(seed: u64) -> Result<Vec<Turn>> {
    let cases = fuzz::texts()?;
    let mut random = Random::new(seed.wrapping_mul(3));
    let mut players = [1, 2].map(|more| Player::new(seed.wrapping_mul(3) + more, &cases));
    let mut queues: [VecDeque<(Step, Due)>; 3] = Default::default();
    let mut turns = Vec::new();
    // The agent knows the schema as it is before anything moves.
    for who in [READS, CHANGES] {
        turns.push(Turn {
            who,
            step: simple("SELECT id, token FROM app.users"),
            due: Due::Ready(1),
            late: false,
        });
    }
    // Every other run is about few statements and what turns them.
    let turning = random.once(2);
    // In some nobody is beside: then what the agent sees is all that happens.
    let alone = !turning && random.once(2);
    while turns.len() < STEPS {
        let who = match random.below(if alone { 4 } else { 5 + usize::from(turning) }) {
            0 | 1 => READS,
            2 | 3 => CHANGES,
            _ => BESIDE,
        };
        if queues[who].is_empty() {
            match who {
                BESIDE => {
                    let movement = match turning && !random.once(4) {
                        true => movements::HOLDS,
                        false => movements::ALL[random.below(movements::ALL.len())],
                    };
                    queues[who].extend(movement.iter().map(|sql| (simple(sql), Due::Ready(1))));
                }
                _ if turning && !random.once(4) => queues[who].extend(turned(&mut players[who], who)),
                _ => queues[who].extend(steps(&mut players[who], who)),
            }
        }
        let Some((step, due)) = queues[who].pop_front() else { continue };
        let often = if turning && who == READS { 2 } else { 4 };
        let late = matches!(due, Due::Ready(_)) && random.once(often);
        turns.push(Turn { who, step, due, late });
    }
    for sql in [LAST, PROBE] {
        for who in [BESIDE, CHANGES, READS] {
            turns.push(Turn { who, step: simple(sql), due: Due::Ready(1), late: false });
        }
    }
    Ok(turns)
}

/// What one of the two does next: a step, or several that the others' come between.
fn steps(player: &mut Player<'_>, who: usize) -> Vec<(Step, Due)> {
    let chance = player.random.below(16);
    let one = |step: Step| {
        let due = Due::Ready(step.due);
        vec![(step, due)]
    };
    match (who, chance) {
        (_, 0 | 1) => split(player),
        (_, 2) => kept(player),
        (_, 3) => one(simple(player.random.one(movements::HEARD))),
        (READS, 4..=6) => one(simple(player.random.one(movements::READ))),
        (READS, 7) => one(player.either(PLAIN)),
        (READS, 8 | 9) => one(player.group()),
        (READS, 10) => one(player.either(NAMES)),
        (CHANGES, 4..=8) => one(player.either(OBJECTS)),
        (CHANGES, 9) => one(simple(player.random.one(movements::CHANGE))),
        (CHANGES, 10 | 11) => one(player.either(TRANSACTIONS)),
        _ => one(player.step()),
    }
}

/// A change that turns what another statement means, or such a statement, perhaps behind one that waits.
fn turned(player: &mut Player<'_>, who: usize) -> Vec<(Step, Due)> {
    if who == CHANGES {
        let turns = movements::TURNS[player.random.below(movements::TURNS.len())];
        return turns.iter().map(|sql| (simple(sql), Due::Ready(1))).collect();
    }
    let (sql, wait) = (player.random.one(movements::TURNED), movements::WAITS);
    let step = match player.random.below(4) {
        0 => simple(sql),
        1 | 2 => Step {
            bytes: [wire::query(wait), wire::query(sql)].concat(),
            due: 2,
            shown: format!("{wait} >> {sql}"),
        },
        _ => {
            let run =
                |sql| [wire::parse("", sql), wire::bind("", "", 0, false), wire::execute("", 0)].concat();
            Step {
                bytes: [run(wait), run(sql), wire::sync()].concat(),
                due: 1,
                shown: format!("in a group: {wait} | {sql}"),
            }
        }
    };
    let due = Due::Ready(step.due);
    vec![(step, due)]
}

/// What to read: often what others change.
fn wanted(player: &mut Player<'_>) -> String {
    if player.random.once(2) { player.sql() } else { player.random.one(movements::READ).to_owned() }
}

/// Parse with Flush, then the rest.
fn split(player: &mut Player<'_>) -> Vec<(Step, Due)> {
    let (sql, name) = (wanted(player), player.random.one(&["", "s"]));
    let first = Step {
        bytes: [wire::close(b'S', name), wire::parse(name, &sql), wire::flush()].concat(),
        due: 0,
        shown: format!("parse {name:?}, flush: {sql}"),
    };
    let parameters = u16::from(sql.contains("$1"));
    let binary = player.random.once(2);
    let rest = [wire::bind("", name, parameters, binary), wire::execute("", 0), wire::sync()];
    let second =
        Step { bytes: rest.concat(), due: 1, shown: format!("bind, execute, sync {name:?} {binary}") };
    vec![(first, Due::Parsed), (second, Due::Ready(1))]
}

/// A statement that is kept and run again, or a portal that is read in parts within a transaction.
fn kept(player: &mut Player<'_>) -> Vec<(Step, Due)> {
    let sql = wanted(player);
    let binary = player.random.once(2);
    let parameters = u16::from(sql.contains("$1"));
    let step = |parts: &[Vec<u8>], shown: String| {
        (Step { bytes: [parts.concat(), wire::sync()].concat(), due: 1, shown }, Due::Ready(1))
    };
    if player.random.once(2) {
        let run = [wire::bind("", "s", parameters, binary), wire::execute("", 0)];
        return vec![
            step(&[wire::close(b'S', "s"), wire::parse("s", &sql)], format!("parse \"s\": {sql}")),
            step(&run, "run \"s\"".to_owned()),
            step(&run, "run \"s\" again".to_owned()),
        ];
    }
    let begun = [wire::parse("", &sql), wire::bind("c", "", parameters, binary), wire::execute("c", 1)];
    vec![
        (simple("BEGIN"), Due::Ready(1)),
        step(&begun, format!("portal \"c\", one row: {sql}")),
        step(&[wire::execute("c", 1)], "one row more of \"c\"".to_owned()),
        step(&[wire::execute("c", 0)], "the rest of \"c\"".to_owned()),
        (simple("COMMIT"), Due::Ready(1)),
    ]
}

struct Seat {
    connection: Connection,
    /// What was sent and not read.
    pending: Option<Due>,
    /// It was told of an error, and has to send Sync before anything else is heard.
    astray: bool,
    /// What was sent last shows whether client and server agree.
    probed: bool,
}

impl Seat {
    fn new(connection: Connection) -> Self {
        Self { connection, pending: None, astray: false, probed: false }
    }
}

struct Play<'a> {
    at: &'a Place<'a>,
    cgroups: [&'a str; 3],
    seats: Vec<Seat>,
    /// By either of the two: what they know.
    sent: Vec<u8>,
    /// Rows, denials, errors of the server, sessions that were ended.
    tally: [usize; 4],
}

impl Play<'_> {
    /// Who a connection belongs to is decided by where this process is as it is made.
    fn open(&self, who: usize) -> Result<Connection> {
        let [.., own] = self.cgroups;
        join(self.cgroups[who])?;
        let opened = Connection::open(self.at);
        join(own)?;
        let mut connection = opened.with_context(|| format!("who {}", NAMED[who]))?;
        if who == BESIDE {
            connection.exchange(&wire::query("SET ROLE postgres; SET search_path = app, public"), 1)?;
            connection.received.clear();
        }
        Ok(connection)
    }

    /// Plays it, or leaves it out where its session still waits for what came before. Gives what is wrong.
    fn turn(&mut self, turn: &Turn, secrets: &Secrets) -> Result<Vec<String>> {
        let who = turn.who;
        // The others have to go on for it to come to an end, and at last they have.
        let last = turn.step.shown == LAST;
        let mut wrong = self.read(who, if last { PATIENCE } else { SHORT }, secrets)?;
        if self.seats[who].pending.is_some() {
            return Ok(wrong);
        }
        let mut due = turn.due;
        if std::mem::take(&mut self.seats[who].astray) {
            let seat = &mut self.seats[who];
            seat.connection.send(&wire::sync());
            seat.pending = Some(Due::Ready(1));
            wrong.extend(self.read(who, PATIENCE, secrets)?);
        }
        if who != BESIDE {
            self.sent.extend_from_slice(&turn.step.bytes);
        }
        let seat = &mut self.seats[who];
        if !seat.connection.send(&turn.step.bytes) {
            due = Due::Close;
        }
        seat.pending = Some(due);
        if !turn.late {
            seat.probed = turn.step.shown == PROBE;
            let patience = if last || seat.probed { PATIENCE } else { SHORT };
            wrong.extend(self.read(who, patience, secrets)?);
        }
        Ok(wrong)
    }

    /// Reads what is still to come. What takes longer stays to come, until nothing is left to wait for.
    fn read(&mut self, who: usize, patience: Duration, secrets: &Secrets) -> Result<Vec<String>> {
        let seat = &mut self.seats[who];
        let Some(mut due) = seat.pending.take() else { return Ok(Vec::new()) };
        let parsed = due == Due::Parsed;
        seat.connection.patience(patience)?;
        let ending = seat.connection.read(&mut due)?;
        let messages = std::mem::take(&mut seat.connection.received);
        seat.astray = parsed && messages.iter().any(|message| message.tag == b'E');
        let probed = std::mem::take(&mut seat.probed);
        let mut wrong = Vec::new();
        if who != BESIDE {
            let bytes: Vec<u8> = messages.iter().flat_map(|message| message.body.clone()).collect();
            if let Some(place) = secrets.found(&bytes, &self.sent) {
                wrong.push(format!("{place} came back to who {}", NAMED[who]));
            }
            if probed && ending == Ending::Ready && !fuzz::in_step(&messages) {
                wrong.push(format!("who {} is out of step", NAMED[who]));
            }
            self.count(&messages);
        }
        match ending {
            Ending::Ready => return Ok(wrong),
            Ending::Silent if patience == SHORT => {
                self.seats[who].pending = Some(due);
                return Ok(wrong);
            }
            Ending::Closed => self.tally[3] += usize::from(who != BESIDE),
            Ending::Silent | Ending::Endless => {
                wrong.push(format!("no end of the answer to who {}", NAMED[who]))
            }
        }
        self.seats[who] = Seat::new(self.open(who)?);
        Ok(wrong)
    }

    fn count(&mut self, messages: &[Message]) {
        self.tally[0] += messages.iter().filter(|message| message.tag == b'D').count();
        for error in messages.iter().filter(|message| message.tag == b'E') {
            let text = wire::field(error, b'M').unwrap_or_default();
            self.tally[if text.starts_with("denied by policy") { 1 } else { 2 }] += 1;
        }
    }
}

fn join(cgroup: &str) -> Result<()> {
    fs::write(Path::new(cgroup).join("cgroup.procs"), "0").with_context(|| format!("joining {cgroup}"))
}
