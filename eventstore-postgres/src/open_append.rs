//! Open appends: until the transaction of an append ends, no reader of the feed gets past it.

use std::time::Duration;

use eventbus::port::ReadError;
use sqlx::{PgConnection, Row as _, postgres::PgRow};

use crate::{error::PgConnectError, schema::Schema, setup_session::SetupSession, store_inner::StoreInner};

/// Connecting warns of an append that is open for longer: its transaction was left open, or does too much.
const OPEN_APPEND_WARN_AGE: Duration = Duration::from_secs(30);

/// An append whose transaction is still open.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PgOpenAppend {
    /// The age of its transaction; `None` if this role may not see it.
    pub age: Option<Duration>,
    /// The server process, for `pg_terminate_backend`; `None` for a prepared transaction, see `pg_prepared_xacts`.
    pub pid: Option<i32>,
    /// The `application_name` of its connection.
    pub application_name: String,
    /// Set if this role may not see the age of some open appends: one of them may be older.
    pub has_hidden: bool,
}

impl PgOpenAppend {
    /// Loads the append that has been open the longest.
    pub(crate) async fn load_oldest(store: &StoreInner) -> Result<Option<Self>, ReadError> {
        let query = store.statements().query(include_str!("sql/open_append.sql"));
        let open = store.fetch(query, |row| Ok(Self::decode(row)?)).await;
        open.map(|mut open| open.pop()).map_err(ReadError::Unavailable)
    }

    /// Loads the append to the store in `schema` that has been open the longest, on a connection of the caller: for
    /// tools, which have no store.
    ///
    /// # Errors
    /// The error of the driver; [`sqlx::Error::Configuration`] if `schema` is not a name for a schema.
    pub async fn load_on(connection: &mut PgConnection, schema: &str) -> Result<Option<Self>, sqlx::Error> {
        let schema = Schema::new(schema).map_err(|error| sqlx::Error::Configuration(error.into()))?;
        // not kept: a pooler may give the next statement a different session
        let query = sqlx::query(schema.statement(include_str!("sql/open_append.sql"))).persistent(false);
        query.fetch_optional(connection).await?.as_ref().map(Self::decode).transpose()
    }

    fn decode(row: &PgRow) -> Result<Self, sqlx::Error> {
        let seconds: Option<f64> = row.try_get("seconds")?;
        Ok(Self {
            // a clock that was set back makes it negative
            age: seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()),
            pid: row.try_get("pid")?,
            application_name: row.try_get("application_name")?,
            has_hidden: row.try_get("has_hidden")?,
        })
    }

    /// Returns the age if it is worth a warning.
    fn overdue_age(&self) -> Option<Duration> {
        self.age.filter(|age| *age > OPEN_APPEND_WARN_AGE)
    }
}

/// Warns of the oldest open append if it has been open for long.
pub(crate) async fn warn_of_oldest(session: &mut SetupSession, schema: &Schema) -> Result<(), PgConnectError> {
    let query = sqlx::query(schema.statement(include_str!("sql/open_append.sql")));
    let open = session.fetch_optional(query, PgOpenAppend::decode).await?;
    if let Some(open) = open
        && let Some(age) = open.overdue_age()
    {
        tracing::warn!(
            pid = open.pid,
            application_name = open.application_name,
            ?age,
            "a transaction that appended events stays open: no reader of the feed gets past it until it ends"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_append_is_open_for_long_after_half_a_minute() {
        let open = |seconds| PgOpenAppend {
            age: Some(Duration::from_secs(seconds)),
            pid: None,
            application_name: String::new(),
            has_hidden: false,
        };
        assert_eq!(open(30).overdue_age(), None);
        assert_eq!(open(31).overdue_age(), Some(Duration::from_secs(31)));
    }
}
