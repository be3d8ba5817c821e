//! `status`: a store and its bus on one screen.

use clap::Args;

use super::{groups, projections, relay};
use crate::{
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
        let reading = async {
            let (bus, store) = (session.bus().await?, session.optional_store().await?);
            Ok((bus, load_status(store.as_deref(), bus, session.clock()).await?))
        };
        let (bus, view) = Progress::while_reading(reading).await?;
        if bus.is_in_process() {
            for relay in &view.relays {
                let text = format!("events go to {}, too: `--bus` and `--prefix` show its groups", relay.destination);
                session.printer().note(&text);
            }
        }
        session.printer().show(&view, text)?;
        Ok(ExitStatus::Done)
    }
}

fn text(view: &StatusView) -> String {
    let more = if view.more_dead_letters { " or more" } else { "" };
    let mut text = format!(
        "store         {}\nid            {}\nhead          {}\nbus           {}\ndead letters  {}{more}\n",
        optional(view.store.as_ref()),
        optional(view.store_id.as_ref()),
        optional(view.head.as_ref()),
        view.bus,
        view.dead_letters,
    );
    let tables = [
        (view.relays.is_empty(), relay::table(&view.relays)),
        (view.projections.is_empty(), projections::table(&view.projections)),
        (view.groups.is_empty(), groups::table(&view.groups)),
    ];
    for (is_empty, table) in tables {
        if !is_empty {
            text.push('\n');
            text.push_str(&table.to_text());
        }
    }
    text
}
