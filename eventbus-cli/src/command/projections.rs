//! `projections`: the projections whose progress a store keeps, and the events that they skip.

use clap::{Args, Subcommand};
use eventbus::{Name, support::ReaderKind};
use serde::Serialize;

use super::{
    retirement::Retirement,
    skips::{Reader, SkipArgs, UnskipArgs, note_other_skips},
};
use crate::{
    error::{CommandError, ExitStatus},
    output::{Progress, Table, optional, printable, time_text},
    query::{ProjectionRow, ReaderSkips, list_other_skips, list_projections},
    session::Session,
};

/// Show the projections: position, lag, owner, stops, skipped events; skip an event, retire a projection
///
/// A projection whose state is in memory keeps no progress in the store, and is not shown.
#[derive(Debug, Args)]
pub(crate) struct ProjectionArgs {
    #[command(subcommand)]
    action: Option<ProjectionAction>,
}

#[derive(Debug, Subcommand)]
enum ProjectionAction {
    /// Have a projection skip an event for good, which it cannot decode or handle
    ///
    /// A projection that stopped there goes on within seconds, in whichever process, and state in memory within minutes.
    /// Rebuilds skip the event, too. Handlers and other projections get it.
    Skip {
        /// The name of the projection
        #[arg(value_name = "PROJECTION")]
        projection: String,
        #[command(flatten)]
        order: SkipArgs,
    },
    /// Have a projection take an event again that it skips; rebuild it then, if it is past the event
    Unskip {
        /// The name of the projection
        #[arg(value_name = "PROJECTION")]
        projection: String,
        #[command(flatten)]
        order: UnskipArgs,
    },
    /// Have the store forget a projection that no release has any more: its position, and the events that it skips
    ///
    /// A projection that a process feeds is refused. Of one that has stopped before an event, stop the processes first: else it
    /// begins at zero, on the old rows. Its tables stay: drop them when nothing reads them. Call it again if it was interrupted.
    Retire {
        /// The name of the projection
        #[arg(value_name = "PROJECTION")]
        projection: String,
    },
}

#[derive(Debug, Serialize)]
struct Projections {
    projections: Vec<ProjectionRow>,
    /// The skips of projections that are not among these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    other_skips: Vec<ReaderSkips>,
}

impl ProjectionArgs {
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        let store = session.store().await?;
        let projections = Progress::while_reading(list_projections(&*store, session.clock())).await?;
        match &self.action {
            None => {
                let known: Vec<_> = projections.iter().map(|row| &*row.name).collect();
                let other_skips = list_other_skips(&*store, ReaderKind::Projection, &known).await?;
                let body = Projections { projections, other_skips };
                session.printer().show(&body, |body| text(&body.projections))?;
                note_other_skips(session.printer(), "projection", &body.other_skips);
                Ok(ExitStatus::Done)
            }
            Some(ProjectionAction::Skip { projection, order }) => {
                order.run(session, store, &reader(projection, &projections)?).await
            }
            Some(ProjectionAction::Unskip { projection, order }) => {
                order.run(session, store, &reader(projection, &projections)?).await
            }
            Some(ProjectionAction::Retire { projection }) => {
                let Some(row) = projections.iter().find(|row| row.name == *projection) else {
                    return session.finding(&format!("there is no projection `{projection}` in this store"));
                };
                if let Some(rebuilt_by) = &row.rebuilt_by {
                    let text = format!("`{rebuilt_by}` rebuilds projection `{projection}`: stop it first");
                    return Err(CommandError::fault(text));
                }
                let retirement = Retirement {
                    kind: ReaderKind::Projection,
                    name: projection,
                    shown: format!("projection `{projection}`"),
                    position: row.position,
                    skipped: &row.skipped,
                    consequence: "its tables stay, and a projection of that name begins anew",
                };
                retirement.run(session, &store).await
            }
        }
    }
}

/// Returns a projection as a reader of the feed. The store knows only projections with progress.
fn reader(name: &str, known: &[ProjectionRow]) -> Result<Reader, CommandError> {
    let role = Name::new("projection", name).map_err(|error| CommandError::Usage(error.to_string()))?;
    let row = known.iter().find(|row| row.name == name);
    let shown = match row {
        Some(_) => format!("projection `{name}`"),
        None => format!("projection `{name}`, which keeps no progress in this store,"),
    };
    let position = row.map(|row| row.position);
    let (done, again) = ("handled", "a rebuild has it handle the event");
    Ok(Reader { role: ReaderKind::Projection.name_of(&role), shown, position, done, again })
}

/// Returns the table of projections, and a line for each that stopped before an event.
pub(super) fn text(projections: &[ProjectionRow]) -> String {
    let mut text = table(projections).to_text();
    for row in projections {
        let Some(stop) = &row.stopped else { continue };
        let (position, since) = (stop.position, time_text(stop.since));
        let at = format!("{} stopped at position {position} ({})", row.name, stop.event_type);
        text.push_str(&printable(&format!("{at}: {}; since {since}, in process {}", stop.error, stop.owner)));
        text.push('\n');
    }
    text
}

fn table(projections: &[ProjectionRow]) -> Table {
    Table::new("PROJECTION, POSITION>, HEAD>, EVENTS>, SECONDS>, OWNER, SKIPS>, SAVED").rows(projections, |row| {
        let owner = match (&row.owner, &row.rebuilt_by) {
            (owner, None) => optional(owner.as_ref()),
            (owner, Some(rebuilt_by)) => format!("{} (rebuilt by {rebuilt_by})", optional(owner.as_ref())),
        };
        [
            row.name.clone(),
            row.position.to_string(),
            row.head.to_string(),
            row.lag.events.to_string(),
            optional(row.lag.seconds.map(|seconds| format!("{seconds:.1}"))),
            owner,
            row.skipped.len().to_string(),
            optional(row.updated_at.map(time_text)),
        ]
    })
}
