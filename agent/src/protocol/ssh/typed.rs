//! Commands typed into a terminal, as far as its screen shows them: an aid for whoever reads a record, and no boundary.
//!
//! What is typed is not kept, because passwords are. But a terminal echoes a command line as it is typed, so when Enter was
//! pressed and the line is left, the line behind where typing began is read off the screen. That is a guess: programs draw
//! what they like, and who types blindly (`stty -echo`, a script from elsewhere) is not seen. What fills the whole screen,
//! an editor, a pager, is left out. Fed with what the client was served, after masks.

use std::collections::VecDeque;

/// A line is read up to here.
const TEXT_MAX: usize = 1024;
/// A terminal is followed up to this size.
const COLUMNS: std::ops::RangeInclusive<usize> = 2..=512;
const ROWS: std::ops::RangeInclusive<usize> = 2..=128;
/// Lines that were entered before the prompt they are for was shown.
const AHEAD_MAX: usize = 64;
/// Output may go on for so many lines before those are given up.
const MISSED_MAX: usize = 1000;
/// How prompts end.
const PROMPTS: [&str; 5] = ["$ ", "# ", "% ", "> ", "\u{276f} "];

/// Follows one terminal.
pub(super) struct Typed {
    parser: vte::Parser,
    screen: Screen,
}

#[derive(Default)]
struct Row {
    text: Vec<char>,
    /// It goes on in the next one: the terminal broke the line.
    wraps: bool,
}

struct Screen {
    columns: usize,
    rows: usize,
    /// The last ones; the top of the screen is further up when there are more.
    lines: VecDeque<Row>,
    row: usize,
    column: usize,
    saved: (usize, usize),
    /// The last column was written; the next letter begins a new row.
    full: bool,
    /// Another screen is shown, as editors do.
    other: bool,
    /// Where in its line typing began.
    begin: Option<usize>,
    /// The letter it began with, while nothing but letters was typed.
    first: Option<char>,
    /// Enter was pressed so often, and the line was not left yet.
    entered: usize,
    missed: usize,
    found: Vec<String>,
}

impl Typed {
    pub(super) fn new((columns, rows): (u32, u32)) -> Self {
        let mut screen = Screen {
            columns: 80,
            rows: 24,
            lines: VecDeque::from([Row::default()]),
            row: 0,
            column: 0,
            saved: (0, 0),
            full: false,
            other: false,
            begin: None,
            first: None,
            entered: 0,
            missed: 0,
            found: Vec::new(),
        };
        screen.resize(columns, rows);
        Self { parser: vte::Parser::new(), screen }
    }

    pub(super) fn resize(&mut self, (columns, rows): (u32, u32)) {
        self.screen.resize(columns, rows);
    }

    /// Bytes of the client.
    pub(super) fn client(&mut self, bytes: &[u8]) {
        let screen = &mut self.screen;
        if screen.other {
            return;
        }
        for byte in bytes {
            match byte {
                b'\r' | b'\n' => {
                    screen.begins();
                    screen.entered = (screen.entered + 1).min(AHEAD_MAX);
                }
                // The line is given up: ^C, ^\, ^D, ^Z.
                0x03 | 0x1c | 0x04 | 0x1a => (screen.begin, screen.entered) = (None, 0),
                byte => {
                    let letter = (b' '..0x7f).contains(byte).then_some(char::from(*byte));
                    if screen.begins() || letter.is_none() {
                        screen.first = letter;
                    }
                }
            }
        }
    }

    /// Bytes for the client. Returns the lines that were entered, by what is known now.
    pub(super) fn shown(&mut self, bytes: &[u8]) -> Vec<String> {
        self.parser.advance(&mut self.screen, bytes);
        std::mem::take(&mut self.screen.found)
    }
}

impl Screen {
    fn resize(&mut self, columns: u32, rows: u32) {
        let within = |value: u32, range: std::ops::RangeInclusive<usize>, usual| match value {
            0 => usual,
            value => usize::try_from(value).unwrap_or(usize::MAX).clamp(*range.start(), *range.end()),
        };
        (self.columns, self.rows) = (within(columns, COLUMNS, 80), within(rows, ROWS, 24));
        while self.lines.len() > self.rows {
            self.lines.pop_front();
            self.row = self.row.saturating_sub(1);
        }
        self.column = self.column.min(self.columns - 1);
    }

    /// Something is typed: if that is the first of its line, which is returned, the line begins where the cursor is.
    fn begins(&mut self) -> bool {
        let begins = self.begin.is_none() && self.entered == 0;
        if begins {
            let first = self.first_row();
            self.begin = Some((self.row - first) * self.columns + self.column);
            self.first = None;
        }
        begins
    }

    /// The row where the line begins that the cursor is in.
    fn first_row(&self) -> usize {
        let mut first = self.row;
        while first > 0 && self.lines.get(first - 1).is_some_and(|row| row.wraps) {
            first -= 1;
        }
        first
    }

    /// The line the cursor is in.
    fn line(&self) -> Vec<char> {
        let mut text = Vec::new();
        for at in self.first_row()..self.lines.len() {
            let Some(row) = self.lines.get(at) else { break };
            text.extend(&row.text);
            if !row.wraps {
                break;
            }
            text.resize(text.len().next_multiple_of(self.columns), ' ');
        }
        text
    }

