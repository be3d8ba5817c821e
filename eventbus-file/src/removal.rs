//! Removal of old events.
//!
//! Invariant: a worker writes the removal mark before it removes the first event, so that no id is used twice; and
//! before the mark, the published position of each store, which only the events show. It removes an event together with
//! its payload and its claim; the result stays.

use crate::{FileQueue, claim_store::event_claim_id, error::Result, inner::QueueInner, log::LogEntry};

/// Condition under which an event may be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovalCondition {
    /// Every consumer group that ever consumed has finished it.
    Groups,
    /// It has a result.
    Result,
    /// Both.
    GroupsAndResult,
}

/// Report of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct RemovalReport {
    /// Number of removed events.
    pub events: u64,
    /// All events up to this id are removed; lower than the requested id if an event does not meet the condition.
    pub through: u64,
}

impl QueueInner {
    fn remove_through(&self, id: u64, when: RemovalCondition) -> Result<RemovalReport> {
        self.disk.remove_stale_tmp_files();
        let through = self.removable_through(id, when)?;
        if through > self.log.removed_through()? {
            self.relays.write_all_records()?;
            self.log.write_removal_mark(through)?;
        }
        let through = self.log.removed_through()?;
        let remove_claim = |id| self.claims.remove_all_epochs(&event_claim_id(id));
        Ok(RemovalReport { events: self.log.remove_files_through(through, remove_claim)?, through })
    }

    /// Returns the highest id, at most the given one, up to which all events may be removed.
    fn removable_through(&self, id: u64, when: RemovalCondition) -> Result<u64> {
        let mut limit = id.min(self.log.head()?);
        if when != RemovalCondition::Result {
            for group in self.groups.list_groups()? {
                let (_, progress) = self.groups.load_group(&group)?;
                limit = limit.min(progress.finished_through());
            }
        }
        let mut through = self.log.removed_through()?;
        while through < limit && self.is_removable(through + 1, when)? {
            through += 1;
        }
        Ok(through)
    }

    fn is_removable(&self, id: u64, when: RemovalCondition) -> Result<bool> {
        Ok(match self.log.read(id)? {
            LogEntry::Missing => false,
            LogEntry::Gap | LogEntry::Removed(_) => true,
            // the file stays, but no reader waits for it
            LogEntry::Torn(_) => true,
            // its publisher has yet to check that it linked the id before a removal
            LogEntry::Event(_) if self.log.is_staged(id)? => false,
            LogEntry::Event(_) => when == RemovalCondition::Groups || self.results.has_result(id)?,
        })
    }
}

impl FileQueue {
    /// Removes events up to an id, as far as they meet a condition. Ids are never used again. Files that hold no event
    /// stay. The last events of a publisher that died become removable after an hour.
    ///
    /// # Errors
    /// [`FileQueueError::Io`](crate::FileQueueError::Io); events removed until then stay removed, and a repeated call
    /// goes on with the rest.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let queue = eventbus_file::FileQueue::open(eventbus_file::FileQueueConfig::at(folder.path())).await?;
    /// use eventbus_file::RemovalCondition;
    ///
    /// queue.publish(&"one").await?;
    /// queue.claim_next().await?.succeed(&"done").await?;
    /// queue.publish(&"two").await?;
    /// assert_eq!(queue.remove_through(100, RemovalCondition::Result).await?.through, 1);
    /// # Ok(()) }
    /// ```
    pub async fn remove_through(&self, id: u64, when: RemovalCondition) -> Result<RemovalReport> {
        self.inner.blocking(move |queue| queue.remove_through(id, when)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        FileQueueConfig,
        event::{self, now},
    };

    #[tokio::test]
    async fn an_event_stays_until_its_publisher_has_seen_that_it_had_the_id_first() {
        let root = tempfile::tempdir().unwrap();
        let queue = FileQueue::open(FileQueueConfig::at(root.path().join("queue"))).await.unwrap();
        let mut staged = queue.inner.log.stage(&[event::record_of_payload("one").unwrap()], now(), None).unwrap();
        let staged = staged.pop_front().unwrap();
        let path = queue.inner.log.path(1);
        queue.inner.disk.link(&staged, &path).unwrap();
        queue.claim_next().await.unwrap().succeed(&()).await.unwrap();
        assert_eq!(queue.remove_through(1, RemovalCondition::Result).await.unwrap().through, 0);
        drop(staged);
        std::fs::hard_link(path, root.path().join("somebody's copy")).unwrap();
        assert_eq!(queue.remove_through(1, RemovalCondition::Result).await.unwrap().through, 1);
    }
}
