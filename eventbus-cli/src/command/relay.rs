//! `relay`: who publishes the events of a store, and how far; where it begins, publishing again, and skipping an event.

use std::sync::Arc;

use clap::{Args, Subcommand};
use eventbus::{
    Position,
    bus::EventBus,
    relay::{BeginError, RepublishError, begin_after, republish},
    store::EventStore,
    support::ReaderKind,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    retirement::Retirement,
    skips::{Reader, SkipArgs, UnskipArgs, note_other_skips},
};
use crate::{
    error::{CommandError, ExitStatus, from_errors},
    output::{Progress, Table, optional, time_text},
    query::{ReaderSkips, RelayRow, list_other_skips, list_relays},
    session::Session,
};

/// Show the relay: leader, published position, lag; publish again, skip an event, retire the relay to a former bus
#[derive(Debug, Args)]
pub(crate) struct RelayArgs {
    #[command(subcommand)]
    action: Option<RelayAction>,
}

#[derive(Debug, Subcommand)]
enum RelayAction {
    /// Have a relay that has published nothing begin after a position, as imported events need that others have handled
    ///
    /// The events up to there never get to the stream, so neither groups on Redis nor other software that shares it get them.
    /// The application's own handlers read the store, and get them nevertheless. Stop the applications first.
    Begin {
        /// The last event that is not published, such as the last imported one
        #[arg(long, value_name = "POSITION")]
        after: u64,
    },
    /// Publish events again: those that a restored store does not share with the stream, or all after a position
    ///
    /// Every group gets them again, with the same ids. The relay of the application does it, in whichever process it runs, and
    /// goes on if it had stopped as the store was restored.
    Republish {
        /// Publish all events after this one; 0 publishes all. By default those after the last event that stream and store share
        #[arg(long, value_name = "POSITION")]
        after: Option<u64>,
    },
    /// Skip an event for good, which the relay cannot read or the bus refuses; handlers of the store skip it if it cannot be read
    Skip(SkipArgs),
    /// Publish an event that was skipped, if the relay is not past it
    Unskip(UnskipArgs),
    /// Have the store forget the relay to a bus that no release publishes to any more
    ///
    /// The bus is not asked, and keeps what it has. A relay that a process runs is refused; of one that has stopped before an
    /// event, stop the processes first. Call it again if it was interrupted.
    Retire {
        /// The bus, as `eventbus relay` shows it
        #[arg(value_name = "DESTINATION")]
        destination: String,
    },
}

#[derive(Debug, Serialize)]
struct Relays {
    relays: Vec<RelayRow>,
    /// The skips of relays that are not among these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    other_skips: Vec<ReaderSkips>,
}

/// Returns the document about a relay that publishes the events after a position.
fn position_set(destination: &str, position: Position) -> Value {
    json!({ "destination": destination, "position": position.to_string() })
}

impl RelayArgs {
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        let store = session.store().await?;
        let Some(action) = &self.action else { return show(session, &*store).await };
        match action {
            RelayAction::Skip(order) => {
                let reader = reader(session, &*store).await?;
                order.run(session, store, &reader).await
            }
            RelayAction::Unskip(order) => {
                let reader = reader(session, &*store).await?;
                order.run(session, store, &reader).await
            }
            RelayAction::Begin { after } => {
                let bus = session.bus().await?.as_bus();
                begin(session, &*store, bus, Position::new(*after)).await
            }
            RelayAction::Republish { after } => {
                let published = reader(session, &*store).await?.position.unwrap_or_default();
                let bus = session.bus().await?.as_bus();
                republish_after(session, &*store, bus, (after.map(Position::new), published)).await
            }
            RelayAction::Retire { destination } => retire(session, &store, destination).await,
        }
    }
}

async fn show(session: &Session, store: &dyn EventStore) -> Result<ExitStatus, CommandError> {
    let relays = load_relays(session, store).await?;
    let known: Vec<_> = relays.iter().map(|row| &*row.destination).collect();
    let other_skips = list_other_skips(store, ReaderKind::Relay, &known).await?;
    let body = Relays { relays, other_skips };
    session.printer().show_table(&body, |body| table(&body.relays))?;
    note_other_skips(session.printer(), "the relay to", &body.other_skips);
    Ok(ExitStatus::Done)
}

/// Loads the relays of a store; for the relay to `bus`, the position comes from the bus.
async fn load_relays(session: &Session, store: &dyn EventStore) -> Result<Vec<RelayRow>, CommandError> {
    let bus = session.bus().await?;
    let redis: Option<&dyn EventBus> = Some(bus.as_bus()).filter(|_| !bus.is_in_process());
    Progress::while_reading(list_relays(store, redis, session.clock())).await
}

