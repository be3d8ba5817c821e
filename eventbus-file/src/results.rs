//! Results: one for each event, by the first worker that writes it.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
};

use eventbus::{clock::SharedClock, delivery::DeliveryAttempts, support::from_json};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use time::OffsetDateTime;

use crate::{
    claim_store::{Claim, ClaimStore, event_claim_id},
    disk::{self, Disk},
    error::{FileQueueError, Result},
    event::QueueEvent,
    finished_events::FinishedEvents,
    id_shards,
    log::{EventLog, LogEntry},
    names,
};

/// Result of an event; an event has one result, which never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EventResult {
    /// The event.
    pub event_id: u64,
    /// Set if the worker reported a success.
    pub success: bool,
    /// The worker that wrote it.
    pub worker_id: String,
    /// The epoch of its claim.
    pub epoch: u64,
    /// Time of writing.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Data of the worker.
    #[serde(default)]
    pub details: Value,
}

impl EventResult {
    /// Returns the decoded data of the worker.
    ///
    /// # Errors
    /// [`FileQueueError::Json`] if it is not of that type.
    pub fn details<T: DeserializeOwned>(&self) -> Result<T> {
        let what = || format!("the details of the result of event {}", self.event_id);
        from_json(self.details.to_string()).map_err(|source| FileQueueError::Json { what: what(), source })
    }
}

/// The results of a queue, and the events that have one, as far as this worker knows.
#[derive(Debug)]
pub(crate) struct Results {
    folder: PathBuf,
    disk: Arc<Disk>,
    claims: ClaimStore,
    /// Locked to read or add ids, never while a file is read.
    finished: Mutex<FinishedEvents>,
    /// Events that wait for a retry, each with its time in milliseconds since 1970: until then, no search reads their
    /// files again. Locked to look an id up or to add one.
    waiting: Mutex<HashMap<u64, u64>>,
    /// Events whose torn claims are logged, as each search finds them again. Locked to add an id.
    logged_torn_claims: Mutex<BTreeSet<u64>>,
}

/// Numbers of the events without a result.
#[derive(Debug, Default)]
pub(crate) struct Unfinished {
    /// Events that were claimed: a worker has them, or they wait for a retry.
    pub(crate) claimed: u64,
    /// Events that were never claimed; ids that are not published yet count too.
    pub(crate) unclaimed: u64,
    pub(crate) oldest_claimed: Option<u64>,
}

/// Maximum number of events whose files are checked to count them; later ones count as unclaimed.
const COUNTED_BY_FILE_MAX: u64 = 10_000;

impl Results {
    pub(crate) fn new(disk: Arc<Disk>, claims: ClaimStore) -> Self {
        let folder = disk.root().join(names::RESULTS);
        let (finished, waiting, logged_torn_claims) = Default::default();
        Self { folder, disk, claims, finished, waiting, logged_torn_claims }
    }

    /// Forgets the events of a queue that was in the folder before.
    pub(crate) fn forget(&self) {
        *self.finished.lock() = FinishedEvents::default();
        self.waiting.lock().clear();
        self.logged_torn_claims.lock().clear();
    }

    pub(crate) fn path(&self, event_id: u64) -> PathBuf {
        names::id_path(&self.folder, event_id)
    }

    pub(crate) fn has_result(&self, event_id: u64) -> Result<bool> {
        disk::exists(&self.path(event_id))
    }

    pub(crate) fn load_result(&self, event_id: u64) -> Result<Option<EventResult>> {
        let path = self.path(event_id);
        match disk::read_json::<EventResult>(&path, "result")? {
            Some(result) if result.event_id != event_id => {
                Err(FileQueueError::torn("result", path, "it is of another event"))
            }
            result => Ok(result),
        }
    }

    /// Creates the file of the one result of an event, for the owner of its claim: checks the claim, creates the file,
    /// then releases the claim.
    pub(crate) fn create(&self, event_id: u64, claim: &Claim, content: &[u8]) -> Result<()> {
        self.claims.check_owned(claim)?;
        if !self.disk.create(&self.path(event_id), content)? {
            return Err(FileQueueError::HasResult { event_id });
        }
        // only for readers of claims: the result already ends the claim
        if let Err(error) = self.claims.release(claim) {
            tracing::debug!(claim = claim.claim_id, error = error.log(), "claim not released, it expires");
        }
        Ok(())
    }

    /// Returns the ids of events that have results, from one on.
    pub(crate) fn ids_from(&self, from: u64) -> Result<impl Iterator<Item = Result<u64>> + use<>> {
        let shards = id_shards::list_shards(&self.folder)?;
        Ok(id_shards::ids_from(self.folder.clone(), shards, from))
    }