    /// The cursor leaves its line: what was entered in it is complete.
    fn leaves(&mut self) {
        if self.entered == 0 || self.other {
            return;
        }
        let line = self.line();
        let text: String = match self.begin.take() {
            // It was not echoed: what stands there came later.
            Some(begin) if self.first.is_some_and(|first| line.get(begin) != Some(&first)) => String::new(),
            Some(begin) => line.into_iter().skip(begin).collect(),
            None => {
                // It was typed before the prompt was there.
                let line: String = line.into_iter().collect();
                let prompt = PROMPTS.iter().filter_map(|end| line.find(end).map(|at| at + end.len())).min();
                let Some(text) = prompt.and_then(|at| line.get(at..)) else {
                    self.missed += 1;
                    if self.missed > MISSED_MAX {
                        (self.entered, self.missed) = (0, 0);
                    }
                    return;
                };
                text.to_owned()
            }
        };
        self.entered -= 1;
        self.missed = 0;
        let text: String = text.trim().chars().take(TEXT_MAX).collect();
        if !text.is_empty() && self.found.len() < AHEAD_MAX {
            self.found.push(text);
        }
    }

    /// Changes the row the cursor is in.
    fn row(&mut self, change: impl FnOnce(&mut Row)) {
        while self.lines.len() <= self.row {
            self.lines.push_back(Row::default());
        }
        self.lines.get_mut(self.row).map(change);
    }

    fn down(&mut self) {
        self.row += 1;
        if self.row >= self.rows {
            self.lines.pop_front();
            self.row = self.rows - 1;
        }
        self.row(|_| ());
    }

    fn put(&mut self, c: char) {
        if std::mem::take(&mut self.full) {
            self.row(|row| row.wraps = true);
            self.column = 0;
            self.down();
        }
        let (column, columns) = (self.column, self.columns);
        self.row(|row| {
            if row.text.len() <= column {
                row.text.resize(column + 1, ' ');
            }
            row.text.iter_mut().skip(column).take(1).for_each(|cell| *cell = c);
        });
        if column + 1 < columns { self.column += 1 } else { self.full = true }
    }

    fn go(&mut self, row: usize, column: usize) {
        self.full = false;
        (self.row, self.column) = (row.min(self.rows - 1), column.min(self.columns - 1));
        self.row(|_| ());
    }

    /// Erases behind the cursor, before it, or all of its row.
    fn erase_row(&mut self, how: usize) {
        let column = self.column;
        self.row(|row| match how {
            0 => {
                row.text.truncate(column);
                row.wraps = false;
            }
            1 => row.text.iter_mut().take(column + 1).for_each(|cell| *cell = ' '),
            _ => *row = Row::default(),
        });
    }

    fn erase_screen(&mut self, how: usize) {
        match how {
            0 => {
                self.erase_row(0);
                self.lines.truncate(self.row + 1);
            }
            1 => {
                self.erase_row(1);
                let row = self.row;
                self.lines.iter_mut().take(row).for_each(|row| *row = Row::default());
            }
            _ => self.lines.iter_mut().for_each(|row| *row = Row::default()),
        }
    }

    fn modes(&mut self, params: &vte::Params, set: bool) {
        if params.iter().any(|sub| matches!(sub, [47 | 1047 | 1049])) {
            self.other = set;
            (self.begin, self.entered) = (None, 0);
        }
    }
}

impl vte::Perform for Screen {
    fn print(&mut self, c: char) {
        if !self.other {
            self.put(c);
        }
    }

    fn execute(&mut self, byte: u8) {
        if self.other {
            return;
        }
        match byte {
            b'\n' | 0x0b | 0x0c => {
                self.leaves();
                self.full = false;
                self.down();
            }
            b'\r' => (self.column, self.full) = (0, false),
            0x08 => (self.column, self.full) = (self.column.saturating_sub(1), false),
            b'\t' => self.go(self.row, (self.column + 8) / 8 * 8),
            _ => {}
        }
    }

