//! Errors of statements: classified by their effect on the data, and by whether the server caused them.

use std::{borrow::Cow, error::Error, iter, sync::Arc, time::Duration};

use eventbus::{
    BoxError,
    port::{ReadError, ServerFault},
    support::source_chain,
};
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// The error of a statement, by its effect on the data.
#[derive(Debug)]
pub(crate) enum StatementError {
    /// There was no connection to send the statement on.
    NotSent(BoxError),
    /// The server rolled the statement back for a conflict of transactions; the caller can retry it.
    TransactionConflict(BoxError),
    /// The statement waited too long for a locked row; the server kept no change.
    LockTimeout(BoxError),
    /// An event id is stored already; the server kept no change.
    DuplicateEventId(BoxError),
    /// The server refuses the statement, and always will; it kept no change.
    Refused(BoxError),
    /// The server cannot execute the statement now; it kept no change.
    ServerFailure(BoxError),
    /// There was no answer: the statement may be committed, rolled back, or still running.
    NoAnswer(BoxError),
}

/// The fault of a statement whose columns have changed since the connection prepared it: it would fail again on this
/// connection, but not on a new one.
const OUTDATED_STATEMENT: &str = "SQLSTATE 0A000";

/// The routine of the server that finds such a statement; 0A000 alone also reports features that the server does not
/// have.
const PLAN_CHECK: &str = "RevalidateCachedQuery";

/// The answer of a statement did not arrive in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
pub(crate) struct NoAnswerWithin(pub(crate) Duration);

/// The pool gave no connection in time, and a new one cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("no connection to PostgreSQL")]
pub(crate) struct NoConnection {
    pub(crate) source: sqlx::Error,
}

/// The failure of a statement that held several appends.
#[derive(Debug, thiserror::Error)]
#[error("a statement that held {appends} appends failed")]
struct BatchFailure {
    appends: usize,
    source: Arc<dyn Error + Send + Sync>,
}

/// Returns an error with the same source for each of `appends` appends.
pub(crate) fn error_per_append(source: BoxError, appends: usize) -> Box<dyn Iterator<Item = BoxError> + Send> {
    if appends == 1 {
        return Box::new(iter::once(source));
    }
    let source: Arc<dyn Error + Send + Sync> = source.into();
    Box::new(iter::repeat_n(source, appends).map(move |source| BatchFailure { appends, source }.into()))
}

