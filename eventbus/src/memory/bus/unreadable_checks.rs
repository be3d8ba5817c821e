//! The checks of a group's unreadable events: are they skipped, or readable again?

use std::{pin::pin, time::Duration};

use futures_util::StreamExt as _;
use tokio::time::Instant;

use super::{
    inner::BusInner,
    store_access::{read_events_at, skipped_by_operators},
};
use crate::{
    domain::{clock::SharedClock, name::Name},
    port::EventStore,
};

/// Interval of checks for unreadable events that an operator skips.
const SKIP_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of tries to read the unreadable events.
const READ_RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// The times of the last checks of the unreadable events of a group.
#[derive(Debug)]
pub(super) struct UnreadableChecks {
    clock: SharedClock,
    skips_checked_at: Option<Instant>,
    reads_tried_at: Option<Instant>,
}

impl UnreadableChecks {
    pub(super) const fn new(clock: SharedClock) -> Self {
        Self { clock, skips_checked_at: None, reads_tried_at: None }
    }

    /// Removes the events that an operator has skipped, and delivers those that can be read again.
    pub(super) async fn check(&mut self, inner: &BusInner, store: &dyn EventStore, group: &Name) {
        if inner.log().cursor(group).unreadable().is_empty()
            || !self.is_due(SKIP_CHECK_INTERVAL, |checks| &mut checks.skips_checked_at)
        {
            return;
        }
        match skipped_by_operators(store).await {
            Ok(skipped) => {
                let mut log = inner.log();
                for position in skipped {
                    if log.cursor(group).skip_unreadable(position) {
                        tracing::warn!(%group, %position, "an event that cannot be read is skipped");
                    }
                }
            }
            Err(error) => tracing::debug!(%group, %error, "skipped events not loaded"),
        }
        if !self.is_due(READ_RETRY_INTERVAL, |checks| &mut checks.reads_tried_at) {
            return;
        }
        let positions = inner.log().cursor(group).unreadable().positions();
        let mut events = pin!(read_events_at(store, positions));
        while let Some((position, read)) = events.next().await {
            let Ok(Some(event)) = read else {
                continue;
            };
            let mut log = inner.log();
            if let Some(attempts) = log.cursor(group).unreadable_mut().remove(position) {
                tracing::info!(%group, %position, "an event can be read again and is delivered");
                log.restore(group, &event, attempts);
            }
        }
        // the other groups pass over the entries that were read for this one
        inner.notify_published();
    }

    fn is_due(&mut self, every: Duration, last: impl Fn(&mut Self) -> &mut Option<Instant>) -> bool {
        let clock = self.clock.clone();
        let last = last(self);
        let is_due = last.is_none_or(|last| clock.elapsed(last) >= every);
        if is_due {
            *last = Some(clock.instant());
        }
        is_due
    }
}
