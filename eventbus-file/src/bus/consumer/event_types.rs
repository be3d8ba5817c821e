//! Event types: announcing those with a handler here, and leaving events for a handler in a different release.

use eventbus::port::{DeliveryAttempts, DisposedEntry, Unhandled, log_skipped_type};

use super::Consumer;
use crate::error::Result;

impl Consumer<'_> {
    /// Announces the event types of the handlers here if they changed, and receives the events again that waited for a
    /// handler.
    pub(super) async fn announce_event_types(&mut self) -> Result<()> {
        if !self.subscriber_changes.has_changed().unwrap_or_default() && !self.announced.is_empty() {
            return Ok(());
        }
        let announced = self.queue.subscribers.announced(self.group);
        if announced.is_empty() || announced == self.announced {
            self.subscriber_changes.mark_unchanged();
            return Ok(());
        }
        let left: Vec<u64> = self.without_handler.iter().copied().filter(|id| !self.replays.contains(id)).collect();
        self.receive_open(left, false).await?;
        for id in std::mem::take(&mut self.without_handler) {
            self.replays.remove(&id);
        }
        let (within, clock) = (self.queue.config.deliver_skipped_within, &self.queue.config.clock);
        for (event_type, range) in self.owned.progress.types.announce(&announced, within, clock.unix_millis()) {
            range.skipped_before(self.group, event_type, clock).log();
        }
        self.subscriber_changes.mark_unchanged();
        (self.announced, self.is_dirty) = (announced, true);
        Ok(())
    }

    /// Records an event that no handler here wants: skips it, or leaves it with its attempts for a handler that is not
    /// here.
    pub(super) async fn skip_unhandled(
        &mut self,
        id: u64,
        one: &DisposedEntry,
        attempts: DeliveryAttempts,
    ) -> Result<()> {
        let Some(record) = &one.record else {
            return self.close_event(id).await;
        };
        let (group, event_type, is_replay) = (self.group, record.event_type(), self.replays.contains(&id));
        let types = &mut self.owned.progress.types;
        if types.has_announced(event_type) && (is_replay || !attempts.is_empty()) {
            return self.leave_for_handler(id, attempts).await;
        }
        if is_replay {
            self.queue.counters.events_skipped(1);
            return self.close_event(id).await;
        }
        match types.note_unhandled(event_type, id, self.queue.config.clock.unix_millis()) {
            Unhandled::Skipped { is_first } => {
                self.queue.counters.events_skipped(1);
                if is_first {
                    log_skipped_type(group, event_type);
                }
            }
            Unhandled::LeftPending { is_first: true } => tracing::warn!(
                %group, %event_type,
                "events are left pending: the group announced their type before, and no handler of it is here now; \
                 `forget_event_type` lets the group skip it"
            ),
            _ => {}
        }
        self.close_event(id).await
    }

    /// Saves the attempts of an event that the consumer receives again when the handlers here change.
    pub(super) async fn leave_for_handler(&mut self, id: u64, attempts: DeliveryAttempts) -> Result<()> {
        self.save_attempts(id, attempts).await?;
        self.without_handler.insert(id);
        Ok(())
    }

    /// Returns `true` if an event that no handler here can decode is for a release that announced its schema version.
    pub(super) fn is_for_newer_release(&self, one: &DisposedEntry) -> bool {
        let Some(record) = &one.record else {
            return false;
        };
        self.owned.progress.types.leave_to_newer_release(&self.queue.subscribers, self.group, record)
    }
}
