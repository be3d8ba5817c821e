//! Bringing groups of a bus what only the store has any more: all of it to a new group, or the events of one type to a
//! group that skipped them.
//!
//! Keep: every process with the store does it; the bus takes each range once. What the relay skips no group is given.

use std::{sync::Arc, time::Duration};

use futures_util::TryStreamExt;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{
        clock::SharedClock,
        error::{BoxError, Line},
        name::Name,
        record::RecordedEvent,
        stream::Position,
    },
    port::{
        Backlogs, EventBus, EventStore, FeedFilter, Fill, Filled, Outage, ReadError, read_around, relay_to,
        skipped_positions,
    },
};

/// How often is asked what is missing.
const LOOK: Duration = Duration::from_millis(500);
/// How soon a group may have done what it has.
const FULL: Duration = Duration::from_millis(50);
/// How much is brought at once.
const MAX_EVENTS: usize = 200;
const MAX_BYTES: usize = 1024 * 1024;

/// Brings what is missing until cancelled.
pub(crate) async fn fill(
    store: Arc<dyn EventStore>,
    bus: Arc<dyn EventBus>,
    clock: SharedClock,
    cancel: CancellationToken,
) {
    let Some(backlogs) = bus.backlogs() else {
        return;
    };
    if matches!(store.store_id().await, Err(ReadError::NoStore)) {
        return;
    }
    let mut outage = Outage::new(clock.clone());
    while !cancel.is_cancelled() {
        let filled = cancel.run_until_cancelled(fill_once(&*store, backlogs, bus.destination())).await;
        let pause = match filled {
            None => return,
            Some(Ok(pause)) => {
                if let Some(lasted) = outage.ends() {
                    tracing::info!(destination = %bus.destination(), ?lasted, "groups are given again what they miss");
                }
                pause
            }
            Some(Err(error)) => {
                if outage.begins() {
                    let error = Line(&*error).to_string();
                    tracing::warn!(destination = %bus.destination(), error, "groups are not given what they miss, trying again");
                }
                LOOK
            }
        };
        cancel.run_until_cancelled(clock.sleep(pause)).await;
    }
}

/// Brings each group some of what it misses; returns when there may be more to do.
async fn fill_once(store: &dyn EventStore, backlogs: &dyn Backlogs, destination: &Name) -> Result<Duration, BoxError> {
    let id = store.store_id().await?;
    let fills = backlogs.fills(id).await?;
    if fills.is_empty() {
        return Ok(LOOK);
    }
    let skips = skipped_positions(store, &relay_to(destination)).await?;
    let mut pause = LOOK;
    for fill in fills {
        pause = pause.min(fill_one(store, backlogs, fill, &skips).await?);
    }
    Ok(pause)
}

/// Brings a group what it misses until it has enough to do.
async fn fill_one(
    store: &dyn EventStore,
    backlogs: &dyn Backlogs,
    mut fill: Fill,
    skips: &[Position],
) -> Result<Duration, BoxError> {
    let filter = match &fill.event_type {
        Some(event_type) => FeedFilter::all().event_types([event_type.clone()]),
        None => FeedFilter::all(),
    };
    let mut feed = read_around(store, fill.after, fill.through, &filter, skips);
    loop {
        let (mut events, mut bytes): (Vec<RecordedEvent>, usize) = (Vec::new(), 0);
        let mut through = fill.through;
        while let Some(record) = feed.try_next().await? {
            bytes += record.payload().len();
            let position = record.position().unwrap_or(fill.after);
            events.push(record);
            if events.len() >= MAX_EVENTS || bytes >= MAX_BYTES {
                through = position;
                break;
            }
        }
        let filled = backlogs.fill(&fill, through, &events).await?;
        if filled == Filled::Done && fill.after == Position::START {
            tracing::info!(
                group = %fill.group, event_type = fill.event_type.as_ref().map(tracing::field::display),
                through = %fill.through, "the group is given what the bus does not hold for it"
            );
        }
        match filled {
            Filled::Done if through == fill.through => return Ok(Duration::ZERO),
            Filled::Done => fill.after = through,
            Filled::Full | Filled::Moved => return Ok(FULL),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use uuid::Uuid;

    use super::*;
    use crate::{
        domain::{
            record::NewEvent,
            stream::{ExpectedVersion, StreamId},
        },
        memory::InMemoryEventStore,
        port::{AppendEvents as _, PublishError},
        runtime::skip::Operator,
    };

    /// One group that misses the first positions of a store, and what it was given.
    struct Missing {
        through: Position,
        given: Mutex<Vec<Position>>,
    }

    #[async_trait]
    impl Backlogs for Missing {
        async fn fills(&self, store: Uuid) -> Result<Vec<Fill>, PublishError> {
            let (group, after) = (Name::from_static("new"), Position::START);
            Ok(vec![Fill { store, group, event_type: None, after, through: self.through, part: 0 }])
        }

        async fn fill(&self, _: &Fill, _: Position, events: &[RecordedEvent]) -> Result<Filled, PublishError> {
            let mut given = self.given.lock().unwrap();
            given.extend(events.iter().filter_map(RecordedEvent::position));
            Ok(Filled::Done)
        }
    }

    #[tokio::test]
    async fn a_group_is_not_given_what_an_operator_has_the_relay_skip() {
        let store: Arc<dyn EventStore> = Arc::new(InMemoryEventStore::new());
        let stream = StreamId::parse("Order", "1").unwrap();
        let events = (0..4).map(|_| NewEvent::new(Name::from_static("Noted"), 1, "{}")).collect();
        store.append(&stream, ExpectedVersion::Any, events).await.unwrap();
        let (bus, owner) = (Name::from_static("bus"), Name::from_static("operator"));
        let operator = Operator { store: Arc::clone(&store), owner, clock: SharedClock::SYSTEM };
        operator.skip(&relay_to(&bus), Position::new(2), "too large for the bus").await.unwrap();
        let missing = Missing { through: Position::new(3), given: Mutex::default() };
        fill_once(&*store, &missing, &bus).await.unwrap();
        assert_eq!(*missing.given.lock().unwrap(), [1, 3]);
    }
}
