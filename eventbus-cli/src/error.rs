//! The end of a command: its status, and the errors that it reports.

use std::{error::Error, fmt::Write as _, io, process::ExitCode};

use eventbus::{
    BoxError,
    bus::{ConsumeError, PublishError},
    dead_letter::DeadLetterError,
    port::{CheckpointError, LeaseError, ReadError, handler_progress::HandlerProgressError},
    support::source_chain,
};
use eventbus_redis::{GroupError, RedisCommandError, RedisConnectError, redis::RedisError};
use eventstore_postgres::{PgConnectError, sqlx};
use eventstore_sqlite::SqliteConnectError;

pub(crate) const THE_STORE: &str = "the store";

/// The end of a command, with its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// 0: done.
    Done = 0,
    /// 1: done, with a finding: a reader is behind, or what was searched for is not there.
    Finding = 1,
    /// 2: the store or the bus answers and refuses, or the data is damaged.
    Fault = 2,
    /// 3: the store or the bus cannot be reached.
    Unreachable = 3,
    /// 4: the change was not confirmed; nothing was changed.
    NotConfirmed = 4,
    /// 64: an argument is wrong or missing.
    Usage = 64,
    /// 130: Ctrl-C.
    Interrupted = 130,
}

impl ExitStatus {
    /// Returns the exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        status.code().into()
    }
}

/// The error that ends a command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// An argument is wrong or missing.
    #[error("{0}")]
    Usage(String),
    /// The store or the bus cannot be reached.
    #[error("{what} cannot be reached")]
    Unreachable {
        /// The store or the bus, without its password.
        what: String,
        /// The error of the connection.
        source: BoxError,
    },
    /// The store or the bus answers and refuses.
    #[error("{what} refuses")]
    Refused {
        /// The store or the bus, without its password.
        what: String,
        /// The answer of the server.
        source: BoxError,
    },
    /// The store or the bus answers and refuses, or its data is damaged.
    #[error(transparent)]
    Fault(BoxError),
    /// The change was not confirmed.
    #[error("not confirmed, nothing was changed; `--yes` confirms")]
    NotConfirmed,
    /// The command was interrupted.
    #[error("interrupted")]
    Interrupted,
    /// The output could not be written.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
}

impl CommandError {
    /// Returns the status of a command that fails with this error.
    #[must_use]
    pub fn status(&self) -> ExitStatus {
        match self {
            Self::Usage(_) => ExitStatus::Usage,
            Self::Unreachable { .. } => ExitStatus::Unreachable,
            Self::Refused { .. } | Self::Fault(_) => ExitStatus::Fault,
            Self::NotConfirmed => ExitStatus::NotConfirmed,
            Self::Interrupted => ExitStatus::Interrupted,
            // the reader of the output has seen enough
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitStatus::Done,
            Self::Output(_) => ExitStatus::Fault,
        }
    }

