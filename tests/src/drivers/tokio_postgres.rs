//! tokio-postgres: prepared statements, binary values, COPY out as text and in as binary.

use std::time::SystemTime;

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, pin_mut};
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Config, NoTls, Row};

use super::{COPIED, COPY_OUT, COUNT, ORDER, ROW, SCRATCH, Whom, fields, same};

/// Days since 2000: what a date is in binary.
struct Days(i32);

impl<'a> FromSql<'a> for Days {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(i32::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::DATE
    }
}

pub(super) async fn steps([host, port, user, database]: &Whom<'_>) -> Result<Vec<String>> {
    let mut config = Config::new();
    config.host(*host).port(port.parse()?).user(*user).dbname(*database);
    let (mut client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);

    let mut said = vec![client.query_one(COUNT, &[&0i32]).await?.try_get::<_, i64>(0)?.to_string()];
    let prepared = client.prepare(ROW).await?;
    let mut rows = Vec::new();
    for _ in 0..12 {
        rows.push(customer(&client.query_one(&prepared, &[&1i32]).await?)?);
    }
    said.push(same(rows)?);
    said.push(order(&client.query_one(ORDER, &[&5i32]).await?)?);

    let transaction = client.transaction().await?;
    let denied = transaction.batch_execute("truncate customers").await.err().context("it truncates")?;
    said.push(denied.code().context("an error of the server's")?.code().to_owned());
    transaction.rollback().await?;
    said.push(client.query_one("select count(*) from orders", &[]).await?.try_get::<_, i64>(0)?.to_string());

    let mut copied = Vec::new();
    let out = client.copy_out(COPY_OUT).await?;
    pin_mut!(out);
    while let Some(part) = out.next().await {
        copied.extend_from_slice(&part?);
    }
    said.push(fields(&copied)?);

    let word = "driver-tokio-postgres";
    let transaction = client.transaction().await?;
    let sink = transaction.copy_in("copy scratch (word) from stdin (format binary)").await?;
    let writer = BinaryCopyInWriter::new(sink, &[Type::TEXT]);
    pin_mut!(writer);
    for _ in 0..COPIED {
        writer.as_mut().write(&[&word]).await?;
    }
    writer.finish().await?;
    said.push(transaction.query_one(SCRATCH, &[&word]).await?.try_get::<_, i64>(0)?.to_string());
    transaction.rollback().await?;
    Ok(said)
}

fn customer(row: &Row) -> Result<String> {
    let (id, born) = (row.try_get::<_, i32>(0)?, row.try_get::<_, Option<Days>>(4)?);
    let text = |at| row.try_get::<_, String>(at);
    let born = born.map_or("null".to_owned(), |Days(days)| days.to_string());
    Ok(format!("{id} {} {} {} {born}", text(1)?, text(2)?, text(3)?))
}

fn order(row: &Row) -> Result<String> {
    let (id, customer) = (row.try_get::<_, i32>(0)?, row.try_get::<_, i32>(1)?);
    let (cents, item) = (row.try_get::<_, i64>(2)?, row.try_get::<_, String>(4)?);
    row.try_get::<_, SystemTime>(3).context("placed")?;
    Ok(format!("{id} {customer} {cents} {item}"))
}
