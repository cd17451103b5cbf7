//! Plays what the programs of a session showed, as it happened or faster.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use super::Failure;
use crate::record::query::{self, Scene};
use crate::record::render::{Cast, Player};

/// Pauses that are longer are not waited for.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How a session is played.
#[derive(Debug, clap::Args)]
pub(super) struct Play {
    /// Show on this terminal what the programs of a host showed, as it happened.
    #[arg(long, conflicts_with_all = ["events", "served", "cast", "csv"])]
    play: bool,
    /// As many times as fast.
    #[arg(long, default_value_t = 1.0, requires = "play", value_parser = speed)]
    speed: f64,
    /// From this moment of the session on, such as `90s`; what came before is shown at once.
    #[arg(long, requires = "play", value_parser = humantime::parse_duration)]
    from: Option<Duration>,
    /// Only the program with this number, with --play and --cast.
    #[arg(long)]
    op: Option<u64>,
}

fn speed(text: &str) -> Result<f64, String> {
    let speed: f64 = text.parse().map_err(|_not_a_number| "not a number")?;
    if speed.is_finite() && speed > 0.0 { Ok(speed) } else { Err("not a speed".to_owned()) }
}

impl Play {
    pub(super) fn wanted(&self) -> bool {
        self.play
    }

    pub(super) fn op(&self) -> Option<u64> {
        self.op
    }
}

pub(super) fn play(dir: &Path, id: &str, how: &Play, out: &mut dyn Write) -> Result<(), Failure> {
    let mut player = Player::new(how.op);
    let from = how.from.unwrap_or_default();
    let (mut written, mut last) = (Ok(()), from);
    let programs = query::screen(dir, id, |at_ms, scene| {
        let text = player.text(&scene);
        if text.is_empty() || written.is_err() {
            return;
        }
        let at = Duration::from_millis(at_ms);
        let pause = at.saturating_sub(last).min(PAUSE_MAX);
        last = last.max(at);
        // More than a day cannot come of it, so it is a duration.
        std::thread::sleep(Duration::try_from_secs_f64(pause.as_secs_f64() / how.speed).unwrap_or_default());
        written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    })?;
    // Whatever the last program left: colours, a hidden cursor, the other screen, a scrolling region.
    written.and_then(|()| out.write_all(b"\x1b[0m\x1b[?25h\x1b[?7h\x1b[r\r\n"))?;
    if programs { Ok(()) } else { Err(Failure::Failed("no host's programs ran in this session".into())) }
}

/// An asciicast of what programs showed; false when the session is none of a host.
pub(super) fn cast(dir: &Path, id: &str, op: Option<u64>, out: &mut dyn Write) -> Result<bool, Failure> {
    let mut buffer = io::BufWriter::new(out);
    let mut cast = Cast::new(&format!("session {id}"), op, &mut buffer);
    let mut written = Ok(());
    let programs = query::screen(dir, id, |at_ms, scene: Scene<'_>| {
        if written.is_ok() {
            written = cast.scene(at_ms, &scene);
        }
    })?;
    written?;
    if programs {
        cast.end()?;
        buffer.flush()?;
    }
    Ok(programs)
}