    /// Returns `Ok` if the reader of the output went away: for commands whose work goes on without their output.
    pub(crate) fn unless_reader_left(self) -> Result<(), Self> {
        match &self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            _ => Err(self),
        }
    }

    /// Returns the error and its sources in one line.
    #[must_use]
    pub fn to_line(&self) -> String {
        let (mut line, mut last) = (String::new(), String::new());
        for error in source_chain(self) {
            let text = error.to_string();
            // a transparent error has the text of its source, and some texts end with that
            if last.ends_with(&text) {
                last = text;
                continue;
            }
            let separator = if line.is_empty() { "" } else { ": " };
            // writing to a string cannot fail
            let _ = write!(line, "{separator}{text}");
            last = text;
        }
        line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }

    /// Returns the error of making the application; if connecting to its store or bus failed, the error of that.
    pub(crate) fn of_app(error: BoxError) -> Self {
        let error = match error.downcast::<PgConnectError>() {
            Ok(error) => return (*error).into(),
            Err(error) => error,
        };
        let error = match error.downcast::<SqliteConnectError>() {
            Ok(error) => return (*error).into(),
            Err(error) => error,
        };
        match error.downcast::<RedisConnectError>() {
            Ok(error) => (*error).into(),
            Err(error) => Self::Fault(error),
        }
    }

    /// Returns the error for data that exists but cannot be used.
    pub(crate) fn fault(error: impl Into<BoxError>) -> Self {
        Self::Fault(error.into())
    }

    /// Names the store that cannot be reached, for commands that work with two stores.
    pub(crate) fn of_store(self, store: &str) -> Self {
        match self {
            Self::Unreachable { what, source } if what == THE_STORE => Self::unreachable(store, source),
            Self::Refused { what, source } if what == THE_STORE => Self::Refused { what: store.to_owned(), source },
            error => error,
        }
    }

    /// Returns the error of a statement: the store refuses it, or gave no answer.
    fn of_statement(source: BoxError) -> Self {
        match is_refusal(&*source) {
            true => Self::Refused { what: THE_STORE.to_owned(), source },
            false => Self::unreachable(THE_STORE, source),
        }
    }

    /// Returns [`Refused`](Self::Refused) if the server of the bus answered, else [`Unreachable`](Self::Unreachable).
    fn of_bus(source: BoxError) -> Self {
        let what = "the bus";
        match is_refusal(&*source) {
            true => Self::Refused { what: what.to_owned(), source },
            false => Self::unreachable(what, source),
        }
    }

    /// Returns the error of a step that uses both servers.
    pub(crate) fn of_servers(source: BoxError) -> Self {
        match source.downcast::<PublishError>() {
            Ok(error) => (*error).into(),
            Err(source) => Self::of_statement(source),
        }
    }

    pub(crate) fn unreachable(what: &str, source: impl Into<BoxError>) -> Self {
        Self::Unreachable { what: what.to_owned(), source: source.into() }
    }
}

