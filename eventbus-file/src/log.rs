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

pub(crate) use self::link::Linked;
use crate::{
    disk::{self, Disk},
    error::{FileQueueError, Result},
    event::{self, EventFile, QueueEvent},
    ids,
    metrics::Metrics,
    names,
    payload::Payloads,
};

/// How many missing ids are filled at once.
const MOST_MISSING: u64 = 10_000;
/// An id that was due so long ago and was not filled is not missing any more, or nobody looks for it.
const LONG_DUE: Duration = Duration::from_secs(60);

/// What is under an id.
#[derive(Debug)]
pub(crate) enum Slot {
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
    payloads: Payloads,
    events: PathBuf,
    removed: PathBuf,
    /// Since when ids below the newest were seen to be missing.
    missing: Mutex<HashMap<u64, Instant>>,
    patience: Duration,
    metrics: Arc<Metrics>,
}

impl EventLog {
    pub(crate) fn new(disk: Arc<Disk>, payloads: Payloads, patience: Duration, metrics: Arc<Metrics>) -> Self {
        let (events, removed) = (disk.root().join(names::EVENTS), disk.root().join(names::REMOVED));
        Self { disk, payloads, events, removed, missing: Mutex::default(), patience, metrics }
    }

    pub(crate) fn path(&self, id: u64) -> PathBuf {
        names::path_of(&self.events, id)
    }

    /// The highest id that was ever used, as far as files tell.
    pub(crate) fn head(&self) -> Result<u64> {
        let removed = self.removed_through()?;
        for shard in self.shards()?.into_iter().rev() {
            if let Some(id) = ids::of_shard(&self.events, shard)?.last() {
                return Ok(removed.max(*id));
            }
        }
        Ok(removed)
    }

    /// The ids that have files, from one on.
    pub(crate) fn ids_from(&self, from: u64) -> Result<impl Iterator<Item = Result<u64>> + use<>> {
        let from = from.max(self.removed_through()? + 1);
        Ok(ids::from(self.events.clone(), self.shards()?, from))
    }

    /// The folders of a thousand ids, sorted; those too far ahead are foreign.
    pub(crate) fn shards(&self) -> Result<Vec<u64>> {
        let mut shards = ids::shards(&self.events)?;
        let mut last = names::shard_index(self.removed_through()?);
        shards.retain(|shard| {
            let is_near = *shard <= last + names::shard_index(names::FAR);
            last = if is_near { last.max(*shard) } else { last };
            is_near
        });
        Ok(shards)
    }

    /// Up to which id everything was removed.
    pub(crate) fn removed_through(&self) -> Result<u64> {
        Ok(self.marks()?.into_iter().max().unwrap_or_default())
    }

    /// The marks of removals, unsorted.
    pub(crate) fn marks(&self) -> Result<Vec<u64>> {
        Ok(disk::names(&self.removed)?.iter().filter_map(|name| names::number(name)).collect())
    }

    /// The ids that have files though they may not, sorted; files that hold no event are left out.
    pub(crate) fn files_through(&self, through: u64) -> Result<Vec<u64>> {
        let mut ids = Vec::new();
        for shard in self.shards()?.into_iter().filter(|shard| *shard <= names::shard_index(through)) {
            ids.extend(ids::of_shard(&self.events, shard)?.into_iter().filter(|id| *id <= through));
        }
        ids.retain(|id| self.file(*id).is_ok());
        Ok(ids)
    }

    /// Removes the folders that get no more files.
    pub(crate) fn remove_empty_folders(&self, through: u64) -> Result<()> {
        for shard in self.shards()?.into_iter().filter(|shard| *shard < names::shard_index(through)) {
            // one that is not empty stays
            let _ = std::fs::remove_dir(self.events.join(names::shard_of(shard)));
        }
        Ok(())
    }

    /// What the file of an id holds, whether or not it was removed.
    pub(crate) fn file(&self, id: u64) -> Result<Option<EventFile>> {
        file_at(&self.path(id))
    }

    /// The file with the payload of an event; `None` too where there is no event.
    pub(crate) fn payload_file(&self, id: u64) -> Result<Option<String>> {
        payload_file_at(&self.path(id))
    }

    fn sync(&self, ids: &[u64]) -> Result<()> {
        let mut shards: Vec<u64> = ids.iter().map(|id| names::shard_index(*id)).collect();
        shards.dedup();
        shards.into_iter().try_for_each(|shard| self.disk.sync_folder(&self.events.join(names::shard_of(shard))))
    }

