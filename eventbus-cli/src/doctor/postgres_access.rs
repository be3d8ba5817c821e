//! Checks of the connections of clients to a PostgreSQL server, and of their rights.

use std::net::IpAddr;

use eventstore_postgres::sqlx::{self, Acquire as _, Executor as _, PgConnection, Row as _};
use serde_json::json;

use super::{
    outcome::{CheckError, Outcome},
    statement::{Known, Row},
    subjects::Subjects,
};

pub(crate) fn compare_connection(rows: &[Row], known: Known<'_>) -> Result<Outcome, CheckError> {
    let is_untrusted = |address: &Option<String>| {
        let address: Option<IpAddr> = address.as_ref().and_then(|address| address.parse().ok());
        address.is_some_and(|address| !known.config.is_trusted(address))
    };
    let Some(row) = rows.first() else { return Ok(Outcome::healthy()) };
    let (client, server): (Option<String>, Option<String>) = (row.get("client")?, row.get("server")?);
    let is_crossing = is_untrusted(&client) || is_untrusted(&server);
    Ok(Outcome::of_row(json!({ "_is_crossing": is_crossing, "client": client, "server": server })))
}

/// Rounds in which two sessions are compared: a busy pooler does not share a backend in each round.
const POOLER_ROUNDS: usize = 3;

pub(crate) async fn check_pooler(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let pool = on.postgres()?.pool();
    let mut first = pool.acquire().await?;
    let mut second = pool
        .acquire()
        .await
        .map_err(|error| CheckError::Other(format!("it takes two connections, and the pool gave only one: {error}")))?;
    let shared = find_shared_backend(&mut first, &mut second).await?;
    Ok(shared.map(|pid| json!({ "pid": pid })).into_iter().collect())
}

/// Returns the backend that two sessions share, or to which one of them was moved: a pooler gives each transaction a
/// free backend.
async fn find_shared_backend(first: &mut PgConnection, second: &mut PgConnection) -> Result<Option<i32>, sqlx::Error> {
    let own = backend(first).await?;
    for _ in 0..POOLER_ROUNDS {
        let mut transaction = second.begin().await?;
        let of_second = backend(&mut transaction).await?;
        let of_first = match of_second == own {
            true => own,
            // outside of a transaction, while the second session has one
            false => backend(first).await?,
        };
        transaction.rollback().await?;
        if of_second == own || of_first != own {
            return Ok(Some(of_second));
        }
    }
    Ok(None)
}

async fn backend(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    // the simple protocol: such a pooler does not keep prepared statements
    let row = connection.fetch_one(sqlx::raw_sql("SELECT pg_backend_pid()")).await?;
    row.try_get_unchecked(0)
}