/// Returns `true` if the server refused for a reason that stays, such as a missing right or table.
fn is_refusal(error: &(dyn Error + 'static)) -> bool {
    let code = source_chain(error).find_map(|error| match error.downcast_ref::<sqlx::Error>() {
        Some(error) => error.as_database_error()?.code(),
        None => None,
    });
    let of_redis = source_chain(error).find_map(|error| error.downcast_ref::<RedisError>()?.code());
    code.is_some_and(|code| is_lasting(&code))
        || of_redis
            .is_some_and(|code| ["NOPERM", "NOAUTH", "WRONGPASS", "WRONGTYPE", "CROSSSLOT", "ERR"].contains(&code))
}

/// Returns `true` for a SQLSTATE about the statement, the database or the rights; `false` if the server is busy,
/// starts, stops, or is a standby now.
fn is_lasting(code: &str) -> bool {
    // features, data, keys, authorization, names of databases and schemas, names and rights
    ["0A", "22", "23", "28", "3D", "3F", "42"].iter().any(|class| code.starts_with(class))
}

/// Converts errors: each arm is a pattern with the error of the command.
macro_rules! from_errors {
    ($($error:ty as $name:ident { $($pattern:pat => $converted:expr,)* })*) => {
        $(impl From<$error> for $crate::error::CommandError {
            fn from($name: $error) -> Self {
                match $name { $($pattern => $converted,)* }
            }
        })*
    };
}

pub(crate) use from_errors;

from_errors! {
    ReadError as error {
        ReadError::Unavailable(source) => Self::of_statement(source),
        error => Self::fault(error),
    }
    CheckpointError as error { error => Self::of_statement(error.into()), }
    LeaseError as error { error => Self::of_statement(error.into()), }
    HandlerProgressError as error { error => Self::of_statement(error.source), }
    ConsumeError as error {
        ConsumeError::Unavailable { source, .. } => Self::of_bus(source),
        error => Self::fault(error),
    }
    PublishError as error {
        PublishError::Unavailable { source, .. } => Self::of_bus(source),
        error => Self::fault(error),
    }
    DeadLetterError as error {
        DeadLetterError::Unavailable { source, .. } => Self::of_bus(source),
        DeadLetterError::InvalidId { .. } => Self::Usage(error.to_string()),
        error => Self::fault(error),
    }
    RedisCommandError as error {
        RedisCommandError::Unavailable { source, .. } => Self::of_bus(source),
        error => Self::fault(error),
    }
    GroupError as error {
        GroupError::Command(error) => error.into(),
        error => Self::fault(error),
    }
    RedisConnectError as error {
        RedisConnectError::Unavailable { address, source } => Self::unreachable(&format!("Redis at {address}"), source),
        RedisConnectError::TimedOut { ref address, .. } => Self::unreachable(&format!("Redis at {address}"), error),
        RedisConnectError::Config(mistakes) => Self::Usage(mistakes.to_string()),
        error => Self::fault(error),
    }
    PgConnectError as error {
        PgConnectError::Unreachable { server, source } => {
            Self::unreachable(&format!("PostgreSQL at `{server}`"), source)
        },
        PgConnectError::InvalidUrl { .. }
        | PgConnectError::UnknownParameter { .. }
        | PgConnectError::InvalidSchema { .. }
        | PgConnectError::InvalidConfig { .. }
        | PgConnectError::InvalidVariable { .. } => Self::Usage(error.to_string()),
        error => Self::fault(error),
    }
    SqliteConnectError as error {
        SqliteConnectError::Unavailable { ref path, .. } => {
            Self::unreachable(&format!("the file `{}`", path.display()), error)
        },
        SqliteConnectError::InvalidUrl { .. } | SqliteConnectError::InvalidConfig { .. } => {
            Self::Usage(error.to_string())
        },
        error => Self::fault(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_that_repeats_no_text() {
        let inner: BoxError = "first\nsecond".into();
        let error = CommandError::from(ReadError::corrupt("position 3", inner));
        assert_eq!(error.to_line(), "event store holds corrupt data at position 3: first second");
        assert_eq!(error.status(), ExitStatus::Fault);
        let refused = sqlx::Error::Io(io::Error::from(io::ErrorKind::ConnectionRefused));
        let line = CommandError::unreachable(THE_STORE, refused).to_line();
        assert_eq!(line.matches("connection refused").count(), 1, "{line}");
    }

    #[test]
    fn a_server_that_is_busy_or_stops_is_away_and_one_that_refuses_is_not() {
        for code in ["42501", "42P01", "3F000", "28000", "22P02"] {
            assert!(is_lasting(code), "{code}");
        }
        for code in ["57014", "57P01", "57P03", "40001", "40P01", "55P03", "25006", "53300", "08006", "58030", "XX000"]
        {
            assert!(!is_lasting(code), "{code}");
        }
    }

    #[test]
    fn of_two_stores_an_error_names_one() {
        let away = CommandError::unreachable(THE_STORE, "gone").of_store("PostgreSQL a/eventbus");
        assert_eq!(away.to_line(), "PostgreSQL a/eventbus cannot be reached: gone");
        let refused = CommandError::Refused { what: THE_STORE.into(), source: "no right".into() }.of_store("SQLite b");
        assert_eq!((refused.to_line().as_str(), refused.status()), ("SQLite b refuses: no right", ExitStatus::Fault));
    }

    #[test]
    fn a_reader_of_the_output_that_goes_away_is_no_error() {
        let error = CommandError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(error.status(), ExitStatus::Done);
        assert_eq!(CommandError::from(io::Error::from(io::ErrorKind::StorageFull)).status(), ExitStatus::Fault);
    }

    #[test]
    fn a_redis_that_refuses_is_there() {
        for (answer, status) in [("NOPERM this user has no permissions", 2), ("LOADING the dataset", 3)] {
            let reply = redis::parse_redis_value(format!("-{answer}\r\n").as_bytes()).unwrap();
            let error = reply.extract_error().unwrap_err();
            let error = CommandError::from(ReadError::Unavailable(error.into()));
            assert_eq!(error.status().code(), status, "{error}");
        }
    }
}