    /// What is under an id.
    pub(crate) fn read(&self, id: u64) -> Result<Slot> {
        let path = self.path(id);
        let slot = match disk::read(&path) {
            Ok(Some(content)) => self.decode(id, &path, &content),
            Ok(None) => Ok(Slot::Missing),
            Err(error) => Err(error),
        };
        // after all its files were read: a payload goes before the event does
        let removed = self.removed_through()?;
        if id <= removed {
            return Ok(Slot::Removed(removed));
        }
        match slot {
            Err(error) if error.is_retryable() => Err(error),
            slot => Ok(slot.unwrap_or_else(Slot::Torn)),
        }
    }

    /// Whether the publisher of an event is not done with it, or died of late.
    pub(crate) fn is_staged(&self, id: u64) -> Result<bool> {
        self.disk.is_staged(&self.path(id))
    }

    fn decode(&self, id: u64, path: &Path, content: &[u8]) -> Result<Slot> {
        let torn = |source: BoxError| FileQueueError::torn("event", path, source);
        let file: EventFile = from_json(content).map_err(|error| torn(error.into()))?;
        let Some(event) = file.event else {
            let is_gap = file.gap.is_some();
            return if is_gap { Ok(Slot::Gap) } else { Err(torn("neither an event nor a gap".into())) };
        };
        let payload = event.payload_file.as_deref().map(|name| self.payloads.read(name)).transpose()?;
        let record = event.into_record(payload).map_err(torn)?;
        Ok(Slot::Event(QueueEvent::new(id, file.created_at, file.worker_id, record)))
    }

    /// The next thing after an id, with its id: `None` if nothing was published after it yet. Waits for no missing id:
    /// then too it is `None`, until the patience is over and the gap is filled.
    pub(crate) fn next(&self, after: u64, worker: &str) -> Result<Option<(u64, Slot)>> {
        let id = after.saturating_add(1);
        match self.read(id)? {
            Slot::Missing if self.head()? <= id => Ok(None),
            Slot::Missing if !self.fill_overdue(id, worker)? => Ok(None),
            Slot::Missing => Ok(Some((id, self.read(id)?))),
            Slot::Removed(through) => Ok(Some((through, Slot::Removed(through)))),
            slot => {
                self.missing().retain(|other, _| *other > id);
                Ok(Some((id, slot)))
            }
        }
    }

    /// Fills an id that has been missing for too long, and those after it that have been so, too. `false`: there is still
    /// time for its publisher.
    pub(crate) fn fill_overdue(&self, id: u64, worker: &str) -> Result<bool> {
        if !self.missing().contains_key(&id) {
            // a publisher that died may have drawn many: they are all waited for from now on
            let next = self.ids_from(id)?.next().transpose()?.unwrap_or_default();
            let run = (id..next.min(id.saturating_add(MOST_MISSING))).map(|id| (id, Instant::now()));
            let mut missing = self.missing();
            missing.retain(|_, since| since.elapsed() < self.patience.saturating_add(LONG_DUE));
            missing.extend(run);
        }
        let is_overdue = |since: &Instant| since.elapsed() >= self.patience;
        let overdue: Vec<u64> = {
            let missing = self.missing();
            (id..).take_while(|id| missing.get(id).is_some_and(is_overdue)).collect()
        };
        self.fill(&overdue, worker)?;
        let mut missing = self.missing();
        for id in &overdue {
            missing.remove(id);
        }
        Ok(!overdue.is_empty())
    }

    /// Forgets what was about another queue in the same folder.
    pub(crate) fn forget(&self) {
        self.missing().clear();
    }

    fn missing(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that nobody will publish under these ids, where nobody did.
    fn fill(&self, ids: &[u64], worker: &str) -> Result<()> {
        let gap = EventFile::gap(worker, "drawn by a publisher that did not publish; filled so that readers go on");
        let contents = vec![event::pretty("the gap", &gap)?; ids.len()];
        for (id, staged) in ids.iter().zip(self.disk.stage_all(&contents)?) {
            if self.disk.link(&staged, &self.path(*id))? {
                self.metrics.gaps_filled.add(1);
                tracing::info!(id, "gap filled");
            }
        }
        self.sync(ids)
    }
}

fn file_at(path: &Path) -> Result<Option<EventFile>> {
    let content = disk::read(path)?;
    let file = content.map(|content| from_json(&content)).transpose();
    file.map_err(|error| FileQueueError::torn("event", path, error))
}

/// The file with the payload of the event in a file; `None` too where there is no event.
pub(crate) fn payload_file_at(path: &Path) -> Result<Option<String>> {
    match file_at(path) {
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
        let payloads = Payloads::new(Arc::clone(&disk), None);
        let log = EventLog::new(Arc::clone(&disk), payloads, Duration::ZERO, Arc::default());
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        log.missing().extend([(1, ago(61)), (2, ago(1))]);
        disk.create(&log.path(4), b"{}").unwrap();
        assert!(log.fill_overdue(3, "worker").unwrap());
        assert_eq!(log.missing().keys().collect::<Vec<_>>(), [&2]);
    }
}
