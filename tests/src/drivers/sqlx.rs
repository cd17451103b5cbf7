//! sqlx: its cache of prepared statements, binary values, COPY as text.

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{Connection as _, Row as _, ValueRef as _};

use super::{COPIED, COPY_OUT, COUNT, ORDER, ROW, SCRATCH, Whom, fields, same};

pub(super) async fn steps([host, port, user, database]: &Whom<'_>) -> Result<Vec<String>> {
    let options = PgConnectOptions::new().host(host).port(port.parse()?).username(user).database(database);
    let mut connection = PgConnection::connect_with(&options).await?;

    let many: i64 = sqlx::query_scalar(COUNT).bind(0i32).fetch_one(&mut connection).await?;
    let mut said = vec![many.to_string()];
    let mut rows = Vec::new();
    for _ in 0..12 {
        rows.push(customer(&sqlx::query(ROW).bind(1i32).fetch_one(&mut connection).await?)?);
    }
    said.push(same(rows)?);
    said.push(order(&sqlx::query(ORDER).bind(5i32).fetch_one(&mut connection).await?)?);

    let mut transaction = connection.begin().await?;
    let denied =
        sqlx::query("truncate customers").execute(&mut *transaction).await.err().context("it truncates")?;
    let denied = denied.into_database_error().context("an error of the server's")?;
    said.push(denied.code().context("an error with a code")?.into_owned());
    transaction.rollback().await?;
    let many: i64 = sqlx::query_scalar("select count(*) from orders").fetch_one(&mut connection).await?;
    said.push(many.to_string());

    let mut copied = Vec::new();
    let mut out = connection.copy_out_raw(COPY_OUT).await?;
    while let Some(part) = out.next().await {
        copied.extend_from_slice(&part?);
    }
    drop(out);
    said.push(fields(&copied)?);

    let word = "driver-sqlx";
    let mut transaction = connection.begin().await?;
    let mut sink = transaction.copy_in_raw("copy scratch (word) from stdin").await?;
    sink.send(format!("{word}\n").repeat(COPIED).as_bytes()).await?;
    sink.finish().await?;
    let many: i64 = sqlx::query_scalar(SCRATCH).bind(word).fetch_one(&mut *transaction).await?;
    said.push(many.to_string());
    transaction.rollback().await?;
    connection.close().await?;
    Ok(said)
}

fn customer(row: &PgRow) -> Result<String> {
    let text = |at: usize| row.try_get::<String, _>(at);
    let born = if row.try_get_raw(4)?.is_null() { "null" } else { "a date" };
    Ok(format!("{} {} {} {} {born}", row.try_get::<i32, _>(0)?, text(1)?, text(2)?, text(3)?))
}

fn order(row: &PgRow) -> Result<String> {
    let (id, customer) = (row.try_get::<i32, _>(0)?, row.try_get::<i32, _>(1)?);
    let (cents, item) = (row.try_get::<i64, _>(2)?, row.try_get::<String, _>(4)?);
    // Microseconds since 2000, in binary.
    ensure!(row.try_get_raw(3)?.as_bytes().map_err(|error| anyhow::anyhow!(error))?.len() == 8, "placed");
    Ok(format!("{id} {customer} {cents} {item}"))
}
