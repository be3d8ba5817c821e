//! `status`: a store and its bus on one screen.

use clap::Args;

use super::{groups, handlers, projections, relay};
use crate::{
    connection::OpenBus,
    error::{CommandError, ExitStatus},
    output::{Progress, optional},
    query::{StatusView, load_status},
    session::Session,
};

/// Show the store and the bus on one screen
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {}

impl StatusArgs {
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        let (view, error) = Progress::while_reading(load_answering(session)).await?;
        session.printer().show(&view, text)?;
        error.map_or(Ok(ExitStatus::Done), Err)
    }
}

/// Loads the status of the store and the bus. If only one of them can be used, also returns the error of the other one.
async fn load_answering(session: &Session) -> Result<(StatusView, Option<CommandError>), CommandError> {
    let clock = session.clock();
    match session.optional_store().await {
        Ok(store) => match session.bus().await {
            Ok(bus) => Ok((load_status(store.as_deref(), Some(bus), clock).await?, None)),
            Err(error) if store.is_some() && is_of_server(&error) => {
                let Ok(mut view) = load_status(store.as_deref(), None, clock).await else { return Err(error) };
                view.bus_error = Some(error.to_line());
                Ok((view, Some(error)))
            }
            Err(error) => Err(error),
        },
        Err(error) if session.settings().bus.is_some() && is_of_server(&error) => {
            // the session would open the store before the bus
            let Ok(bus) = OpenBus::open(session.settings(), None).await else { return Err(error) };
            let Ok(mut view) = load_status(None, Some(&bus), clock).await else { return Err(error) };
            view.store_error = Some(error.to_line());
            Ok((view, Some(error)))
        }
        Err(error) => Err(error),
    }
}

/// Returns `true` if a server cannot be reached or refuses; `false` for a wrong argument.
fn is_of_server(error: &CommandError) -> bool {
    matches!(error.status(), ExitStatus::Unreachable | ExitStatus::Fault)
}

fn text(view: &StatusView) -> String {
    let mut text = format!(
        "store         {}\nid            {}\nhead          {}\nbus           {}\ndead letters  {}\n",
        optional(view.store.as_ref()),
        optional(view.store_id.as_ref()),
        optional(view.head.as_ref()),
        optional(view.bus.as_ref()),
        optional(view.dead_letters),
    );
    let tables = [
        (view.relays.is_empty(), relay::table(&view.relays).to_text()),
        (view.projections.is_empty(), projections::text(&view.projections)),
        (view.handlers.is_empty(), handlers::table(&view.handlers).to_text()),
        (view.groups.is_empty(), groups::table(&view.groups).to_text()),
    ];
    for (is_empty, table) in tables {
        if !is_empty {
            text.push('\n');
            text.push_str(&table);
        }
    }
    text
}
