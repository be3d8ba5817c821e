//! The log: the events of a queue as files, each under the id that it was linked to.
//!
//! Invariant: an id belongs to the worker that linked its file first. A worker fills an id that is missing below an
//! existing one for too long by a gap, so that no event appears there later. Events up to the removal mark do
//! not exist, even if the folder holds their files: a worker writes the mark before it removes the first file, and
//! reads it after it made or read a file, so that no id is used twice.
//!
//! Real time, not the given clock: publishers in other processes.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use eventbus::{BoxError, RecordedEvent, support::from_json};
use parking_lot::Mutex;
use time::OffsetDateTime;

use crate::{
    disk::{self, Disk},
    error::{FileQueueError, Result},
    event::{self, EventFile, QueueEvent, WrittenRecord},
    folder::QueueFolder,
    id_shards,
    metrics::Metrics,
    names,
    payload::PayloadFiles,
    staged_event::StagedEvent,
};

/// Maximum number of missing ids that a worker waits for, and fills, at once.
const MISSING_IDS_MAX: u64 = 10_000;
/// Age after which a worker forgets an overdue id that it has not filled: by then the id has a file, or no reader needs
/// it.
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
    /// The file holds no event that can be decoded, whether it is whole or cut off.
    Torn(FileQueueError),
}

/// Outcome of linking.
#[derive(Debug, Default)]
pub(crate) struct LinkOutcome {
    pub(crate) ids: Vec<u64>,
    /// The error that ended the linking early.
    pub(crate) error: Option<FileQueueError>,
}

#[derive(serde::Serialize)]
struct RemovalMark<'a> {
    removed_through: u64,
    #[serde(with = "time::serde::rfc3339")]
    removed_at: time::OffsetDateTime,
    worker_id: &'a str,
}

#[derive(Debug)]
pub(crate) struct EventLog {
    folder: Arc<QueueFolder>,
    disk: Arc<Disk>,
    worker_id: String,
    payloads: PayloadFiles,
    events_folder: PathBuf,
    removed_folder: PathBuf,
    /// Ids below the newest that this worker found missing, and when it first did.
    missing_since: Mutex<HashMap<u64, Instant>>,
    /// The newest event id that this worker knows of.
    newest_id: AtomicU64,
    gap_timeout: Duration,
    metrics: Arc<Metrics>,
}

