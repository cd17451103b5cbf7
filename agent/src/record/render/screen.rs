//! What programs showed, for a player (asciicast, version 2) and for this terminal.
//!
//! A recording was written by those it watches, and a terminal does more than show: it answers questions as if they
//! had been typed, sets titles and clipboards. Played here, only text, colours and movements of the cursor pass.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Write};

use super::super::output::{Kind, Part};
use super::super::query::Scene;

/// Of programs without a terminal.
const SIZE: (u32, u32) = (80, 24);

/// Turns scenes into text: whole characters, and lines that begin at the left also without a terminal.
#[derive(Debug, Default)]
struct Decoder {
    /// Beginnings of characters, by program and stream.
    cut: HashMap<(u64, u8), Vec<u8>>,
    terminals: BTreeSet<u64>,
}

impl Decoder {
    fn text(&mut self, part: &Part<'_>) -> String {
        let stream = match part.kind {
            Kind::Out => 0,
            Kind::Err => 1,
            Kind::In => 2,
            Kind::Size => {
                self.terminals.insert(part.op);
                return String::new();
            }
        };
        let rest = self.cut.entry((part.op, stream)).or_default();
        rest.extend_from_slice(part.bytes);
        let whole = match std::str::from_utf8(rest) {
            // A character whose end is still to come.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => rest.len(),
        };
        let text: Vec<u8> = rest.drain(..whole).collect();
        let text = String::from_utf8_lossy(&text).into_owned();
        if self.terminals.contains(&part.op) { text } else { text.replace('\n', "\r\n") }
    }
}

/// Writes scenes as an asciicast.
pub struct Cast<'a> {
    out: &'a mut dyn Write,
    title: String,
    timestamp: u64,
    only: Option<u64>,
    begun: bool,
    decoder: Decoder,
}

impl<'a> Cast<'a> {
    /// Of all programs, or one.
    pub fn new(title: &str, only: Option<u64>, out: &'a mut dyn Write) -> Self {
        let decoder = Decoder::default();
        Self { out, title: title.to_owned(), timestamp: 0, only, begun: false, decoder }
    }

    /// # Errors
    /// Those of the output.
    pub fn scene(&mut self, at_ms: u64, scene: &Scene<'_>) -> io::Result<()> {
        match scene {
            Scene::Starts(stamp) => {
                self.timestamp = stamp.0 / 1_000_000_000;
                Ok(())
            }
            Scene::Begins { op, .. } if self.only.is_some_and(|only| only != *op) => Ok(()),
            Scene::Shows(part) if self.only.is_some_and(|only| only != part.op) => Ok(()),
            Scene::Seen { op, .. } if self.only.is_some_and(|only| only != *op) => Ok(()),
            Scene::Seen { text, .. } => {
                if self.begun {
                    self.line(at_ms, "m", &format!("heuristic: {text}"))
                } else {
                    Ok(())
                }
            }
            Scene::Begins { op, text } => {
                // The size of the terminal comes behind it, and belongs into the first line.
                if self.begun { self.line(at_ms, "m", &format!("#{op} {text}")) } else { Ok(()) }
            }
            Scene::Shows(part) => {
                let size = part.size();
                let first = !std::mem::replace(&mut self.begun, true);
                if first {
                    self.header(size.unwrap_or(SIZE))?;
                }
                let text = self.decoder.text(part);
                match (part.kind, size) {
                    (Kind::Size, Some((columns, rows))) if !first => {
                        self.line(at_ms, "r", &format!("{columns}x{rows}"))
                    }
                    (Kind::Size, _) => Ok(()),
                    (Kind::In, _) => self.line(at_ms, "i", &text),
                    (Kind::Out | Kind::Err, _) => self.line(at_ms, "o", &text),
                }
            }
        }
    }

    /// A session that showed nothing is a cast, too.
    ///
    /// # Errors
    /// Those of the output.
    pub fn end(mut self) -> io::Result<()> {
        if self.begun { Ok(()) } else { self.header(SIZE) }
    }

    fn header(&mut self, (width, height): (u32, u32)) -> io::Result<()> {
        let header = serde_json::json!({
            "version": 2, "width": width, "height": height, "timestamp": self.timestamp, "title": self.title,
        });
        writeln!(self.out, "{header}")
    }

    fn line(&mut self, at_ms: u64, code: &str, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        writeln!(self.out, "{}", serde_json::json!([super::export::seconds(at_ms), code, text]))
    }
}

/// Scenes as this terminal may show them.
#[derive(Debug, Default)]
pub struct Player {
    decoder: Decoder,
    only: Option<u64>,
}

impl Player {
    /// Of all programs, or one.
    #[must_use]
    pub fn new(only: Option<u64>) -> Self {
        Self { decoder: Decoder::default(), only }
    }

    /// What to write for a scene.
    pub fn text(&mut self, scene: &Scene<'_>) -> String {
        match scene {
            Scene::Shows(part) if self.only.is_none_or(|only| only == part.op) => {
                let text = self.decoder.text(part);
                if part.kind == Kind::In { String::new() } else { harmless(&text) }
            }
            Scene::Begins { op, text } if self.only.is_none_or(|only| only == *op) => {
                format!("\x1b[0;7m #{op} {} \x1b[0m\r\n", super::visible(text))
            }
            // What was typed is on the screen that is played; a word of ours would stand in its way.
            Scene::Begins { .. } | Scene::Shows(_) | Scene::Seen { .. } | Scene::Starts(_) => String::new(),
        }
    }
}

