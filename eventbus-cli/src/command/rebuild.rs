//! `rebuild`: rebuilds the rows of a projection from zero.

use clap::Args;
use eventbus::{
    BoxError, StartError,
    app::StartMistake,
    port::{CheckpointError, LeaseError},
    projection::{ProjectionDefinition, ProjectionKind, RebuildError, RebuildProgress, Rebuilt},
    support::source_chain,
};
use eventstore_postgres::sqlx;
use serde_json::json;

use crate::{
    error::{CommandError, ExitStatus, THE_STORE},
    output::Progress,
    session::Session,
};

/// Rebuild the rows of a projection from zero
///
/// Rows with `tables(..)` serve until the new ones replace them, and the application may run or be down. After Ctrl-C a second
/// call goes on where the first one was. Rows outside of the store's transaction are overwritten one by one, and refused while
/// a process feeds the projection; a second call begins anew. No handler runs here, and no event is published. The store is that
/// of the application.
#[derive(Debug, Args)]
pub(crate) struct RebuildArgs {
    /// The name of the projection
    #[arg(value_name = "PROJECTION")]
    projection: String,
}

impl RebuildArgs {
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        let projection = &*self.projection;
        let app = session.take_app().await?;
        let store = app.given_store().map_or_else(|| "a store in memory".into(), |store| store.describe());
        let app = app.standalone().map_err(|error| to_command_error(error.into()))?;
        app.check_projection(projection).map_err(|error| to_command_error(error.into()))?;
        let is_in_memory = |of_app: &ProjectionDefinition| of_app.kind == ProjectionKind::InMemory;
        if app.projections().any(|of_app| of_app.name == projection && is_in_memory(of_app)) {
            let text =
                format!("projection `{projection}` keeps its state in memory: each start of the program folds it anew");
            return Err(CommandError::Usage(text));
        }
        if !session.may_change(&format!("rebuild projection `{projection}` of {store}")).await? {
            return Ok(ExitStatus::Done);
        }
        let bar = Progress::new("rebuilding", "positions")?;
        let report = |now: RebuildProgress| bar.set(now.position.get(), now.target.get());
        let rebuilt = app.rebuild(projection, report).await;
        drop(bar);
        let rebuilt = rebuilt.map_err(|error| to_command_error(error.into_inner()))?;
        let Rebuilt { events, skipped, position, took, .. } = rebuilt;
        let took = took.as_secs_f64();
        let body = json!({
            "projection": projection, "events": events, "skipped": skipped, "position": position.to_string(), "took": took,
        });
        session.show(&body, |_| {
            let noun = if events == 1 { "event" } else { "events" };
            format!(
                "rebuilt {projection} from {events} {noun}, up to position {position}, in {took:.1} s; {skipped} skipped\n"
            )
        })
    }
}

/// Converts an error of parts of an app to an error of a command.
pub(super) fn to_command_error(error: BoxError) -> CommandError {
    let error = match error.downcast::<RebuildError>() {
        Ok(error) => {
            return match *error {
                RebuildError::Read(error) => error.into(),
                RebuildError::Store { ref source, .. } if is_unreachable(&**source) => {
                    CommandError::unreachable(THE_STORE, error)
                }
                error => CommandError::fault(error),
            };
        }
        Err(error) => error,
    };
    match error.downcast::<StartError>() {
        Ok(error) => match error.mistakes() {
            [mistake @ StartMistake::UnknownName { .. }] => CommandError::Usage(mistake.to_string()),
            [StartMistake::Unavailable { source, .. }] if is_unreachable(&**source) => {
                CommandError::unreachable(THE_STORE, error)
            }
            _ => CommandError::fault(error),
        },
        Err(error) => CommandError::Fault(error),
    }
}

/// Returns `true` if an error of a store comes from its connection, and not from an answer of the store to a statement: a
/// server that starts, stops or has no connection left answers, too.
fn is_unreachable(error: &(dyn std::error::Error + 'static)) -> bool {
    use sqlx::Error::{PoolClosed, PoolTimedOut, WorkerCrashed};
    let is_silence = |error: &(dyn std::error::Error + 'static)| {
        let of_pool = error.downcast_ref::<sqlx::Error>();
        let code = of_pool.and_then(|error| error.as_database_error()?.code());
        of_pool.is_some_and(|error| matches!(error, PoolTimedOut | PoolClosed | WorkerCrashed))
            || code.is_some_and(|code| code.starts_with("57P") || code == "53300")
            || error.is::<std::io::Error>()
            || error.is::<CheckpointError>()
            || error.is::<LeaseError>()
    };
    source_chain(error).any(is_silence)
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, error::Error, fmt};

    use sqlx::error::{DatabaseError, ErrorKind};

    use super::*;

    /// An answer of PostgreSQL with this SQLSTATE.
    #[derive(Debug)]
    struct Answer(&'static str);

    impl fmt::Display for Answer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an answer")
        }
    }

    impl Error for Answer {}

    impl DatabaseError for Answer {
        fn message(&self) -> &'static str {
            "an answer"
        }

        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.into())
        }

        fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> BoxError {
            self
        }

        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    #[test]
    fn a_postgres_that_starts_or_has_no_connection_left_is_away_and_one_that_refuses_is_not() {
        let cannot = |source: BoxError| {
            let what = "the tables of projection `totals`".to_owned();
            StartError::from(StartMistake::Unavailable { what, source })
        };
        for (code, status) in
            [("57P03", 3), ("57P01", 3), ("53300", 3), ("57014", 2), ("42501", 2), ("53100", 2), ("40001", 2)]
        {
            let answer = || BoxError::from(sqlx::Error::Database(Box::new(Answer(code))));
            let rebuild = RebuildError::Store { name: "totals", source: answer() };
            assert_eq!(to_command_error(rebuild.into()).status().code(), status, "rebuild: {code}");
            assert_eq!(to_command_error(cannot(answer()).into()).status().code(), status, "set-up: {code}");
        }
    }
}