impl EventLog {
    pub(crate) fn new(
        folder: Arc<QueueFolder>,
        worker_id: String,
        payloads: PayloadFiles,
        gap_timeout: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        let disk = Arc::clone(folder.disk());
        let (events, removed) = (disk.root().join(names::EVENTS), disk.root().join(names::REMOVED));
        Self {
            folder,
            disk,
            worker_id,
            payloads,
            events_folder: events,
            removed_folder: removed,
            missing_since: Mutex::default(),
            newest_id: AtomicU64::default(),
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
        Ok(disk::list_numbers(&self.removed_folder)?.into_iter().max().unwrap_or_default())
    }

    /// Returns the ids up to one that still have files, sorted, gaps included; leaves out torn files, which an operator
    /// must see, and files that cannot be read now.
    fn list_files_through(&self, through: u64) -> Result<Vec<u64>> {
        let mut ids = Vec::new();
        for shard in self.shards()?.into_iter().filter(|shard| *shard <= names::shard_index(through)) {
            ids.extend(id_shards::list_shard_ids(&self.events_folder, shard)?.into_iter().filter(|id| *id <= through));
        }
        ids.retain(|id| self.read_file(*id).is_ok());
        Ok(ids)
    }

    /// Removes the folders of removed ids that are empty.
    fn remove_empty_folders(&self, through: u64) -> Result<()> {
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
            Ok(LogEntry::Missing) => self.folder.check_present().map(|()| LogEntry::Missing),
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
        let event = QueueEvent::new(id, file.created_at, file.worker_id, record);
        Ok(LogEntry::Event(event.with_done_handlers(file.done_handlers)))
    }

    /// Fills an id that has been missing for too long, and the ids directly after it that have been, too. Returns
    /// `false` if its publisher still has time.
    pub(crate) fn fill_overdue_gap(&self, id: u64) -> Result<bool> {
        if !self.missing_since.lock().contains_key(&id) {
            // a publisher that died may have reserved many ids: the timeouts of all begin now
            let next = self.ids_from(id)?.next().transpose()?.unwrap_or_default();
            let run = (id..next.min(id.saturating_add(MISSING_IDS_MAX))).map(|id| (id, Instant::now()));
            let mut missing = self.missing_since.lock();
            missing.retain(|_, since| since.elapsed() < self.gap_timeout.saturating_add(MISSING_FORGOTTEN_AFTER));
            missing.extend(run);
        }
        let is_overdue = |since: &Instant| since.elapsed() >= self.gap_timeout;
        let overdue: Vec<u64> = {
            let missing = self.missing_since.lock();
            (id..).take_while(|id| missing.get(id).is_some_and(is_overdue)).collect()
        };
        self.fill_gaps(&overdue)?;
        let mut missing = self.missing_since.lock();
        for id in &overdue {
            missing.remove(id);
        }
        Ok(!overdue.is_empty())
    }

    /// Forgets the ids of a queue that was in the folder before.
    pub(crate) fn forget(&self) {
        self.newest_id.store(0, Ordering::Relaxed);
        self.missing_since.lock().clear();
    }

    /// Returns the newest event id that this worker knows of.
    pub(crate) fn newest_id(&self) -> u64 {
        self.newest_id.load(Ordering::Relaxed)
    }

    /// Notes that an id is in use.
    pub(crate) fn saw_id(&self, id: u64) {
        self.newest_id.fetch_max(id, Ordering::Relaxed);
    }

    /// Links a gap under each of these ids that has no file.
    fn fill_gaps(&self, ids: &[u64]) -> Result<()> {
        let gap = EventFile::for_gap(
            &self.worker_id,
            "drawn by a publisher that did not publish; filled so that readers go on",
        );
        let contents = vec![event::to_pretty_json("the gap", &gap)?; ids.len()];
        for (id, staged) in ids.iter().zip(self.disk.stage_all(&contents)?) {
            if self.disk.link(&staged, &self.path(*id))? {
                self.metrics.gaps_filled.add(1);
                tracing::info!(id, "gap filled");
            }
        }
        self.sync_shards(ids)
    }

    /// Writes the mark that no event up to an id exists any more.
    pub(crate) fn write_removal_mark(&self, through: u64) -> Result<()> {
        let mark = RemovalMark { removed_through: through, removed_at: event::now(), worker_id: &self.worker_id };
        let path = self.removed_folder.join(names::file_name(through));
        // `false` is fine: a second worker wrote the same mark
        self.disk.create(&path, &event::to_pretty_json("the mark", &mark)?).map(drop)
    }

    /// Removes the files of events up to the removal mark; `remove_claim` removes the claim of each, after its payload
    /// and before the event. Returns the number of removed events and gaps. Leaves out an event that is staged; a later
    /// removal takes its file if that is still there.
    pub(crate) fn remove_files_through(&self, through: u64, remove_claim: impl Fn(u64) -> Result<()>) -> Result<u64> {
        let mut removed = 0;
        for id in self.list_files_through(through)? {
            let payload_file = self.find_payload_file(id)?;
            // a slow publisher links its event under a removed id, then publishes it under a later one with the same
            // payload; checked after the name was read, as it may do both meanwhile
            if self.is_staged(id)? || !disk::exists(&self.path(id))? {
                continue;
            }
            if let Some(name) = payload_file {
                self.payloads.remove(&name)?;
            }
            remove_claim(id)?;
            removed += u64::from(self.disk.remove(&self.path(id))?);
        }
        self.remove_empty_folders(through)?;
        self.remove_older_marks()?;
        Ok(removed)
    }

    fn remove_older_marks(&self) -> Result<()> {
        // the mark before stays: a worker that lists the folder meanwhile sees at least one of the two
        let mut marks = disk::list_numbers(&self.removed_folder)?;
        marks.sort_unstable_by(|one, other| other.cmp(one));
        for older in marks.into_iter().skip(2) {
            self.disk.remove(&self.removed_folder.join(names::file_name(older)))?;
        }
        Ok(())
    }

    pub(crate) fn load_event(&self, id: u64) -> Result<Option<QueueEvent>> {
        match self.read(id)? {
            LogEntry::Event(event) => Ok(Some(event)),
            LogEntry::Torn(error) => Err(error),
            LogEntry::Gap | LogEntry::Missing | LogEntry::Removed(_) => Ok(None),
        }
    }

    /// Writes events to disk, without ids; all of them or none. `done_handlers` is set in a replay.
    pub(crate) fn stage(
        &self,
        records: &[RecordedEvent],
        created_at: OffsetDateTime,
        done_handlers: &[String],
    ) -> Result<VecDeque<StagedEvent>> {
        let mut payload_paths = Vec::with_capacity(records.len());
        let mut content = |record: &RecordedEvent| {
            let (event_id, payload_bytes) = (Some(record.metadata().event_id()), record.payload().len() as u64);
            // before compression: a small compressed file can expand to more than the memory of its reader
            disk::check_size(payload_bytes, event_id)?;
            let payload_file = self.payloads.write(record)?;
            let bytes_elsewhere = if payload_file.is_some() { payload_bytes } else { 0 };
            payload_paths.push(payload_file.as_deref().map(|name| self.payloads.path(name)).transpose()?);
            let event = Some(WrittenRecord::new(record, payload_file)?);
            let (worker_id, done_handlers) = (self.worker_id.clone(), done_handlers.to_vec());
            let file = EventFile { created_at, worker_id, gap: None, done_handlers, event };
            let content = event::to_pretty_json("the event", &file)?;
            disk::check_size(content.len() as u64 + bytes_elsewhere, event_id)?;
            Ok(content)
        };
        let contents: Result<Vec<_>> = records.iter().map(&mut content).collect();
        let staged = contents.and_then(|contents| self.disk.stage_all(&contents));
        match staged {
            Ok(staged) => {
                self.metrics.payloads_compressed.add(payload_paths.iter().flatten().count() as u64);
                let events = staged.into_iter().zip(payload_paths);
                Ok(events.map(|(file, payload_path)| StagedEvent::new(file, payload_path)).collect())
            }
            Err(error) => {
                for path in payload_paths.into_iter().flatten() {
                    // if it stays, `check` reports it as unused
                    let _ = self.disk.remove(&path);
                }
                Err(error)
            }
        }
    }

    /// Links staged events to the reserved ids that are free, or, without reserved ids, to the next ones after the
    /// newest file. Returns the linked ids in order; the events that remain in `staged` have none yet.
    pub(crate) fn link(&self, staged: &mut VecDeque<StagedEvent>, reserved: Option<Range<u64>>) -> Result<LinkOutcome> {
        let mut ids = match reserved {
            Some(drawn) => drawn.start.max(self.removed_through()? + 1)..drawn.end,
            None => self.head()? + 1..u64::MAX,
        };
        let mut linked = LinkOutcome::default();
        while let Some(next) = staged.front()
            && let Some(id) = ids.next()
        {
            match self.link_event(next, id) {
                Ok(true) => {
                    linked.ids.push(id);
                    staged.pop_front().into_iter().for_each(StagedEvent::finish);
                }
                Ok(false) => self.metrics.id_collisions.add(1),
                Err(error) => {
                    linked.error = Some(error);
                    break;
                }
            }
        }
        if let Err(error) = self.sync_shards(&linked.ids) {
            linked.error.get_or_insert(error);
        }
        Ok(linked)
    }

    /// Links a staged event to an id. Returns `false` if a different event has the id, or had it until a removal. A
    /// removal leaves an event alone while it is staged: so an id that is removed right after the link belonged to a
    /// different event.
    fn link_event(&self, staged: &StagedEvent, id: u64) -> Result<bool> {
        let path = self.path(id);
        if !self.disk.link(staged.file(), &path)? {
            return Ok(false);
        }
        let is_ours = id > self.removed_through()?;
        if !is_ours {
            self.disk.remove(&path)?;
        }
        Ok(is_ours)
    }
}

fn read_file_at(path: &Path) -> Result<Option<EventFile>> {
    disk::read_json(path, "event")
}

/// Returns the name of the payload file of the event in a file; `None` also if there is no event.
fn find_payload_file_at(path: &Path) -> Result<Option<String>> {
    match read_file_at(path) {
        Err(FileQueueError::Torn { .. }) => Ok(None),
        file => Ok(file?.and_then(|file| file.event?.payload_file)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_in(root: &Path, gap_timeout: Duration) -> EventLog {
        let disk = Disk::open(root.into(), false, &names::FOLDERS).unwrap();
        let folder = Arc::new(QueueFolder::open(disk).unwrap());
        let payloads = PayloadFiles::new(Arc::clone(folder.disk()), None);
        EventLog::new(folder, "worker".into(), payloads, gap_timeout, Arc::default())
    }

    /// Fails if a file that is missing in a folder that is away counts as gone.
    #[test]
    fn nothing_is_missing_in_a_folder_that_is_away_or_holds_a_different_queue() {
        let root = tempfile::tempdir().unwrap();
        let (folder, away) = (root.path().join("queue"), root.path().join("away"));
        let log = log_in(&folder, Duration::from_secs(600));
        log.fill_gaps(&[1, 2]).unwrap();
        let is_folder_missing = || log.read(1).unwrap_err().is_folder_missing();
        std::fs::rename(&folder, &away).unwrap();
        assert!(is_folder_missing());
        log_in(&folder, Duration::ZERO);
        assert!(is_folder_missing(), "another queue");
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::rename(&away, &folder).unwrap();
        assert!(matches!(log.read(1), Ok(LogEntry::Gap)));
        assert!(matches!(log.read(3), Ok(LogEntry::Missing)));
    }

    #[test]
    fn ids_that_came_after_all_are_not_kept_for_ever() {
        let root = tempfile::tempdir().unwrap();
        let log = log_in(root.path(), Duration::ZERO);
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        log.missing_since.lock().extend([(1, ago(61)), (2, ago(1))]);
        log.disk.create(&log.path(4), b"{}").unwrap();
        assert!(log.fill_overdue_gap(3).unwrap());
        assert_eq!(log.missing_since.lock().keys().collect::<Vec<_>>(), [&2]);
    }
}
