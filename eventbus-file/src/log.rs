//! The events of a queue as files: who gets which id, who reads what.
//!
//! Keep: an id belongs to whoever linked its file first. A missing id below an existing one is waited for, and then
//! filled by a file that says so, so that every reader sees the same events in the same order. What is at or below the
//! removed mark is not there, whatever lies in the folder: a mark is written before anything is removed, and looked at
//! after a file was made or read, so that no id is used twice.
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

/// How many missing ids are filled at once.
const MISSING_IDS_MAX: u64 = 10_000;
/// An id that was due so long ago and was not filled is not missing any more, or nobody looks for it.
const MISSING_FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// What is under an id.
#[derive(Debug)]
pub(crate) enum LogEntry {
    /// An event.
    Event(QueueEvent),
    /// Nothing, for ever.
    Gap,
    /// Nothing yet.
    Missing,
    /// It was removed, and everything before it: this is the last such id.
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
    /// Since when ids below the newest were seen to be missing.
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

    /// The highest id that was ever used, as far as files tell.
    pub(crate) fn head(&self) -> Result<u64> {
        let removed = self.removed_through()?;
        for shard in self.shards()?.into_iter().rev() {
            if let Some(id) = id_shards::list_shard_ids(&self.events_folder, shard)?.last() {
                return Ok(removed.max(*id));
            }
        }
        Ok(removed)
    }

    /// The ids that have files, from one on.
    pub(crate) fn ids_from(&self, from: u64) -> Result<impl Iterator<Item = Result<u64>> + use<>> {
        let from = from.max(self.removed_through()? + 1);
        Ok(id_shards::ids_from(self.events_folder.clone(), self.shards()?, from))
    }

    /// The folders of a thousand ids, sorted; those too far ahead are foreign.
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

    /// Up to which id everything was removed.
    pub(crate) fn removed_through(&self) -> Result<u64> {
        Ok(self.list_removal_marks()?.into_iter().max().unwrap_or_default())
    }

    /// The marks of removals, unsorted.
    pub(crate) fn list_removal_marks(&self) -> Result<Vec<u64>> {
        Ok(disk::list_names(&self.removed_folder)?.iter().filter_map(|name| names::parse_file_name(name)).collect())
    }

    /// The ids that have files though they may not, sorted; files that hold no event are left out.
    pub(crate) fn list_files_through(&self, through: u64) -> Result<Vec<u64>> {
        let mut ids = Vec::new();
        for shard in self.shards()?.into_iter().filter(|shard| *shard <= names::shard_index(through)) {
            ids.extend(id_shards::list_shard_ids(&self.events_folder, shard)?.into_iter().filter(|id| *id <= through));
        }
        ids.retain(|id| self.read_file(*id).is_ok());
        Ok(ids)
    }

    /// Removes the folders that get no more files.
    pub(crate) fn remove_empty_folders(&self, through: u64) -> Result<()> {
        for shard in self.shards()?.into_iter().filter(|shard| *shard < names::shard_index(through)) {
            // one that is not empty stays
            let _ = std::fs::remove_dir(self.events_folder.join(names::shard_name(shard)));
        }
        Ok(())
    }

    /// What the file of an id holds, whether or not it was removed.
    pub(crate) fn read_file(&self, id: u64) -> Result<Option<EventFile>> {
        read_file_at(&self.path(id))
    }

    /// The file with the payload of an event; `None` too where there is no event.
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

    /// What is under an id.
    pub(crate) fn read(&self, id: u64) -> Result<LogEntry> {
        let path = self.path(id);
        let slot = match disk::read(&path) {
            Ok(Some(content)) => self.decode(id, &path, &content),
            Ok(None) => Ok(LogEntry::Missing),
            Err(error) => Err(error),
        };
        // after all its files were read: a payload goes before the event does
        let removed = self.removed_through()?;
        if id <= removed {
            return Ok(LogEntry::Removed(removed));
        }
        match slot {
            Err(error) if error.is_retryable() => Err(error),
            slot => Ok(slot.unwrap_or_else(LogEntry::Torn)),
        }
    }

    /// Whether the publisher of an event is not done with it, or died of late.
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

    /// The next thing after an id, with its id: `None` if nothing was published after it yet. Waits for no missing id:
    /// then too it is `None`, until the patience is over and the gap is filled.
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

    /// Fills an id that has been missing for too long, and those after it that have been so, too. `false`: there is still
    /// time for its publisher.
    pub(crate) fn fill_overdue_gap(&self, id: u64, worker: &str) -> Result<bool> {
        if !self.missing_since().contains_key(&id) {
            // a publisher that died may have drawn many: they are all waited for from now on
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

    /// Forgets what was about another queue in the same folder.
    pub(crate) fn forget_missing(&self) {
        self.missing_since().clear();
    }

    fn missing_since(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        self.missing_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that nobody will publish under these ids, where nobody did.
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

/// The file with the payload of the event in a file; `None` too where there is no event.
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