/// `text` with nothing left in it but text, colours, and what moves the cursor or clears the screen. A sequence that
/// is cut in two is lost.
#[must_use]
pub fn harmless(text: &str) -> String {
    let mut shown = Shown(String::with_capacity(text.len()));
    vte::Parser::new().advance(&mut shown, text.as_bytes());
    shown.0
}

struct Shown(String);

impl vte::Perform for Shown {
    fn print(&mut self, c: char) {
        if super::escape::is_plain(c) || c == ' ' {
            self.0.push(c);
        } else {
            self.0.extend(c.escape_unicode());
        }
    }

    fn execute(&mut self, byte: u8) {
        if matches!(byte, b'\n' | b'\r' | b'\t' | 0x08) {
            self.0.push(char::from(byte));
        }
    }

    fn csi_dispatch(&mut self, params: &vte::Params, intermediates: &[u8], ignore: bool, action: char) {
        let private = match intermediates {
            [] => "",
            // Modes of the screen; mouse and paste modes would make the terminal type.
            [b'?'] if matches!(action, 'h' | 'l') && only(params, &[7, 25, 47, 1047, 1048, 1049]) => "?",
            _ => return,
        };
        let known = matches!(action, 'A'..='H' | 'J'..='M' | 'P' | 'S' | 'T' | 'X' | '@' | 'd' | 'f' | 'm' | 'r' | 's' | 'u');
        if ignore || (private.is_empty() && !known) {
            return;
        }
        let params: Vec<String> =
            params.iter().map(|sub| sub.iter().map(u16::to_string).collect::<Vec<_>>().join(":")).collect();
        self.0.push_str(&format!("\x1b[{private}{}{action}", params.join(";")));
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], ignore: bool, byte: u8) {
        if intermediates.is_empty() && !ignore && matches!(byte, b'7' | b'8' | b'D' | b'E' | b'M') {
            self.0.push('\x1b');
            self.0.push(char::from(byte));
        }
    }
}

fn only(params: &vte::Params, known: &[u16]) -> bool {
    params.iter().all(|sub| matches!(sub, [number] if known.contains(number)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Stamp;

    #[test]
    fn a_terminal_is_shown_and_never_asked() {
        for (text, expect) in [
            ("plain \u{e9}\r\n\t\x08", "plain \u{e9}\r\n\t\x08"),
            ("\x1b[1;31mred\x1b[m", "\x1b[1;31mred\x1b[0m"),
            ("\x1b[2J\x1b[10;5H", "\x1b[2J\x1b[10;5H"),
            ("\x1b[?25l\x1b[?1049h", "\x1b[?25l\x1b[?1049h"),
            // Reports, which come back as if they had been typed; titles, clipboards, mouse, paste, printing.
            ("a\x1b[6nb\x1b[cc\x1b[21td", "abcd"),
            ("\x1b]0;title\x07x\x1b]52;c;ZXZpbA==\x07", "x"),
            ("\x1b[?1000h\x1b[?2004h\x1b[5i\x1bP$q\x1b\\\x1b#8\x1bc", ""),
            ("\x07\x0e\x05", ""),
            ("\u{202e}", "\\u{202e}"),
        ] {
            assert_eq!(harmless(text), expect, "{text:?}");
        }
    }

    #[test]
    fn a_cast_has_its_size_whole_characters_and_only_what_was_asked_for() {
        let size = [100u32, 30].map(u32::to_be_bytes).concat();
        let bigger = [120u32, 40].map(u32::to_be_bytes).concat();
        let part = |op, kind, bytes| Scene::Shows(Part { op, kind, bytes });
        let scenes = [
            (0, Scene::Starts(Stamp(7_000_000_000))),
            (1, Scene::Begins { op: 3, text: "vi" }),
            (1, part(3, Kind::Size, &size)),
            (20, part(3, Kind::Out, b"h\xc3")),
            (30, part(3, Kind::Out, b"\xa9\n")),
            (40, part(4, Kind::Err, b"other\n")),
            (50, Scene::Begins { op: 5, text: "ls" }),
            (60, part(3, Kind::Size, &bigger)),
            (70, part(3, Kind::In, b"q")),
        ];
        let cast = |only| {
            let mut out = Vec::new();
            let mut cast = Cast::new("session x", only, &mut out);
            scenes.iter().for_each(|(at, scene)| cast.scene(*at, scene).unwrap());
            cast.end().unwrap();
            let text = String::from_utf8(out).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<serde_json::Value>>()
        };
        let all = cast(None);
        assert_eq!(
            (&all[0]["width"], &all[0]["height"], &all[0]["timestamp"]),
            (&100.into(), &30.into(), &7.into())
        );
        let codes: Vec<&str> = all[1..].iter().map(|line| line[1].as_str().unwrap()).collect();
        assert_eq!(codes, ["o", "o", "o", "m", "r", "i"]);
        assert_eq!(all[2], serde_json::json!([0.03, "o", "\u{e9}\n"]));
        assert_eq!(all[3], serde_json::json!([0.04, "o", "other\r\n"]));
        assert_eq!(cast(Some(4)).len(), 2);
        let mut out = Vec::new();
        Cast::new("empty", None, &mut out).end().unwrap();
        assert!(!out.is_empty());
    }
}
