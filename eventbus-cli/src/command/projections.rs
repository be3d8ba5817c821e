//! `projections`: the projections whose progress a store keeps.

use clap::Args;
use serde::Serialize;

use crate::{
    error::{CommandError, ExitStatus},
    output::{Align, Table, optional, time_text},
    query::{ProjectionRow, list_projections},
    session::Session,
};

/// Show the projections: position, lag, owner, skipped events
///
/// A projection whose state is in memory keeps no progress in the store, and is not shown.
#[derive(Debug, Args)]
pub(crate) struct ProjectionArgs {}

#[derive(Debug, Serialize)]
struct Projections {
    projections: Vec<ProjectionRow>,
}

impl ProjectionArgs {
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        let projections = list_projections(&*session.store().await?, session.clock()).await?;
        session.printer().show_table(&Projections { projections }, |body| table(&body.projections))?;
        Ok(ExitStatus::Done)
    }
}

/// Returns the table of projections.
pub(super) fn table(projections: &[ProjectionRow]) -> Table {
    let mut table = Table::new([
        ("PROJECTION", Align::Left),
        ("POSITION", Align::Right),
        ("HEAD", Align::Right),
        ("EVENTS", Align::Right),
        ("SECONDS", Align::Right),
        ("OWNER", Align::Left),
        ("SKIPS", Align::Right),
        ("SAVED", Align::Left),
    ]);
    for row in projections {
        let owner = match (&row.owner, &row.rebuilt_by) {
            (owner, None) => optional(owner.as_ref()),
            (owner, Some(rebuilt_by)) => format!("{} (rebuilt by {rebuilt_by})", optional(owner.as_ref())),
        };
        table.add([
            row.name.clone(),
            row.position.to_string(),
            row.head.to_string(),
            row.lag.events.to_string(),
            format!("{:.1}", row.lag.seconds),
            owner,
            row.skipped.len().to_string(),
            optional(row.updated_at.map(time_text)),
        ]);
    }
    table
}