async fn retire(session: &Session, store: &Arc<dyn EventStore>, destination: &str) -> Result<ExitStatus, CommandError> {
    // the bus may be gone
    let relays = Progress::while_reading(list_relays(&**store, None, session.clock())).await?;
    let Some(row) = relays.iter().find(|row| row.destination == destination) else {
        return session.finding(&format!("this store has no relay to `{destination}`"));
    };
    let retirement = Retirement {
        kind: ReaderKind::Relay,
        name: destination,
        shown: format!("the relay to {destination}"),
        position: row.position,
        skipped: &row.skipped,
        consequence: "a later relay to this bus goes on behind the record of the bus",
    };
    retirement.run(session, store).await
}

/// Returns the relay to the bus as a reader of the feed. Refuses a bus to which no relay has published, if the store
/// has relays to different buses.
async fn reader(session: &Session, store: &dyn EventStore) -> Result<Reader, CommandError> {
    let relays = load_relays(session, store).await?;
    let destination = session.bus().await?.as_bus().destination();
    let role = ReaderKind::Relay.name_of(destination);
    let (own, others): (Vec<_>, Vec<_>) = relays.into_iter().partition(|row| **destination == row.destination);
    // the store would list a relay to this bus
    if let Some(other) = others.first()
        && store.load_checkpoint(&role).await?.is_none()
        && own.iter().all(|row| row.leader.is_none() && row.halted_at.is_none())
    {
        let text = format!(
            "no relay of this store has published to {destination}, but to {}: `--bus` and `--prefix` name the bus",
            other.destination
        );
        return Err(CommandError::Usage(text));
    }
    Ok(Reader {
        role,
        shown: format!("the relay to {destination}"),
        position: own.first().map(|row| row.position),
        done: "published",
        again: "`relay republish` has it publish the event",
    })
}

async fn begin(
    session: &Session,
    store: &dyn EventStore,
    bus: &dyn EventBus,
    after: Position,
) -> Result<ExitStatus, CommandError> {
    let (destination, head) = (bus.destination(), store.head().await?);
    let question = format!(
        "have the relay to {destination} begin after position {after}, and never publish the events up to there; the \
         store ends at position {head}"
    );
    if session.may_change(&question).await? {
        begin_after(store, bus, after).await?;
        session.show(&position_set(destination, after), |_| {
            format!("the relay to {destination} begins after position {after}\n")
        })?;
    }
    Ok(ExitStatus::Done)
}

async fn republish_after(
    session: &Session,
    store: &dyn EventStore,
    bus: &dyn EventBus,
    (after, published): (Option<Position>, Position),
) -> Result<ExitStatus, CommandError> {
    let (destination, head) = (bus.destination(), store.head().await?);
    if after.is_some_and(|after| after > head) {
        return Err(CommandError::Usage(format!("the store ends at position {head}")));
    }
    let from = match after {
        Some(after) => format!("all events after position {after}"),
        None => "the events after the last one that stream and store share".to_owned(),
    };
    let question = format!("publish {from} again to {destination}, which has those up to {published}");
    if session.may_change(&question).await? {
        let position = republish(store, bus, after).await?;
        session.show(&position_set(destination, position), |_| {
            format!("the relay to {destination} publishes all events after position {position} again\n")
        })?;
    }
    Ok(ExitStatus::Done)
}

from_errors! {
    RepublishError as error {
        RepublishError::NoPosition { .. } => Self::Usage(error.to_string()),
        RepublishError::Unavailable { source, .. } => Self::of_servers(source),
        error => Self::fault(error),
    }
    BeginError as error {
        BeginError::Unavailable { source, .. } => Self::of_servers(source),
        error => Self::Usage(error.to_string()),
    }
}

/// Returns the table of relays.
pub(super) fn table(relays: &[RelayRow]) -> Table {
    Table::new("DESTINATION, PUBLISHED>, HEAD>, EVENTS>, SECONDS>, LEADER, SKIPS>, SAVED").rows(relays, |row| {
        let leader = match &row.halted_at {
            None => optional(row.leader.as_ref()),
            Some(halted) => format!("{} (stopped: the store went back behind {halted})", optional(row.leader.as_ref())),
        };
        [
            row.destination.clone(),
            row.position.to_string(),
            row.head.to_string(),
            row.lag.events.to_string(),
            optional(row.lag.seconds.map(|seconds| format!("{seconds:.1}"))),
            leader,
            row.skipped.len().to_string(),
            optional(row.updated_at.map(time_text)),
        ]
    })
}
