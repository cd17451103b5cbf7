//! Prints a psql script that writes the answers to the catalogue queries, one file each, into the current directory.
//! `tests/fixture/README.md` says how the fixture was made with it.

use std::io::{self, Write};

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    for query in chaperone_sql::QUERIES {
        let sql = query.sql.split_whitespace().collect::<Vec<_>>().join(" ");
        if query.name == "pin" {
            writeln!(out, "{sql} \\gset")?;
        }
        writeln!(out, "\\copy ({sql}) to '{}.tsv'", query.name)?;
    }
    Ok(())
}
