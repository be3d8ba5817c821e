//! Event types: announcing those that are handled here, and leaving events for a handler that is not.

use eventbus::port::{Settled, Tries, Unhandled, log_skipped_type};

use super::Consumer;
use crate::error::Result;

impl Consumer<'_> {
    /// Announces what the handlers here handle, where that changed; what was left is taken again.
    pub(super) async fn announce(&mut self) -> Result<()> {
        if !self.subscribed.has_changed().unwrap_or_default() && !self.announced.is_empty() {
            return Ok(());
        }
        let announced = self.shared.subscribers.announced(self.group);
        if announced.is_empty() || announced == self.announced {
            self.subscribed.mark_unchanged();
            return Ok(());
        }
        let left: Vec<u64> = self.left.iter().copied().filter(|id| !self.replays.contains(id)).collect();
        self.take_open(left, false).await?;
        for id in std::mem::take(&mut self.left) {
            self.replays.remove(&id);
        }
        let (within, clock) = (self.shared.config.deliver_skipped_within, &self.shared.config.clock);
        for (event_type, range) in self.owned.progress.types.announce(&announced, within, clock.unix_millis()) {
            range.skipped_before(self.group, event_type, clock).log();
        }
        self.subscribed.mark_unchanged();
        (self.announced, self.is_dirty) = (announced, true);
        Ok(())
    }

    /// Notes an event that no handler wants. It is done with, or left with its tries for a handler that is not here.
    pub(super) async fn skip(&mut self, id: u64, one: &Settled, tries: Tries) -> Result<()> {
        let Some(record) = &one.record else {
            return self.close(id).await;
        };
        let (group, event_type, is_replay) = (self.group, record.event_type(), self.replays.contains(&id));
        let types = &mut self.owned.progress.types;
        if types.has_announced(event_type) && (is_replay || !tries.is_empty()) {
            return self.leave(id, tries).await;
        }
        if is_replay {
            self.shared.counters.events_skipped(1);
            return self.close(id).await;
        }
        match types.pass(event_type, id, self.shared.config.clock.unix_millis()) {
            Unhandled::Skipped { is_first } => {
                self.shared.counters.events_skipped(1);
                if is_first {
                    log_skipped_type(group, event_type);
                }
            }
            Unhandled::Left { is_first: true } => tracing::warn!(
                %group, %event_type,
                "events are left: the group announced their type before, and no handler of it is here now; \
                 `forget_event_type` lets the group skip it"
            ),
            _ => {}
        }
        self.close(id).await
    }

    /// Lets an event go that is taken again when other handlers are here.
    pub(super) async fn leave(&mut self, id: u64, tries: Tries) -> Result<()> {
        self.keep(id, tries).await?;
        self.left.insert(id);
        Ok(())
    }

    /// Whether an event that cannot be handled here is for a release that announced its schema version.
    pub(super) fn is_for_newer(&self, one: &Settled) -> bool {
        let Some(record) = &one.record else {
            return false;
        };
        self.owned.progress.types.leaves_to_newer(&self.shared.subscribers, self.group, record)
    }
}
