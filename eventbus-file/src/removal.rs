//! Removal of old events.
//!
//! Invariant: a worker writes the removal mark before it removes the first event, so that no id is used twice. It
//! removes an event together with its payload and its claim; the result stays, and so do claims by other names. It
//! leaves an event alone while it is staged, also below the mark: its publisher is about to move it to a later id, with
//! the same payload.

use crate::{claim_store::event_claim_id, error::Result, inner::QueueInner, log::LogEntry};

/// Report of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct RemovalReport {
    /// Number of removed events and gaps.
    pub events: u64,
    /// All events up to this id are removed; lower than the requested id if an event has no result.
    pub through: u64,
}

pub(crate) fn remove_through(queue: &QueueInner, id: u64) -> Result<RemovalReport> {
    queue.disk().remove_stale_tmp_files();
    let (limit, mut through) = (id.min(queue.log().head()?), queue.log().removed_through()?);
    let removed_before = through;
    while through < limit && is_removable(queue, through + 1)? {
        through += 1;
    }
    if through > removed_before {
        queue.log().write_removal_mark(through)?;
    }
    let through = queue.log().removed_through()?;
    let remove_claim = |id| queue.claims().remove_all_epochs(&event_claim_id(id));
    Ok(RemovalReport { events: queue.log().remove_files_through(through, remove_claim)?, through })
}

fn is_removable(queue: &QueueInner, id: u64) -> Result<bool> {
    Ok(match queue.log().read(id)? {
        LogEntry::Missing => false,
        LogEntry::Gap | LogEntry::Removed(_) => true,
        // the file stays, but no reader waits for it
        LogEntry::Torn(_) => true,
        // its publisher has yet to check that it linked the id before a removal
        LogEntry::Event(_) if queue.log().is_staged(id)? => false,
        LogEntry::Event(_) => queue.results().has_result(id)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        FileQueue, FileQueueConfig,
        event::{self, now},
    };

    #[tokio::test]
    async fn an_event_stays_until_its_publisher_has_seen_that_it_had_the_id_first() {
        let root = tempfile::tempdir().unwrap();
        let queue = FileQueue::open(FileQueueConfig::at(root.path().join("queue"))).await.unwrap();
        let mut staged = queue.inner().log().stage(&[event::record_of_payload("one").unwrap()], now(), &[]).unwrap();
        let staged = staged.pop_front().unwrap();
        let path = queue.inner().log().path(1);
        queue.inner().disk().link(staged.file(), &path).unwrap();
        queue.claim_next().await.unwrap().succeed(&()).await.unwrap();
        assert_eq!(queue.remove_through(1).await.unwrap().through, 0);
        drop(staged);
        std::fs::hard_link(path, root.path().join("somebody's copy")).unwrap();
        assert_eq!(queue.remove_through(1).await.unwrap().through, 1);
    }

    /// Fails if a removal takes the payload of an event that a slow publisher has linked under a removed id: the
    /// publisher takes the next id, with the same payload.
    #[tokio::test]
    async fn the_payload_of_an_event_that_is_linked_under_a_removed_id_stays() {
        let root = tempfile::tempdir().unwrap();
        let config = FileQueueConfig { compress_from: Some(1), ..FileQueueConfig::at(root.path().join("queue")) };
        let queue = FileQueue::open(config).await.unwrap();
        let log = queue.inner().log();
        let mut staged = log.stage(&[event::record_of_payload("slow").unwrap()], now(), &[]).unwrap();
        queue.publish("quick").await.unwrap();
        queue.claim_next().await.unwrap().succeed(&()).await.unwrap();
        let remove = async || queue.remove_through(1).await.unwrap();
        assert_eq!(remove().await, RemovalReport { events: 1, through: 1 });
        queue.inner().disk().link(staged.front().unwrap().file(), &log.path(1)).unwrap();
        assert_eq!(remove().await, RemovalReport { events: 0, through: 1 }, "the publisher has yet to read the mark");
        assert_eq!(log.link(&mut staged, Some(1..3)).unwrap().ids, [2], "it reads the mark");
        assert_eq!(queue.event(2).await.unwrap().unwrap().payload::<String>().unwrap(), "slow");
    }
}
