//! Rust's drivers as clients: the same steps as the programs in clients/drivers, said in the same words.

mod sqlx;
mod tokio_postgres;

use std::io::Write as _;

use anyhow::{Context as _, Result, bail, ensure};

const COUNT: &str = "select count(*) from customers where id > $1";
const ROW: &str = "select id, name, email, card, born from customers where id = $1";
const ORDER: &str = "select id, customer_id, cents, placed, item from orders where id = $1";
const COPY_OUT: &str = "copy (select id, email from customers where id < 3 order by id) to stdout";
const SCRATCH: &str = "select count(*) from scratch where word = $1";
const COPIED: usize = 1000;

/// Host, port, user, database.
type Whom<'a> = [&'a str; 4];

pub(crate) fn run(name: &str, whom: &Whom<'_>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let said = match name {
        "tokio-postgres" => runtime.block_on(tokio_postgres::steps(whom))?,
        "sqlx" => runtime.block_on(sqlx::steps(whom))?,
        _ => bail!("no driver is called {name}"),
    };
    Ok(writeln!(std::io::stdout(), "{}", said.join(" | "))?)
}

/// What was copied out, its fields one blank apart.
fn fields(copied: &[u8]) -> Result<String> {
    Ok(std::str::from_utf8(copied)?.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The one thing that was said each time.
fn same(said: Vec<String>) -> Result<String> {
    let first = said.first().cloned().context("nothing was said")?;
    ensure!(said.iter().all(|other| *other == first), "{said:?}");
    Ok(first)
}
