//! The log: the events of a queue as files, each under the id that it was linked to.
//!
//! Invariant: an id belongs to the worker that linked its file first. Readers wait for a missing id below an existing
//! one, and then fill it by a gap, so that all see the same events in the same order. Events up to the removal mark do
//! not exist, even if the folder holds their files: a worker writes the mark before it removes the first file, and
//! reads it after it made or read a file, so that no id is used twice.
//!
//! Real time, not the given clock: publishers in other processes.

mod link;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use eventbus::{BoxError, port::from_json};

pub(crate) use self::link::LinkOutcome;
use crate::{
    disk::{self, Disk},
    error::{FileQueueError, Result},
    event::{self, EventFile, QueueEvent},
    id_shards,
    metrics::Metrics,
    names,
    payload::PayloadFiles,
};

/// Maximum number of missing ids that a worker waits for, and fills, at once.
const MISSING_IDS_MAX: u64 = 10_000;
/// Age after which a worker forgets an overdue id that it has not filled: it has a file, or no reader needs it.
const MISSING_FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Content of the log under an id.
#[derive(Debug)]
pub(crate) enum LogEntry {
    /// An event.
    Event(QueueEvent),
    /// No event, now or later.
    Gap,
    /// No file yet.
    Missing,
    /// Removed, as all events up to the given id.
    Removed(u64),
    /// The file holds no event.
    Torn(FileQueueError),
}

#[derive(Debug)]
pub(crate) struct EventLog {
    disk: Arc<Disk>,
    payloads: PayloadFiles,
    events_folder: PathBuf,
    removed_folder: PathBuf,
    /// Ids below the newest that this worker found missing, and when it first did.
    missing_since: Mutex<HashMap<u64, Instant>>,
    gap_timeout: Duration,
    metrics: Arc<Metrics>,
}

impl EventLog {
    pub(crate) fn new(disk: Arc<Disk>, payloads: PayloadFiles, gap_timeout: Duration, metrics: Arc<Metrics>) -> Self {
        let (events, removed) = (disk.root().join(names::EVENTS), disk.root().join(names::REMOVED));
        Self {
            disk,
            payloads,
            events_folder: events,
            removed_folder: removed,
            missing_since: Mutex::default(),
            gap_timeout,
            metrics,
        }
    }

    pub(crate) fn path(&self, id: u64) -> PathBuf {
        names::id_path(&self.events_folder, id)
    }

    /// Returns the highest id that was ever used, according to the files.
    pub(crate) fn head(&self) -> Result<u64> {
        let removed = self.removed_through()?;
        for shard in self.shards()?.into_iter().rev() {
            if let Some(id) = id_shards::list_shard_ids(&self.events_folder, shard)?.last() {
                return Ok(removed.max(*id));
            }
        }
        Ok(removed)
    }

    /// Returns the ids that have files, from one on.
    pub(crate) fn ids_from(&self, from: u64) -> Result<impl Iterator<Item = Result<u64>> + use<>> {
        let from = from.max(self.removed_through()? + 1);
        Ok(id_shards::ids_from(self.events_folder.clone(), self.shards()?, from))
    }

    /// Returns the folders of a thousand ids, sorted, without those that are too far ahead: they are foreign.
    pub(crate) fn shards(&self) -> Result<Vec<u64>> {
        let mut shards = id_shards::list_shards(&self.events_folder)?;
        let mut last = names::shard_index(self.removed_through()?);
        shards.retain(|shard| {
            let is_near = *shard <= last + names::shard_index(names::ID_JUMP_MAX);
            last = if is_near { last.max(*shard) } else { last };
            is_near
        });
        Ok(shards)
    }

    pub(crate) fn removed_through(&self) -> Result<u64> {
        Ok(self.list_removal_marks()?.into_iter().max().unwrap_or_default())
    }

    pub(crate) fn list_removal_marks(&self) -> Result<Vec<u64>> {
        Ok(disk::list_names(&self.removed_folder)?.iter().filter_map(|name| names::parse_file_name(name)).collect())
    }

    /// Returns the ids up to one that still have files, sorted, without files that hold no event.
    pub(crate) fn list_files_through(&self, through: u64) -> Result<Vec<u64>> {
        let mut ids = Vec::new();
        for shard in self.shards()?.into_iter().filter(|shard| *shard <= names::shard_index(through)) {
            ids.extend(id_shards::list_shard_ids(&self.events_folder, shard)?.into_iter().filter(|id| *id <= through));
        }
        ids.retain(|id| self.read_file(*id).is_ok());
        Ok(ids)
    }

    /// Removes the folders of removed ids that are empty.
    pub(crate) fn remove_empty_folders(&self, through: u64) -> Result<()> {
        for shard in self.shards()?.into_iter().filter(|shard| *shard < names::shard_index(through)) {
            // a folder that is not empty stays
            let _ = std::fs::remove_dir(self.events_folder.join(names::shard_name(shard)));
        }
        Ok(())
    }

    /// Reads the file of an id, even if the id is at or below the removal mark.
    pub(crate) fn read_file(&self, id: u64) -> Result<Option<EventFile>> {
        read_file_at(&self.path(id))
    }

    /// Returns the name of the payload file of an event; `None` also if there is no event.
    pub(crate) fn find_payload_file(&self, id: u64) -> Result<Option<String>> {
        find_payload_file_at(&self.path(id))
    }

    fn sync_shards(&self, ids: &[u64]) -> Result<()> {
        let mut shards: Vec<u64> = ids.iter().map(|id| names::shard_index(*id)).collect();
        shards.dedup();
        shards
            .into_iter()
            .try_for_each(|shard| self.disk.sync_folder(&self.events_folder.join(names::shard_name(shard))))
    }

