//! `relay`: who publishes the events of a store, and how far.

use clap::Args;
use eventbus::bus::EventBus;
use serde::Serialize;

use crate::{
    error::{CommandError, ExitStatus},
    output::{Align, Table, optional, time_text},
    query::{RelayRow, list_relays},
    session::Session,
};

/// Show the relay: leader, published position, lag
#[derive(Debug, Args)]
pub(crate) struct RelayArgs {}

#[derive(Debug, Serialize)]
struct Relays {
    relays: Vec<RelayRow>,
}

impl RelayArgs {
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        let store = session.store().await?;
        let bus = session.bus().await?;
        let redis: Option<&dyn EventBus> = Some(bus.as_bus()).filter(|_| !bus.is_in_process());
        let relays = list_relays(&*store, redis, session.clock()).await?;
        session.printer().show_table(&Relays { relays }, |body| table(&body.relays))?;
        Ok(ExitStatus::Done)
    }
}

/// Returns the table of relays.
pub(super) fn table(relays: &[RelayRow]) -> Table {
    let mut table = Table::new([
        ("DESTINATION", Align::Left),
        ("PUBLISHED", Align::Right),
        ("HEAD", Align::Right),
        ("EVENTS", Align::Right),
        ("SECONDS", Align::Right),
        ("LEADER", Align::Left),
        ("SKIPS", Align::Right),
        ("SAVED", Align::Left),
    ]);
    for row in relays {
        let leader = match &row.halted_at {
            None => optional(row.leader.as_ref()),
            Some(halted) => format!("{} (stopped: the store went back behind {halted})", optional(row.leader.as_ref())),
        };
        table.add([
            row.destination.clone(),
            row.position.to_string(),
            row.head.to_string(),
            row.lag.events.to_string(),
            format!("{:.1}", row.lag.seconds),
            leader,
            row.skipped.len().to_string(),
            optional(row.updated_at.map(time_text)),
        ]);
    }
    table
}
