//! Bringing groups of a bus what only the store has any more: all of it to a new group, or the events of one type to a
//! group that skipped them.
//!
//! Keep: every process with the store does it; the bus takes each range once.

use std::{sync::Arc, time::Duration};

use futures_util::TryStreamExt;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{
        clock::SharedClock,
        error::{BoxError, Line},
        record::RecordedEvent,
        stream::Position,
    },
    port::{Backlogs, EventBus, EventStore, FeedFilter, Fill, Filled, ReadError},
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
    let mut is_failing = false;
    while !cancel.is_cancelled() {
        let filled = cancel.run_until_cancelled(fill_once(&*store, backlogs)).await;
        let pause = match filled {
            None => return,
            Some(Ok(pause)) => {
                is_failing = false;
                pause
            }
            Some(Err(error)) => {
                if !std::mem::replace(&mut is_failing, true) {
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
async fn fill_once(store: &dyn EventStore, backlogs: &dyn Backlogs) -> Result<Duration, BoxError> {
    let id = store.store_id().await?;
    let mut pause = LOOK;
    for fill in backlogs.fills(id).await? {
        if fill.after == Position::START {
            tracing::info!(
                group = %fill.group, event_type = fill.event_type.as_ref().map(tracing::field::display),
                through = %fill.through, "the group is given what the bus does not hold for it"
            );
        }
        pause = pause.min(fill_one(store, backlogs, fill).await?);
    }
    Ok(pause)
}

/// Brings a group what it misses until it has enough to do.
async fn fill_one(store: &dyn EventStore, backlogs: &dyn Backlogs, mut fill: Fill) -> Result<Duration, BoxError> {
    let filter = match &fill.event_type {
        Some(event_type) => FeedFilter::all().event_types([event_type.clone()]),
        None => FeedFilter::all(),
    };
    let mut feed = store.read_feed(fill.after, fill.through, &filter);
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
        match backlogs.fill(&fill, through, &events).await? {
            Filled::Done if through == fill.through => return Ok(Duration::ZERO),
            Filled::Done => fill.after = through,
            Filled::Full | Filled::Moved => return Ok(FULL),
        }
    }
}