    pub(crate) fn read(&self, id: u64) -> Result<LogEntry> {
        let path = self.path(id);
        let slot = match disk::read(&path) {
            Ok(Some(content)) => self.decode(id, &path, &content),
            Ok(None) => Ok(LogEntry::Missing),
            Err(error) => Err(error),
        };
        // after reading its files: a removal deletes the payload before the event
        let removed = self.removed_through()?;
        if id <= removed {
            return Ok(LogEntry::Removed(removed));
        }
        match slot {
            Err(error) if error.is_retryable() => Err(error),
            slot => Ok(slot.unwrap_or_else(LogEntry::Torn)),
        }
    }

    /// Returns `true` if the publisher of an event has not finished, or died within the last hour.
    pub(crate) fn is_staged(&self, id: u64) -> Result<bool> {
        self.disk.is_staged(&self.path(id))
    }

    fn decode(&self, id: u64, path: &Path, content: &[u8]) -> Result<LogEntry> {
        let torn = |source: BoxError| FileQueueError::torn("event", path, source);
        let file: EventFile = from_json(content).map_err(|error| torn(error.into()))?;
        let Some(event) = file.event else {
            let is_gap = file.gap.is_some();
            return if is_gap { Ok(LogEntry::Gap) } else { Err(torn("neither an event nor a gap".into())) };
        };
        let payload = event.payload_file.as_deref().map(|name| self.payloads.read(name)).transpose()?;
        let record = event.into_record(payload).map_err(torn)?;
        Ok(LogEntry::Event(QueueEvent::new(id, file.created_at, file.worker_id, record)))
    }

    /// Returns the next entry after an id, with its id. Does not wait: `None` if there is no later event yet, or the
    /// next id is missing and not overdue; fills an overdue one.
    pub(crate) fn next_entry(&self, after: u64, worker: &str) -> Result<Option<(u64, LogEntry)>> {
        let id = after.saturating_add(1);
        match self.read(id)? {
            LogEntry::Missing if self.head()? <= id => Ok(None),
            LogEntry::Missing if !self.fill_overdue_gap(id, worker)? => Ok(None),
            LogEntry::Missing => Ok(Some((id, self.read(id)?))),
            LogEntry::Removed(through) => Ok(Some((through, LogEntry::Removed(through)))),
            slot => {
                self.missing_since().retain(|other, _| *other > id);
                Ok(Some((id, slot)))
            }
        }
    }

    /// Fills an id that has been missing for too long, and those directly after it that have, too. Returns `false` if
    /// its publisher still has time.
    pub(crate) fn fill_overdue_gap(&self, id: u64, worker: &str) -> Result<bool> {
        if !self.missing_since().contains_key(&id) {
            // a publisher that died may have reserved many ids: their times all begin now
            let next = self.ids_from(id)?.next().transpose()?.unwrap_or_default();
            let run = (id..next.min(id.saturating_add(MISSING_IDS_MAX))).map(|id| (id, Instant::now()));
            let mut missing = self.missing_since();
            missing.retain(|_, since| since.elapsed() < self.gap_timeout.saturating_add(MISSING_FORGOTTEN_AFTER));
            missing.extend(run);
        }
        let is_overdue = |since: &Instant| since.elapsed() >= self.gap_timeout;
        let overdue: Vec<u64> = {
            let missing = self.missing_since();
            (id..).take_while(|id| missing.get(id).is_some_and(is_overdue)).collect()
        };
        self.fill_gaps(&overdue, worker)?;
        let mut missing = self.missing_since();
        for id in &overdue {
            missing.remove(id);
        }
        Ok(!overdue.is_empty())
    }

    /// Forgets the missing ids of a queue that was in the folder before.
    pub(crate) fn forget_missing(&self) {
        self.missing_since().clear();
    }

    fn missing_since(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        self.missing_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Links a gap under each of these ids that has no file.
    fn fill_gaps(&self, ids: &[u64], worker: &str) -> Result<()> {
        let gap = EventFile::for_gap(worker, "drawn by a publisher that did not publish; filled so that readers go on");
        let contents = vec![event::to_pretty_json("the gap", &gap)?; ids.len()];
        for (id, staged) in ids.iter().zip(self.disk.stage_all(&contents)?) {
            if self.disk.link(&staged, &self.path(*id))? {
                self.metrics.gaps_filled.add(1);
                tracing::info!(id, "gap filled");
            }
        }
        self.sync_shards(ids)
    }
}

fn read_file_at(path: &Path) -> Result<Option<EventFile>> {
    let content = disk::read(path)?;
    let file = content.map(|content| from_json(&content)).transpose();
    file.map_err(|error| FileQueueError::torn("event", path, error))
}

/// Returns the name of the payload file of the event in a file; `None` also if there is no event.
pub(crate) fn find_payload_file_at(path: &Path) -> Result<Option<String>> {
    match read_file_at(path) {
        Err(FileQueueError::Torn { .. }) => Ok(None),
        file => Ok(file?.and_then(|file| file.event?.payload_file)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_came_after_all_are_not_kept_for_ever() {
        let root = tempfile::tempdir().unwrap();
        let disk = Arc::new(Disk::open(root.path().into(), false, &names::FOLDERS).unwrap());
        let payloads = PayloadFiles::new(Arc::clone(&disk), None);
        let log = EventLog::new(Arc::clone(&disk), payloads, Duration::ZERO, Arc::default());
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        log.missing_since().extend([(1, ago(61)), (2, ago(1))]);
        disk.create(&log.path(4), b"{}").unwrap();
        assert!(log.fill_overdue_gap(3, "worker").unwrap());
        assert_eq!(log.missing_since().keys().collect::<Vec<_>>(), [&2]);
    }
}
