//! Creating a consumer group on Redis, after a position of the store or at the end of the stream.
//!
//! Invariant: a group begins after a position only if the bus has all events after it, those that the relay has published
//! and those that it has yet to publish. Otherwise its consumers would miss events, or get events from before.

use std::{collections::BTreeSet, sync::Arc};

use clap::Args;
use eventbus::{
    Name, Position,
    bus::EventBus as _,
    store::{EventStore, FeedFilter},
};
use eventbus_redis::{GroupStart, RedisEventBus};
use futures_util::TryStreamExt as _;
use serde_json::json;

use crate::{
    error::{CommandError, ExitStatus},
    output::Progress,
    query::list_relays,
    session::Session,
};

/// The start of a new handler or group.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct StartArgs {
    /// Begin with the first event after this position of the store
    #[arg(long, value_name = "POSITION")]
    after: Option<u64>,
    /// Begin with the next event
    #[arg(long)]
    now: bool,
}

impl StartArgs {
    /// Returns the position after which it begins; `None` if it begins now.
    pub(super) fn after(&self) -> Option<Position> {
        self.after.map(Position::new)
    }

    /// Creates a group that neither the bus nor the store has.
    ///
    /// # Errors
    /// [`CommandError::Usage`] if the bus lacks events that the group should get; others if the operator did not confirm,
    /// or a server cannot be reached.
    pub(super) async fn create(
        &self,
        session: &Session,
        bus: &RedisEventBus,
        group: &Name,
    ) -> Result<ExitStatus, CommandError> {
        let start = match self.after {
            Some(after) => Some(StoreStart::find(session, bus, Position::new(after)).await?),
            None => None,
        };
        let begins = match &start {
            Some(start) => format!("with the first event after position {}", start.after),
            None => "with the next event that is published".to_owned(),
        };
        let destination = bus.destination();
        let question = format!(
            "create group `{group}` of {destination}, which begins {begins}, and from now on holds trimming until its \
             consumers have handled its events"
        );
        if !session.may_change(&question).await? {
            return Ok(ExitStatus::Done);
        }
        let position = start.as_ref().map_or(GroupStart::Now, |start| GroupStart::Position(start.after));
        let creating = async { Ok(bus.create_group(group, position).await?) };
        if !Progress::during("creating", creating).await? {
            return session.finding(&exists(group));
        }
        if let Some(start) = &start
            && let Err(missing) = start.check_events(bus).await
        {
            // the operator took a moment to answer, and the bus was trimmed
            bus.retire_group(group).await?;
            return Err(missing);
        }
        let after = start.map(|start| start.after.to_string());
        session.show(&json!({ "group": group.as_str(), "created": true, "after": after }), |_| {
            format!("created group `{group}`, which begins {begins}\n")
        })
    }
}

/// Returns the note about a group that cannot be created.
pub(super) fn exists(group: &Name) -> String {
    format!("group `{group}` exists already, and stays where it is; `eventbus groups retire` removes it")
}

/// Returns the error for a bus whose groups cannot be changed so.
pub(super) fn not_on_redis(changed: &str) -> CommandError {
    CommandError::Usage(format!("only groups on Redis are {changed}; pass `--bus URL`"))
}

/// A start after a position of the store.
struct StoreStart {
    store: Arc<dyn EventStore>,
    after: Position,
    /// The bus has all events up to this position, except those that trimming has removed.
    published: Position,
    /// The events that the relay does not publish.
    skipped: BTreeSet<Position>,
}

impl StoreStart {
    /// Checks that a group can begin there.
    async fn find(session: &Session, bus: &RedisEventBus, after: Position) -> Result<Self, CommandError> {
        let Some(store) = session.optional_store().await? else {
            return Err(CommandError::Usage("a position is that of a store: pass `--store URL`".into()));
        };
        let head = store.head().await?;
        if after > head {
            return Err(CommandError::Usage(format!("the store ends at position {head}")));
        }
        let relays = Progress::while_reading(list_relays(&*store, Some(bus), session.clock())).await?;
        let relay = relays.into_iter().find(|row| *row.destination == **bus.destination());
        let (published, skipped) = relay.map(|row| (row.position, row.skipped)).unwrap_or_default();
        if published < after {
            let destination = bus.destination();
            return Err(CommandError::Usage(format!(
                "the relay to {destination} has published the events up to position {published}: the group would also get \
                 those from there on; begin after {published}, or wait"
            )));
        }
        let skipped = skipped.into_iter().map(|skip| skip.position).collect();
        let start = Self { store, after, published, skipped };
        Progress::while_reading(start.check_events(bus)).await?;
        Ok(start)
    }

    /// Checks that the bus still has all published events after the position.
    async fn check_events(&self, bus: &RedisEventBus) -> Result<(), CommandError> {
        let oldest = bus.oldest_position().await?;
        let Some(missing) = self.find_missing(oldest).await? else { return Ok(()) };
        Err(CommandError::Usage(format!(
            "{} does not have the event at position {missing} any more, which the group would miss: begin after a later \
             position",
            bus.destination()
        )))
    }

    /// Returns the first event after the position that was published and is not on the bus.
    async fn find_missing(&self, oldest: Option<Position>) -> Result<Option<Position>, CommandError> {
        // no event is missing after the oldest one of the stream
        let through = self.published.min(oldest.unwrap_or(self.published));
        let mut events = self.store.read_feed(self.after, through, &FeedFilter::all());
        while let Some(event) = events.try_next().await? {
            let Some(position) = event.position().filter(|position| !self.skipped.contains(position)) else { continue };
            if oldest.is_none_or(|oldest| position < oldest) {
                return Ok(Some(position));
            }
        }
        Ok(None)
    }
}
