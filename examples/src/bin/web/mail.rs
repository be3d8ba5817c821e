//! The welcome mail: a row for each user in a table that feeds a mail server.
//!
//! Invariant: the row is written through the store's connection, so it commits together with the record that the event
//! was handled. A worker that dies before leaves neither, one that dies afterwards leaves both, so the handler need not
//! check for an existing row. For mail sent from within a handler there is no such guarantee.

use eventbus::{Result, prelude::*};
use eventstore_postgres::{
    PgConnection,
    sqlx::{self, Connection as _, Executor as _},
};
use eventstore_sqlite::{SqliteEventStore, SqliteTransaction, SqliteTransactionError};

use crate::user::UserCreated;

/// Creates the table; processes that start at the same time wait for each other.
pub async fn make_table_on_postgres(url: &str) -> Result<()> {
    let make = "SELECT pg_advisory_xact_lock(hashtext('welcome_mails'));
        CREATE TABLE IF NOT EXISTS welcome_mails (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            user_id text NOT NULL,
            recipient text NOT NULL,
            body text NOT NULL
        )";
    let mut connection = PgConnection::connect(url).await?;
    connection.execute(sqlx::raw_sql(make)).await?; // one transaction
    Ok(connection.close().await?)
}

/// Creates the table.
pub async fn make_table_on_sqlite(store: &SqliteEventStore) -> Result<()> {
    let make = "CREATE TABLE IF NOT EXISTS welcome_mails (
        id INTEGER PRIMARY KEY, user_id TEXT NOT NULL, recipient TEXT NOT NULL, body TEXT NOT NULL
    )";
    let mut tx = store.begin_transaction().await?;
    tx.execute(make, [])?;
    Ok(tx.commit().await?)
}

#[handler(name = "welcome-mail", group = "email_workers", concurrency = 3, manual)]
pub async fn welcome_on_postgres(
    event: &UserCreated,
    meta: &Metadata,
    conn: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO welcome_mails (user_id, recipient, body) VALUES ($1, $2, $3)")
        .bind(meta.aggregate_id().as_str())
        .bind(&event.email)
        .bind(body(event))
        .execute(conn)
        .await?;
    println!("a mail for {}", event.email);
    Ok(())
}

#[handler(name = "welcome-mail", group = "email_workers", concurrency = 3, manual)]
pub async fn welcome_on_sqlite(
    event: &UserCreated,
    meta: &Metadata,
    tx: &mut SqliteTransaction,
) -> Result<(), SqliteTransactionError> {
    let mail = (meta.aggregate_id().as_str(), &event.email, body(event));
    tx.execute("INSERT INTO welcome_mails (user_id, recipient, body) VALUES (?1, ?2, ?3)", mail)?;
    println!("a mail for {}", event.email);
    Ok(())
}

/// The same for workers in several processes, which share the stream on Redis.
#[handler(name = "welcome-mail", group = "email_workers", stream = "users", manual)]
pub async fn welcome_from_stream_on_postgres(
    event: &UserCreated,
    meta: &Metadata,
    conn: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    welcome_on_postgres(event, meta, conn).await
}

/// The same for workers in several processes, which share the stream on Redis.
#[handler(name = "welcome-mail", group = "email_workers", stream = "users", manual)]
pub async fn welcome_from_stream_on_sqlite(
    event: &UserCreated,
    meta: &Metadata,
    tx: &mut SqliteTransaction,
) -> Result<(), SqliteTransactionError> {
    welcome_on_sqlite(event, meta, tx).await
}

fn body(event: &UserCreated) -> String {
    format!("Welcome, {}!", event.name)
}
