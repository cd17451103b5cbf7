//! Makes text safe to show: what moves the cursor, turns the writing direction or cannot be seen is spelled out.

use unicode_width::UnicodeWidthChar as _;

/// `text` on one line, visible and unambiguous: `\n`, `\u{202e}` and so on for everything that is not a visible
/// character, and `\\` for the backslash itself.
#[must_use]
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            ' ' | '"' | '\'' => out.push(c),
            // The standard library's table of what is printable: no control, format, unassigned or private
            // characters, no separators.
            _ if is_plain(c) => out.push(c),
            '\\' | '\n' | '\r' | '\t' | '\0' => out.extend(c.escape_debug()),
            _ => out.extend(c.escape_unicode()),
        }
    }
    out
}

/// The lines of `text`, each as `visible` would show it but with tabs as blanks.
pub(super) fn visible_lines(text: &str) -> impl Iterator<Item = String> {
    text.split('\n').map(|line| visible(&line.strip_suffix('\r').unwrap_or(line).replace('\t', "    ")))
}

/// Whether `c` can be shown as it is. Combining characters count as they are: alone they would sit on what precedes
/// them, even if that is ours.
pub(super) fn is_plain(c: char) -> bool {
    // Letters and a symbol by category, blank by look.
    if matches!(c, '\u{115f}' | '\u{1160}' | '\u{2800}' | '\u{3164}' | '\u{ffa0}') {
        return false;
    }
    let mut escaped = c.escape_debug();
    escaped.next() == Some(c) && escaped.next().is_none() && c.width().is_some_and(|width| width > 0)
}
