//! Columns aligned by how wide their text is shown.

use std::io::{self, Write};

use unicode_width::UnicodeWidthStr as _;

use super::{Paint, Tone};

const GAP: &str = "  ";

pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<(Tone, String)>>,
}

struct Column {
    title: String,
    right: bool,
    width: usize,
}

impl Table {
    /// A title that begins with `>` makes a column of numbers.
    pub(super) fn new(titles: &[&str]) -> Self {
        let column = |title: &&str| {
            let (right, title) = title.strip_prefix('>').map_or((false, *title), |title| (true, title));
            Column { title: title.to_owned(), right, width: title.width() }
        };
        Self { columns: titles.iter().map(column).collect(), rows: Vec::new() }
    }

    /// Cells must be safe to show already.
    pub(super) fn row(&mut self, cells: Vec<(Tone, String)>) {
        for (column, (_, text)) in self.columns.iter_mut().zip(&cells) {
            column.width = column.width.max(text.width());
        }
        self.rows.push(cells);
    }

    pub(super) fn write(&self, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
        self.write_behind("", paint, out)
    }

    /// With `margin` before each line.
    pub(super) fn write_behind(&self, margin: &str, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
        let titles = self.columns.iter().map(|column| (Tone::Plain, column.title.clone())).collect();
        for row in std::iter::once(&titles).chain(&self.rows) {
            let mut line = String::new();
            for (column, (tone, text)) in self.columns.iter().zip(row) {
                let fill = " ".repeat(column.width.saturating_sub(text.width()));
                let text = paint.apply(*tone, text);
                let (before, after) =
                    if column.right { (fill, String::new()) } else { (String::new(), fill) };
                line += &format!("{before}{text}{after}{GAP}");
            }
            writeln!(out, "{margin}{}", line.trim_end())?;
        }
        Ok(())
    }
}
