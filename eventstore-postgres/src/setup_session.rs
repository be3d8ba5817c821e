//! The connection that prepares a store: checks the server, creates the tables.
//!
//! Real time, not the given clock: the replies of PostgreSQL.

use std::time::Duration;

use eventbus::BoxError;
use sqlx::{
    ConnectOptions, Connection, Executor, PgConnection, SqlStr,
    postgres::{PgConnectOptions, PgRow},
};
use tokio::time::timeout;

use crate::{
    config::{PgEventStoreConfig, milliseconds},
    connector::Connector,
    error::PgConnectError,
    pool::Query,
    statement_error::NoAnswerWithin,
    statement_pool::CheckedOutConnection,
};

/// The source of the error of a statement that waited for a lock for longer than `lock_timeout`: the server's message.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct LockTimeout(String);

/// The connection of a session, which ends with the session; a connection of the application's pool returns there if
/// the session is closed in order.
enum SessionConnection {
    Own(PgConnection),
    Shared(CheckedOutConnection),
}

impl SessionConnection {
    fn get(&mut self) -> &mut PgConnection {
        match self {
            Self::Own(connection) => connection,
            Self::Shared(connection) => connection.get(),
        }
    }
}

pub(crate) struct SetupSession {
    connection: SessionConnection,
    server: String,
    answer_timeout: Duration,
}

impl SetupSession {
    pub(crate) async fn open(config: &PgEventStoreConfig, connector: &Connector) -> Result<Self, PgConnectError> {
        let (server, answer_timeout) = (config.server(), config.answer_timeout());
        match connector {
            Connector::Own(options) => Self::connect(config, options, answer_timeout).await,
            Connector::Shared(pool) => match pool.acquire().await {
                Ok(connection) => {
                    let connection = SessionConnection::Shared(CheckedOutConnection::new(connection));
                    Ok(Self { connection, server, answer_timeout })
                }
                Err(error) => Err(classify(server, error)),
            },
        }
    }

    /// Opens a session of the store's own whose statements have another time limit than the configured one.
    pub(crate) async fn open_with_limit(
        config: &PgEventStoreConfig,
        connector: &Connector,
        limit: Duration,
    ) -> Result<Self, PgConnectError> {
        let option = format!("{}ms", milliseconds(limit));
        let options = PgConnectOptions::clone(&connector.options()).options([("statement_timeout", option)]);
        Self::connect(config, &options, limit.saturating_add(Duration::from_secs(1))).await
    }

    async fn connect(
        config: &PgEventStoreConfig,
        options: &PgConnectOptions,
        answer_timeout: Duration,
    ) -> Result<Self, PgConnectError> {
        let server = config.server();
        match timeout(config.connect_timeout, options.connect()).await {
            Ok(Ok(connection)) => Ok(Self { connection: SessionConnection::Own(connection), server, answer_timeout }),
            Ok(Err(error)) => Err(classify(server, error)),
            Err(_) => {
                Err(PgConnectError::Unreachable { server, source: NoAnswerWithin(config.connect_timeout).into() })
            }
        }
    }

    /// Returns the server without the password, for errors.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// Runs a statement, and decodes the row of its answer, if there is one.
    pub(crate) async fn fetch_optional<T, E: Into<BoxError>>(
        &mut self,
        query: Query<'_>,
        decode: impl FnOnce(&PgRow) -> Result<T, E>,
    ) -> Result<Option<T>, PgConnectError> {
        let answer = timeout(self.answer_timeout, query.fetch_optional(self.connection.get())).await;
        let row = self.check_answer(answer)?;
        row.as_ref().map(decode).transpose().map_err(|error| self.refused_error(error))
    }

    /// Runs a statement, and decodes the row of its answer.
    pub(crate) async fn fetch_one<T, E: Into<BoxError>>(
        &mut self,
        query: Query<'_>,
        decode: impl FnOnce(&PgRow) -> Result<T, E>,
    ) -> Result<T, PgConnectError> {
        let row = self.fetch_optional(query, decode).await?;
        row.ok_or_else(|| self.refused_error("no answer"))
    }

    /// Runs a statement, and decodes the rows of its answer.
    pub(crate) async fn fetch_all<T, E: Into<BoxError>>(
        &mut self,
        query: Query<'_>,
        decode: impl Fn(&PgRow) -> Result<T, E>,
    ) -> Result<Vec<T>, PgConnectError> {
        let answer = timeout(self.answer_timeout, query.fetch_all(self.connection.get())).await;
        let rows = self.check_answer(answer)?;
        rows.iter().map(decode).collect::<Result<_, _>>().map_err(|error| self.refused_error(error))
    }

    /// Runs statements without parameters, and discards their rows.
    pub(crate) async fn run(&mut self, sql: SqlStr) -> Result<(), PgConnectError> {
        let answer = timeout(self.answer_timeout, self.connection.get().execute(sqlx::raw_sql(sql))).await;
        self.check_answer(answer).map(drop)
    }

    /// Closes the connection, or returns it to the application's pool; only logs an error or a timeout.
    pub(crate) async fn close(self) {
        let connection = match self.connection {
            SessionConnection::Own(connection) => connection,
            SessionConnection::Shared(connection) => return connection.return_to_pool(),
        };
        let closed = timeout(self.answer_timeout, connection.close()).await;
        tracing::trace!(?closed, "closed the connection that prepared the store");
    }

    pub(crate) fn refused_error(&self, error: impl Into<BoxError>) -> PgConnectError {
        PgConnectError::Refused { server: self.server.clone(), source: error.into() }
    }

    fn check_answer<T>(
        &self,
        answer: Result<Result<T, sqlx::Error>, tokio::time::error::Elapsed>,
    ) -> Result<T, PgConnectError> {
        match answer {
            Ok(answer) => answer.map_err(|error| classify(self.server.clone(), error)),
            Err(_) => Err(PgConnectError::Unreachable {
                server: self.server.clone(),
                source: NoAnswerWithin(self.answer_timeout).into(),
            }),
        }
    }
}

fn classify(server: String, error: sqlx::Error) -> PgConnectError {
    let answered = error
        .as_database_error()
        // too many connections, starting up, shutting down: temporary, so the server counts as unreachable
        .is_some_and(|answer| !answer.code().is_some_and(|code| code.starts_with("57P") || code == "53300"));
    let source = match error.as_database_error() {
        // the message only: the driver's text also names a line of the server's source
        Some(answer) if answer.code().is_some_and(|code| code == "55P03") => {
            LockTimeout(answer.message().into()).into()
        }
        Some(answer) => answer.message().into(),
        None => error.into(),
    };
    if answered { PgConnectError::Refused { server, source } } else { PgConnectError::Unreachable { server, source } }
}