    /// Returns the first claimable event after an id, with its previous claim.
    ///
    /// | state | event | next state |
    /// |---|---|---|
    /// | claimable | a worker creates its claim | claimed |
    /// | claimed | its claim is released or expires | claimable |
    /// | claimed | a handler fails, and its worker releases the claim with the attempts | waiting |
    /// | waiting | the time of the retry has come | claimable |
    /// | claimed | its owner writes the result | finished |
    ///
    /// A gap and a torn event count as finished; a missing id, and an event whose claim is torn, count as claimed.
    pub(crate) fn find_claimable(
        &self,
        log: &EventLog,
        after: u64,
        clock: &SharedClock,
    ) -> Result<Option<(QueueEvent, Option<Claim>)>> {
        let (mut head, mut id) = (None, after);
        // the removal mark first: otherwise a new worker checks the result file of every event ever published
        let removed = log.removed_through()?;
        self.finished.lock().insert_through(removed);
        loop {
            id = self.finished.lock().next_unfinished(id);
            if self.is_waiting(id, clock) {
                continue;
            }
            if self.has_result(id)? {
                self.finished.lock().insert(id);
                continue;
            }
            match log.read(id)? {
                LogEntry::Removed(through) => self.finished.lock().insert_through(through),
                LogEntry::Gap => self.finished.lock().insert(id),
                LogEntry::Missing => {
                    // only here: it lists a folder
                    let head = match head {
                        Some(head) => head,
                        None => *head.insert(log.head()?),
                    };
                    if id > head {
                        return Ok(None);
                    }
                    log.fill_overdue_gap(id)?;
                }
                LogEntry::Torn(error) => {
                    tracing::error!(id, error = error.log(), "torn event passed over");
                    self.finished.lock().insert(id);
                }
                LogEntry::Event(event) => match self.claims.load_newest(&event_claim_id(id)) {
                    Ok(Some(claim)) if claim.is_live() => {}
                    Ok(claim) => {
                        let wait = claim.as_ref().map_or(0, |claim| millis_until_retry(claim, clock));
                        if wait == 0 {
                            return Ok(Some((event, claim)));
                        }
                        self.waiting.lock().insert(id, clock.unix_millis().saturating_add(wait));
                    }
                    Err(error @ FileQueueError::Torn { .. }) => {
                        if self.logged_torn_claims.lock().insert(id) {
                            tracing::error!(id, error = error.log(), "event with a torn claim passed over");
                        }
                    }
                    Err(error) => return Err(error),
                },
            }
        }
    }

    /// Returns `true` if an event waits for a retry, as far as this worker knows.
    fn is_waiting(&self, id: u64, clock: &SharedClock) -> bool {
        let mut waiting = self.waiting.lock();
        match waiting.get(&id) {
            Some(until) if *until > clock.unix_millis() => true,
            Some(_) => waiting.remove(&id).is_none(),
            None => false,
        }
    }

    /// Counts the events without a result.
    pub(crate) fn count_unfinished(&self, log: &EventLog) -> Result<Unfinished> {
        let (head, mut id, mut counted) = (log.head()?, 0, Unfinished::default());
        self.finished.lock().insert_through(log.removed_through()?);
        loop {
            id = self.finished.lock().next_unfinished(id);
            if id > head {
                return Ok(counted);
            }
            if counted.claimed + counted.unclaimed >= COUNTED_BY_FILE_MAX {
                counted.unclaimed += self.finished.lock().count_unfinished(id, head);
                return Ok(counted);
            }
            if self.has_result(id)? {
                self.finished.lock().insert(id);
            } else if disk::exists(&self.claims.folder_of(&event_claim_id(id))?)? {
                counted.claimed += 1;
                counted.oldest_claimed.get_or_insert(id);
            } else {
                counted.unclaimed += 1;
            }
        }
    }
}

/// Returns the milliseconds until the retry of an event whose claim is not live: at most the delay of the retry, as the
/// clock of the worker that set it may differ.
fn millis_until_retry(claim: &Claim, clock: &SharedClock) -> u64 {
    let attempts = claim.data::<DeliveryAttempts>().unwrap_or_default(); // other data are no attempts
    let Some(next) = attempts.next_at.filter(|_| claim.released_at.is_some()) else {
        return 0;
    };
    let delay = next.saturating_sub(attempts.last_failed_at.unwrap_or(next));
    next.saturating_sub(clock.unix_millis()).min(delay)
}

#[cfg(test)]
mod tests {
    use crate::{FileQueue, FileQueueConfig};

    /// Fails if the first search of a worker asks the file system about each event ever published.
    #[tokio::test]
    async fn a_worker_that_starts_looks_for_no_results_of_removed_events() {
        let root = tempfile::tempdir().unwrap();
        let queue = FileQueue::open(FileQueueConfig::at(root.path().join("queue"))).await.unwrap();
        queue.inner().log().write_removal_mark(1_500).unwrap();
        assert_eq!(queue.publish("the first that is left").await.unwrap().id(), 1_501);
        // a search for the result of an event up to 999 fails
        std::fs::write(root.path().join("queue/results/000000000"), "").unwrap();
        assert_eq!(queue.claim_next().await.unwrap().event().id(), 1_501);
    }
}
