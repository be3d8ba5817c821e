//! `rebuild`: the rows of a projection, from zero.

use clap::Args;
use eventbus::{
    BoxError, StartError,
    catalog::Catalog,
    projection::{ProjectionKind, RebuildError, RebuildProgress, Rebuilt},
};
use serde::Serialize;

use crate::{
    error::{CommandError, ExitStatus},
    output::Progress,
    session::{Consent, Session},
};

/// Rebuild the rows of a projection from zero, while the old ones serve
///
/// The application may run or be down: no handler runs here, and no event is published. After Ctrl-C a second call goes on
/// where the first one was, if the projection names its tables. The store is that of the application.
#[derive(Debug, Args)]
pub(crate) struct RebuildArgs {
    /// The name of the projection
    #[arg(value_name = "PROJECTION")]
    projection: String,
}

#[derive(Debug, Serialize)]
struct Rebuild<'n> {
    projection: &'n str,
    #[serde(flatten)]
    rebuilt: Rebuilt,
}

impl RebuildArgs {
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        let projection = &*self.projection;
        let linked = Catalog::linked().projections.into_iter().find(|linked| linked.name == projection);
        if linked.is_some_and(|linked| linked.kind == ProjectionKind::InMemory) {
            let text =
                format!("projection `{projection}` keeps its state in memory: each start of the program folds it anew");
            return Err(CommandError::Usage(text));
        }
        let app = session.take_app().await?;
        let store = app.given_store().map_or_else(|| "a store in memory".into(), |store| store.describe());
        if session.confirm(&format!("rebuild projection `{projection}` of {store}")).await? == Consent::DryRun {
            return Ok(ExitStatus::Done);
        }
        let bar = Progress::new("rebuilding", "positions")?;
        let report = |now: RebuildProgress| bar.set(now.position.get(), now.target.get());
        let rebuilt = app.rebuild(projection, report).await;
        drop(bar);
        let rebuilt = rebuilt.map_err(|error| to_command_error(error.into_inner()))?;
        session.printer().show(&Rebuild { projection, rebuilt }, |body| {
            let Rebuilt { events, skipped, position, took, .. } = body.rebuilt;
            let noun = if events == 1 { "event" } else { "events" };
            let seconds = took.as_secs_f64();
            format!(
                "rebuilt {projection} from {events} {noun}, up to position {position}, in {seconds:.1} s; {skipped} skipped\n"
            )
        })?;
        Ok(ExitStatus::Done)
    }
}

/// Returns the error of a command for that of parts of an app.
pub(super) fn to_command_error(error: BoxError) -> CommandError {
    let error = match error.downcast::<RebuildError>() {
        Ok(error) if matches!(*error, RebuildError::Store { .. }) => {
            return CommandError::unreachable("the store", error);
        }
        Ok(error) => return CommandError::fault(error),
        Err(error) => error,
    };
    match error.downcast::<StartError>() {
        Ok(error) if is_unknown_name(&error) => CommandError::Usage(error.to_string()),
        Ok(error) => CommandError::fault(error),
        Err(error) => CommandError::Fault(error),
    }
}

fn is_unknown_name(error: &StartError) -> bool {
    use eventbus::app::StartMistake;
    error.mistakes().iter().all(|mistake| matches!(mistake, StartMistake::UnknownName { .. }))
}