    fn csi_dispatch(&mut self, params: &vte::Params, intermediates: &[u8], ignore: bool, action: char) {
        match (intermediates, action) {
            (b"?", 'h' | 'l') if !ignore => return self.modes(params, action == 'h'),
            ([], _) if !ignore && !self.other => {}
            _ => return,
        }
        let mut given = params.iter().map(|sub| usize::from(sub.first().copied().unwrap_or_default()));
        let (first, second) = (given.next().unwrap_or(0), given.next().unwrap_or(0));
        let count = first.max(1);
        let (row, column) = (self.row, self.column);
        match action {
            'A' => self.go(row.saturating_sub(count), column),
            'B' => self.go(row + count, column),
            'C' => self.go(row, column + count),
            'D' => self.go(row, column.saturating_sub(count)),
            'G' => self.go(row, count - 1),
            'H' | 'f' => self.go(count - 1, second.max(1) - 1),
            'd' => self.go(count - 1, column),
            'J' => self.erase_screen(first),
            'K' => self.erase_row(first),
            'P' => self.row(|Row { text, .. }| {
                let end = (column + count).min(text.len());
                if column < end {
                    text.drain(column..end);
                }
            }),
            '@' => {
                let columns = self.columns;
                self.row(|Row { text, .. }| {
                    if column < text.len() {
                        text.splice(column..column, std::iter::repeat_n(' ', count.min(columns)));
                        text.truncate(columns);
                    }
                });
            }
            'X' => self.row(|row| row.text.iter_mut().skip(column).take(count).for_each(|cell| *cell = ' ')),
            's' => self.saved = (row, column),
            'u' => self.go(self.saved.0, self.saved.1),
            _ => {}
        }
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], _ignore: bool, byte: u8) {
        match (intermediates, byte) {
            ([], b'7') => self.saved = (self.row, self.column),
            ([], b'8') => self.go(self.saved.0, self.saved.1),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is typed and what is shown, in turn, and the lines that were seen.
    fn check(size: (u32, u32), turns: &[(&str, &str)], expect: &[&str]) {
        let mut typed = Typed::new(size);
        let mut found = Vec::new();
        for (client, shown) in turns {
            typed.client(client.as_bytes());
            found.extend(typed.shown(shown.as_bytes()));
        }
        assert_eq!(found, expect, "{turns:?}");
    }

    #[test]
    fn a_line_is_seen_when_it_is_left_and_passwords_are_not() {
        let prompt = ("", "bot@web1:~$ ");
        check(
            (80, 24),
            &[prompt, ("l", "l"), ("s", "s"), ("\r", "\r\n"), ("", "a\r\nb\r\nbot@web1:~$ ")],
            &["ls"],
        );
        // Corrected, completed with a list shown in between, taken back.
        check((80, 24), &[prompt, ("lx", "lx"), ("\x7f", "\x08\x1b[K"), ("s\r", "s\r\n")], &["ls"]);
        let list = "\r\none  two\r\nbot@web1:~$ cat o";
        check((80, 24), &[prompt, ("cat o", "cat o"), ("\t\t", list), ("ne\r", "ne\r\n")], &["cat one"]);
        check(
            (80, 24),
            &[prompt, ("rm x", "rm x"), ("\x03", "^C\r\nbot@web1:~$ "), ("id\r", "id\r\n")],
            &["id"],
        );
        // From the history, and with the cursor moved.
        let history = "\r\x1b[12C\x1b[Kls -l\x1b[2D";
        check((80, 24), &[prompt, ("\x1b[A", history), ("\r", "\x1b[2C\r\n")], &["ls -l"]);
        let password =
            [("sudo id\r", "sudo id\r\n[sudo] password for bot: "), ("secret\r", "\r\nuid=0\r\n# ")];
        check((80, 24), &[&[prompt][..], &password].concat(), &["sudo id"]);
        check((80, 24), &[("", "word? "), ("secret\r", "thanks\r\n$ "), ("id\r", "id\r\n")], &["id"]);
        check((80, 24), &[prompt, ("\r", "\r\nbot@web1:~$ "), ("\r", "\r\n")], &[]);
    }

    #[test]
    fn long_lines_are_put_together_and_what_was_typed_ahead_is_found_behind_its_prompt() {
        let long = "x".repeat(25);
        // As readline does it: the line is broken by the terminal, with a blank and a return to make sure.
        let shown = format!("$ echo {}\x20\r{}\r\n", &long[..13], &long[13..]);
        check(
            (20, 5),
            &[("", "\r\n\r\n\r\n\r\n$ "), (&format!("echo {long}\r"), &shown[2..])],
            &[&format!("echo {long}")],
        );
        let ahead = "id\r\n\x1b[?2004luid=0\r\n\x1b[?2004hbot# date\r\nFri\r\n";
        check((80, 24), &[("", "bot# "), ("id\rdate\r", ahead)], &["id", "date"]);
    }

    #[test]
    fn an_editor_is_left_out() {
        let turns = [
            ("", "$ "),
            ("vi\r", "vi\r\n\x1b[?1049h\x1b[H~"),
            ("ihello\r", "hello\r\n"),
            (":q\r", "\x1b[?1049l\r$ "),
            ("ls\r", "ls\r\n"),
        ];
        check((80, 24), &turns, &["vi", "ls"]);
    }

    proptest! {
        #[test]
        fn nothing_a_terminal_shows_makes_it_grow(
            columns: u32, rows: u32,
            turns in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..20), "(\x1b\\[[0-9;?]{0,6}[A-Za-z@]|[ -~]{0,30}|\r|\n|\t|\x08){0,20}"), 0..40)
        ) {
            let mut typed = Typed::new((columns, rows));
            for (client, shown) in &turns {
                typed.client(client);
                prop_assert!(typed.shown(shown.as_bytes()).len() <= AHEAD_MAX);
                prop_assert!(typed.screen.lines.len() <= *ROWS.end());
                prop_assert!(typed.screen.lines.iter().all(|row| row.text.len() <= *COLUMNS.end()));
            }
            typed.resize((rows, columns));
        }
    }
}
