//! Orders that make a reader of a store's feed skip an event, or take it again.

use std::sync::Arc;

use clap::Args;
use eventbus::{
    Name, Position,
    app::{SkipEditor, SkipError},
    store::{EventStore, FeedFilter},
};
use futures_util::TryStreamExt as _;
use serde_json::{Value, json};

use crate::{
    error::{CommandError, ExitStatus, from_errors},
    output::{Printer, printable},
    query::ReaderSkips,
    session::Session,
};

/// An order to skip an event.
#[derive(Debug, Args)]
pub(super) struct SkipArgs {
    /// The position of the event
    #[arg(value_name = "POSITION")]
    position: u64,
    /// The reason, which the store keeps
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// An order to take a skipped event again.
#[derive(Debug, Args)]
pub(super) struct UnskipArgs {
    /// The position of the event
    #[arg(value_name = "POSITION")]
    position: u64,
}

/// A reader of the feed, which an order names.
pub(super) struct Reader {
    /// The role under which the store keeps its list of skips.
    pub(super) role: Name,
    /// Its name for an operator.
    pub(super) shown: String,
    /// It has read up to here; `None` if the store does not keep that.
    pub(super) position: Option<Position>,
    /// The verb for the events up to there: "handled".
    pub(super) done: &'static str,
    /// The action by which it takes an event up to there.
    pub(super) again: &'static str,
}

impl Reader {
    /// Asks whether to make it do this with the event at a position.
    async fn may_change(
        &self,
        session: &Session,
        store: &dyn EventStore,
        (what, position): (&str, Position),
    ) -> Result<bool, CommandError> {
        let event = self.describe(store, position).await;
        session.may_change(&format!("have {} {what} {event}", self.shown)).await
    }

    /// Describes the event at a position, and whether the reader is past it.
    async fn describe(&self, store: &dyn EventStore, position: Position) -> String {
        let before = Position::new(position.get().saturating_sub(1));
        let event = match store.read_feed(before, position, &FeedFilter::all()).try_next().await {
            Ok(Some(event)) => {
                let stream = event.metadata().stream();
                printable(&format!("`{}` of {stream}", event.event_type()))
            }
            Ok(None) => "where the store has no event".to_owned(),
            Err(_) => "which the store cannot read".to_owned(),
        };
        let past = match self.position {
            Some(read) if position <= read => format!(", which it has {} already", self.done),
            Some(_) => String::new(),
            None => format!(", which it may have {} already", self.done),
        };
        format!("the event at position {position}, {event}{past}")
    }
}

/// Returns the document about an order; `changed` is `false` if it was so before.
fn order(reader: &Reader, position: Position, (skipped, changed): (bool, bool)) -> Value {
    let (reader, position) = (reader.role.as_str(), position.to_string());
    json!({ "reader": reader, "position": position, "skipped": skipped, "changed": changed })
}

impl SkipArgs {
    pub(super) async fn run(
        &self,
        session: &Session,
        store: Arc<dyn EventStore>,
        reader: &Reader,
    ) -> Result<ExitStatus, CommandError> {
        let (position, shown) = (Position::new(self.position), &reader.shown);
        if !reader.may_change(session, &*store, ("skip for good", position)).await? {
            return Ok(ExitStatus::Done);
        }
        let changed = SkipEditor::new(store).skip(&reader.role, position, &self.reason).await?;
        session.show(&order(reader, position, (true, changed)), |_| match changed {
            true => format!("{shown} skips the event at position {position} from now on\n"),
            false => format!("{shown} skips the event at position {position} already; the former reason stays\n"),
        })
    }
}

impl UnskipArgs {
    pub(super) async fn run(
        &self,
        session: &Session,
        store: Arc<dyn EventStore>,
        reader: &Reader,
    ) -> Result<ExitStatus, CommandError> {
        let (position, shown) = (Position::new(self.position), &reader.shown);
        if !reader.may_change(session, &*store, ("no longer skip", position)).await? {
            return Ok(ExitStatus::Done);
        }
        if !SkipEditor::new(store).unskip(&reader.role, position).await? {
            return session.finding(&format!("{shown} does not skip the event at position {position}"));
        }
        session.show(&order(reader, position, (false, true)), |_| {
            format!("{shown} skips the event at position {position} no longer\n")
        })?;
        if reader.position.is_some_and(|read| position <= read) {
            let again = reader.again;
            session.printer().note(&format!("{shown} is past the event: {again}"));
        }
        Ok(ExitStatus::Done)
    }
}

/// Reports the events that readers outside of a table of readers skip.
pub(super) fn note_other_skips(printer: Printer, kind: &str, others: &[ReaderSkips]) {
    for ReaderSkips { reader, skipped } in others {
        let positions: Vec<_> = skipped.iter().map(|skip| skip.position.to_string()).collect();
        printer.note(&format!("{kind} `{reader}`, which keeps no progress here, skips {}", positions.join(", ")));
    }
}

from_errors! {
    SkipError as error {
        SkipError::NoSuchPosition { .. } | SkipError::NoReader { .. } => Self::Usage(error.to_string()),
        SkipError::Read(error) => error.into(),
        SkipError::Note(error) => error.into(),
        SkipError::Lease(error) => error.into(),
        error => Self::fault(error),
    }
}
