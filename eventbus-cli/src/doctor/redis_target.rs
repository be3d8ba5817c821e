//! A Redis server to examine.

use std::collections::HashMap;

use eventbus_redis::redis::{
    Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind, aio::MultiplexedConnection, cmd,
};
use serde_json::Value;

use super::outcome::{CheckError, Outcome};

/// A Redis server.
#[derive(derive_more::Debug, Clone)]
pub(crate) struct RedisTarget {
    #[debug(skip)]
    connection: MultiplexedConnection,
    /// Set if the server also holds an event store: no relay can publish its lost events again.
    keeps_events: bool,
}

impl RedisTarget {
    pub(crate) const fn new(connection: MultiplexedConnection) -> Self {
        Self { connection, keeps_events: false }
    }

    pub(crate) fn with_events(self, keeps_events: bool) -> Self {
        Self { keeps_events, ..self }
    }

    /// Adds to a row whether the server also holds an event store, or a bus alone.
    pub(crate) fn by_use(&self, mut row: Value) -> Value {
        row["_of_store"] = self.keeps_events.into();
        row["_of_bus"] = (!self.keeps_events).into();
        row
    }

    pub(crate) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, CheckError> {
        Ok(self.try_query(command).await?)
    }

    /// The same with the driver's error.
    pub(crate) async fn try_query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        command.query_async(&mut self.connection.clone()).await
    }

    /// Fails if the server does not answer. It refuses even this command while it cannot write its file.
    pub(crate) async fn ping(&self) -> Result<(), CheckError> {
        match self.try_query(&cmd("PING")).await {
            Err(error) if !is_refusal(&error) => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Returns the fields of a section of `INFO`.
    pub(crate) async fn info(&self, section: &str) -> Result<HashMap<String, String>, CheckError> {
        let text: String = self.query(cmd("INFO").arg(section)).await?;
        let fields = text.lines().filter_map(|line| line.trim_end().split_once(':'));
        Ok(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// Returns a setting of the server; notes in the outcome if the server does not show it, like many managed servers.
    pub(crate) async fn setting(&self, name: &str, outcome: &mut Outcome) -> Result<Option<String>, CheckError> {
        let found: Result<HashMap<String, String>, _> = self.try_query(cmd("CONFIG").arg("GET").arg(name)).await;
        let value = match found {
            Ok(found) => found.into_values().next(),
            Err(error) if is_refusal(&error) => None,
            Err(error) => return Err(error.into()),
        };
        if value.is_none() {
            outcome.not_checked(format!("the server does not show its setting `{name}`: ask its operator"));
        }
        Ok(value)
    }

    /// Returns the time of the server in milliseconds since 1970.
    pub(crate) async fn time(&self) -> Result<u64, CheckError> {
        let (seconds, microseconds): (u64, u64) = self.query(&cmd("TIME")).await?;
        Ok(seconds.saturating_mul(1_000).saturating_add(microseconds / 1_000))
    }
}

/// Returns `true` if the server answered, and refused the command.
fn is_refusal(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
}

/// Returns `true` if the user may not run the command.
pub(crate) fn is_forbidden(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
}

/// Returns a number among the fields of `INFO`.
pub(crate) fn number(info: &HashMap<String, String>, name: &str) -> Option<u64> {
    info.get(name)?.parse().ok()
}

/// Returns the share of `part` in `whole`, which may be 0.
pub(crate) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