/// Returns the fault of the server that an error or one of its sources reports: of the disk or the machine, a conflict
/// with another transaction, a shutdown, a broken connection, or one whose prepared statement is outdated.
pub(crate) fn server_fault(error: &(dyn Error + 'static)) -> Option<ServerFault> {
    source_chain(error).find_map(|error| {
        if error.is::<NoConnection>() {
            return Some(no_connection());
        }
        if let Some(error) = error.downcast_ref::<sqlx::Error>() {
            return driver_fault(error);
        }
        if let Some(error) = error.downcast_ref::<Arc<sqlx::Error>>() {
            return driver_fault(error);
        }
        if let Some(answer) = error.downcast_ref::<PgDatabaseError>() {
            return answer_fault(answer);
        }
        error.is::<NoAnswerWithin>().then(|| ServerFault::new("no answer in time"))
    })
}

fn driver_fault(error: &sqlx::Error) -> Option<ServerFault> {
    match error {
        sqlx::Error::Database(answer) => answer_fault(answer.try_downcast_ref()?),
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::WorkerCrashed => {
            Some(ServerFault::new("connection broken"))
        }
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::BeginFailed => Some(no_connection()),
        _ => None,
    }
}

fn no_connection() -> ServerFault {
    ServerFault::new("no connection")
}

fn answer_fault(answer: &PgDatabaseError) -> Option<ServerFault> {
    let code = answer.code();
    if code == "0A000" && answer.routine() == Some(PLAN_CHECK) {
        return Some(ServerFault::new(OUTDATED_STATEMENT));
    }
    is_server_sqlstate(code).then(|| ServerFault::new(format!("SQLSTATE {code}")))
}

/// Returns `true` for the fault of a connection whose prepared statement is outdated.
pub(crate) fn is_outdated_statement(fault: &ServerFault) -> bool {
    *fault == ServerFault::new(OUTDATED_STATEMENT)
}

/// Returns `true` if a SQLSTATE reports a fault of the server, not of the statement: resources (53), the system (58),
/// the connection (08), a conflict of transactions (40), a lock that was not free (55P03), a shutdown (57P0x).
///
/// 57014, a statement that took too long or was cancelled, is about the statement.
fn is_server_sqlstate(code: &str) -> bool {
    matches!(code.get(..2), Some("53" | "58" | "08" | "40")) || code.starts_with("57P0") || code == "55P03"
}

impl StatementError {
    /// Turns `NoAnswer` of a `BEGIN` into what it means for the statement: it was not sent.
    pub(crate) fn into_not_sent(self) -> Self {
        match self {
            Self::NoAnswer(source) => Self::NotSent(source),
            error => error,
        }
    }

    /// Returns `true` if the server cannot read a row that it has stored (SQLSTATE XX001). A damaged index (XX002) is
    /// no fault of a row, and an internal error (XX000) may be one of a pooler.
    pub(crate) fn is_damage(&self) -> bool {
        self.failure_sqlstate().as_deref() == Some("XX001")
    }

    /// Returns `true` if the statements that the connection has prepared no longer fit those of the server: a column
    /// has a different type since (0A000), the server does not know one (26000), or has one of the same name (42P05).
    /// The statement would fail again on this connection.
    pub(crate) fn is_of_prepared(&self) -> bool {
        matches!(self.failure_sqlstate().as_deref(), Some("0A000" | "26000" | "42P05"))
    }

    fn failure_sqlstate(&self) -> Option<Cow<'_, str>> {
        let Self::ServerFailure(source) = self else { return None };
        source.downcast_ref::<sqlx::Error>()?.as_database_error()?.code()
    }

    /// Classifies the driver's error of a statement that was sent.
    pub(crate) fn from_driver(error: sqlx::Error) -> Self {
        let answer = match &error {
            sqlx::Error::Database(answer) => answer.try_downcast_ref::<PgDatabaseError>(),
            // the driver failed before it sent the statement
            sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_) => {
                return Self::Refused(error.into());
            }
            _ => None,
        };
        let Some(answer) = answer else {
            return Self::NoAnswer(error.into());
        };
        if !matches!(answer.severity(), PgSeverity::Error) {
            // a backend that shuts down may send this at any moment, also during a commit
            return Self::NoAnswer(error.into());
        }
        let sort = match answer.code() {
            // a division by zero: `append_streams.sql` met a row that its snapshot does not have
            "40001" | "40P01" | "22012" => Self::TransactionConflict,
            "55P03" => Self::LockTimeout,
            // the key of a partition has another name in front
            "23505" if answer.constraint().is_some_and(|key| key.ends_with("_event_id_key")) => Self::DuplicateEventId,
            "57014" => Self::ServerFailure, // the server's time limit, which the batch may have used up
            "42P05" => Self::ServerFailure, // the name of a prepared statement is taken: a fault of the connection
            code if is_server_sqlstate(code) => Self::ServerFailure,
            code => match code.get(..2) {
                // data, integrity, names and rights, limits of the server, `RAISE` in a trigger of the user
                Some("22" | "23" | "42" | "54" | "P0") => Self::Refused,
                _ => Self::ServerFailure,
            },
        };
        sort(error.into())
    }
}

/// The error of the driver or the server.
impl From<StatementError> for BoxError {
    fn from(fault: StatementError) -> Self {
        match fault {
            StatementError::NotSent(source)
            | StatementError::TransactionConflict(source)
            | StatementError::LockTimeout(source)
            | StatementError::DuplicateEventId(source)
            | StatementError::Refused(source)
            | StatementError::ServerFailure(source)
            | StatementError::NoAnswer(source) => source,
        }
    }
}

impl From<StatementError> for ReadError {
    fn from(fault: StatementError) -> Self {
        Self::Unavailable(fault.into())
    }
}

#[cfg(test)]
mod tests {
    use eventbus::{HandlerError, port::AppendError};

    use super::*;

    #[test]
    fn states_of_the_server_are_told_from_those_of_a_statement() {
        for code in ["53100", "53200", "53300", "58030", "58P01", "08006", "40001", "40P01", "55P03", "57P01", "57P03"]
        {
            assert!(is_server_sqlstate(code), "{code}");
        }
        for code in ["57014", "23505", "22P02", "42P01", "25P02", "25P03", "P0001", "55000", "54000", "XX000", "", "5"]
        {
            assert!(!is_server_sqlstate(code), "{code}");
        }
    }

    #[test]
    fn a_fault_is_found_however_deep_it_lies() {
        let broken = || sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        let wrapped = AppendError::OutcomeUnknown(BatchFailure { appends: 2, source: Arc::new(broken()) }.into());
        for error in [BoxError::from(broken()), Box::new(Arc::new(broken())), wrapped.into()] {
            assert_eq!(server_fault(&*error), Some(ServerFault::new("connection broken")), "{error}");
        }
        // handlers wait for either, with one name
        for error in [BoxError::from(NoConnection { source: broken() }), sqlx::Error::PoolTimedOut.into()] {
            assert_eq!(server_fault(&*error), Some(ServerFault::new("no connection")), "{error}");
        }
        for error in [BoxError::from(sqlx::Error::RowNotFound), "disk full".into()] {
            assert_eq!(server_fault(&*error), None, "{error}");
        }
        // a file or a service of the handler's own is no connection of the store
        let own = HandlerError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert_eq!(server_fault(own.get_ref()), None);
    }
}
