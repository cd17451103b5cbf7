//! Random sessions, some hundred at a time, each lot in two fresh databases.

use super::*;

/// How much of it.
pub(crate) struct Wanted {
    pub(crate) exchanges: u64,
    pub(crate) seed: u64,
    /// Sessions that share two databases.
    pub(crate) lot: u64,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { exchanges: 700, seed: 1, lot: 100 }
    }
}

pub(super) fn reading(world: &mut World) -> Result<()> {
    // First without anybody between: what is looked for must be found.
    let pair = Pair::copy(world, 800)?;
    let direct = lot(world, &world.places.bypassed, &pair, 1, 20)?;
    ensure!(direct.findings > 10, "directly, only {} findings", direct.findings);
    drop(pair);
    run(world, &world.places.billing_bot, &Wanted::default())
}

pub(super) fn changing(world: &mut World) -> Result<()> {
    run(world, &world.places.mail_bot, &Wanted { exchanges: 400, seed: 500_000, lot: 25 })
}

pub(super) fn run(world: &World, place: &Cgroup, wanted: &Wanted) -> Result<()> {
    let mut sum = Counts::default();
    let (mut seed, mut number) = (wanted.seed, 0);
    while sum.exchanges < wanted.exchanges {
        let pair = Pair::copy(world, number)?;
        let counts = lot(world, place, &pair, seed, wanted.lot)?;
        sum.add(counts);
        (seed, number) = (seed + wanted.lot, number + 1);
    }
    eprintln!("        {sum:?}");
    ensure!(sum.findings == 0, "{} findings:\n{}", sum.findings, sum.text);
    // Sessions that are all refused show nothing.
    ensure!(sum.rows > sum.exchanges / 4, "hardly a row was served: {sum:?}");
    Ok(())
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) exchanges: u64,
    pub(super) rows: u64,
    denied: u64,
    errors: u64,
    ended: u64,
    timed_out: u64,
    pub(super) findings: u64,
    pub(super) text: String,
}

impl std::fmt::Debug for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} exchanges: {} rows, {} denied, {} errors of the server, {} sessions ended, {} timeouts, {} findings",
            self.exchanges, self.rows, self.denied, self.errors, self.ended, self.timed_out, self.findings
        )
    }
}

impl Counts {
    pub(super) fn add(&mut self, more: Self) {
        self.exchanges += more.exchanges;
        self.rows += more.rows;
        self.denied += more.denied;
        self.errors += more.errors;
        self.ended += more.ended;
        self.timed_out += more.timed_out;
        self.findings += more.findings;
        self.text += &more.text;
    }

    /// What a client printed: findings, and a last line of counts.
    pub(super) fn of(output: &str) -> Result<Self> {
        let (text, last) = output.trim_end().rsplit_once('\n').unwrap_or(("", output.trim_end()));
        let words: Vec<&str> = last.split(' ').collect();
        let number = |name: &str| -> Result<u64> {
            let at = words.iter().position(|word| *word == name);
            let value =
                at.and_then(|at| words.get(at + 1)).with_context(|| format!("no {name} in {last}"))?;
            Ok(value.parse()?)
        };
        Ok(Self {
            exchanges: number("exchanges")?,
            rows: number("rows")?,
            denied: number("denied")?,
            errors: number("errors")?,
            ended: number("ended")?,
            timed_out: number("timed-out")?,
            findings: number("findings")?,
            text: format!("{text}\n"),
        })
    }
}

fn lot(world: &World, place: &Cgroup, pair: &Pair<'_>, seed: u64, sessions: u64) -> Result<Counts> {
    let planted = planted_in(world);
    let [a, b] = &pair.names;
    let (seed, sessions) = (seed.to_string(), sessions.to_string());
    let output =
        raw(world, place, &["fuzz", HOST, "shop_trust"], &[a, b, table::path(&planted)?, &seed, &sessions])?
            .run()?
            .ok()?;
    Counts::of(&output)
}
