//! The published position of a store: the last record of it, and the events in the log since that record.
//!
//! Invariant: the events are the truth, in the order of their ids; a record is a snapshot: with it a worker need not
//! read the log from the first event, and it stays when events are removed. So a worker writes a record before it
//! removes events. Records are numbered, and the highest one counts: a delayed worker cannot put an older one in its
//! place.

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    sync::Arc,
};

use eventbus::{
    EventId, Position,
    relay::{PublishedPosition, RangeOutcome},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    disk::{self, Disk},
    error::{FileQueueError, Result},
    event::{self, EventFile, RepublishFrom, message_id},
    log::{EventLog, LinkOutcome},
    names,
    staged_event::StagedEvent,
};

/// Number of ids after which a relay writes a new record.
const RECORD_INTERVAL_IDS: u64 = 1_000;

/// Published position of a store, as of an id of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RelayRecord {
    pub(crate) store: Uuid,
    /// Every event of the store up to this position is published.
    pub(crate) position: u64,
    /// The event at the position; `None` if the position was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) event_id: Option<EventId>,
    /// The id up to which the record covers the log.
    pub(crate) through: u64,
    /// The ids at which publishing began, and began again. The low-water mark of a group that has not passed such an id
    /// is at most its `after`: the events behind that position come again.
    pub(crate) begun: Vec<PublishingStart>,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) written_at: OffsetDateTime,
    pub(crate) worker_id: String,
}

/// A start of publishing: behind `id` in the log, the store's first event is the first one after the position `after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PublishingStart {
    pub(crate) id: u64,
    pub(crate) after: u64,
}

/// Published position of a store as this worker knows it: the last record, brought up to date by the log.
#[derive(Debug, Clone)]
pub(crate) struct RelayState {
    /// Number of the last record.
    record_number: u64,
    written_through: u64,
    pub(crate) record: RelayRecord,
    /// Set if the id after `record.through` is missing, and later ones exist.
    pub(crate) has_missing_id: bool,
}

impl RelayRecord {
    pub(crate) fn published_position(&self) -> PublishedPosition {
        PublishedPosition { position: Position::new(self.position), event_id: self.event_id }
    }

    fn apply(&mut self, id: u64, file: Option<&EventFile>) {
        self.through = id;
        let Some(file) = file.filter(|file| file.store == Some(self.store)) else {
            return;
        };
        if let Some((position, event_id)) = file.event.as_ref().and_then(|event| event.position_and_event_id()) {
            self.set_published(id, position, event_id);
        } else if let Some(again) = file.again {
            (self.position, self.event_id) = (again.after, None);
            self.begun.push(PublishingStart { id, after: again.after });
        }
    }

    fn set_published(&mut self, id: u64, position: u64, event_id: EventId) {
        (self.through, self.position, self.event_id) = (id, position, Some(event_id));
    }
}

/// Outcome of one attempt.
pub(crate) enum RelayStep<T> {
    Done(T),
    /// The log or the record changed, perhaps by a second relay: repeat the attempt.
    Retry,
    /// An id is missing: wait for its publisher.
    WaitForGap,
}

/// A range that is being published.
pub(crate) struct PendingRange {
    pub(crate) store: Uuid,
    /// Position up to which this relay expects the store to be published; at any other one, the outcome is `Moved`.
    pub(crate) position: u64,
    /// Published position of the store once this range is published.
    pub(crate) through: u64,
    /// Position and id of each event that is not published yet.
    pub(crate) unpublished: VecDeque<(u64, EventId)>,
    pub(crate) staged: VecDeque<StagedEvent>,
    /// The ids of the events that were linked.
    pub(crate) ids: Vec<u64>,
}

/// The published positions of the stores whose relays publish to the queue.
#[derive(Debug)]
pub(crate) struct RelayLog {
    disk: Arc<Disk>,
    log: Arc<EventLog>,
    worker_id: String,
    /// Published positions of the stores, as of the events that this worker has read.
    states: Mutex<HashMap<Uuid, RelayState>>,
}

impl RelayLog {
    pub(crate) fn new(disk: Arc<Disk>, log: Arc<EventLog>, worker_id: String) -> Self {
        Self { disk, log, worker_id, states: Mutex::default() }
    }

    /// Forgets the positions of a queue that was in the folder before.
    pub(crate) fn forget(&self) {
        self.states.lock().clear();
    }

    fn records_folder(&self, store: Uuid) -> PathBuf {
        self.disk.root().join(names::RELAYS).join(store.to_string())
    }

    /// Returns the stores that are, or were, published here.
    fn list_relayed_stores(&self) -> Result<Vec<Uuid>> {
        let names = disk::list_names(&self.disk.root().join(names::RELAYS))?;
        let mut stores = Vec::new();
        for store in names.iter().filter_map(|name| parse_store_id(name)) {
            // a worker may have died after it made the folder
            if !self.list_record_numbers(store)?.is_empty() {
                stores.push(store);
            }
        }
        Ok(stores)
    }

    fn list_record_numbers(&self, store: Uuid) -> Result<Vec<u64>> {
        disk::list_numbers(&self.records_folder(store))
    }

    /// Reads a record; `None` if it does not exist, or no longer.
    pub(crate) fn read_record(&self, store: Uuid, number: u64) -> Result<Option<RelayRecord>> {
        let path = self.records_folder(store).join(names::file_name(number));
        match disk::read_json::<RelayRecord>(&path, "record of a relay")? {
            Some(record) if record.store != store => {
                Err(FileQueueError::torn("record of a relay", path, "it is of another store"))
            }
            record => Ok(record),
        }
    }

    /// Returns the published position of a store, and keeps it in memory; `None` if no relay began to publish it.
    pub(crate) fn load_relay_state(&self, store: Uuid) -> Result<Option<RelayState>> {
        loop {
            let Some(number) = self.list_record_numbers(store)?.into_iter().max() else {
                self.states.lock().remove(&store);
                return Ok(None);
            };
            let Some(mut relayed) = self.load_latest_known(store, number)? else {
                continue;
            };
            let first = relayed.record.through + 1;
            self.apply_new_events(&mut relayed)?;
            let removed = self.log.removed_through()?;
            if removed >= first && self.list_record_numbers(store)?.into_iter().max() != Some(number) {
                continue; // the worker that removed the unread events wrote a newer record before
            }
            relayed.record.through = relayed.record.through.max(removed);
            self.states.lock().insert(store, relayed.clone());
            return Ok(Some(relayed));
        }
    }

    /// Returns the state of the latest record, or the state in memory if that covers more of the log; `None` if the
    /// record is gone.
    fn load_latest_known(&self, store: Uuid, number: u64) -> Result<Option<RelayState>> {
        let known = self.states.lock().get(&store).cloned();
        if let Some(known) = &known
            && known.record_number == number
        {
            return Ok(Some(known.clone()));
        }
        let Some(record) = self.read_record(store, number)? else {
            return Ok(None);
        };
        let written_through = record.through;
        let mut now = record;
        if let Some(known) = known
            && known.record_number < number
            && known.record.through > now.through
        {
            now = known.record;
        }
        Ok(Some(RelayState { record_number: number, written_through, record: now, has_missing_id: false }))
    }

    /// Applies the events behind `record.through`, up to the first missing id.
    fn apply_new_events(&self, relayed: &mut RelayState) -> Result<()> {
        let head = self.log.head()?;
        relayed.has_missing_id = false;
        for id in relayed.record.through + 1..=head {
            match self.log.read_file(id) {
                Ok(None) => {
                    relayed.has_missing_id = true;
                    break;
                }
                Ok(file) => relayed.record.apply(id, file.as_ref()),
                Err(FileQueueError::Torn { .. }) => relayed.record.apply(id, None),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes the next record. Returns `false` if a different worker wrote one with its number.
    fn write_record(&self, relayed: &mut RelayState) -> Result<bool> {
        let number = relayed.record_number + 1;
        let folder = self.records_folder(relayed.record.store);
        let removed = self.log.removed_through()?;
        relayed.record.begun.retain(|begun| begun.id > removed);
        (relayed.record.written_at, relayed.record.worker_id) = (event::now(), self.worker_id.clone());
        let content = event::to_pretty_json("the record of a relay", &relayed.record)?;
        if !self.disk.create(&folder.join(names::file_name(number)), &content)? {
            return Ok(false);
        }
        (relayed.record_number, relayed.written_through) = (number, relayed.record.through);
        self.states.lock().insert(relayed.record.store, relayed.clone());
        // the record before stays: a worker that lists the folder meanwhile sees at least one of the two
        for older in self.list_record_numbers(relayed.record.store)?.into_iter().filter(|older| older + 1 < number) {
            self.disk.remove(&folder.join(names::file_name(older)))?;
        }
        Ok(true)
    }

    /// Writes the first record of a store. Returns `false` if there is one already.
    fn create_first_record(&self, store: Uuid, after: u64) -> Result<bool> {
        let id = self.log.head()?;
        let now = RelayRecord {
            store,
            position: after,
            event_id: None,
            through: id,
            begun: vec![PublishingStart { id, after }],
            written_at: event::now(),
            worker_id: self.worker_id.clone(),
        };
        self.write_record(&mut RelayState { record_number: 0, written_through: 0, record: now, has_missing_id: false })
    }

    /// Keeps the state in memory, and writes a record each [`RECORD_INTERVAL_IDS`] ids.
    fn remember(&self, relayed: &mut RelayState) -> Result<()> {
        self.states.lock().insert(relayed.record.store, relayed.clone());
        if relayed.record.through >= relayed.written_through + RECORD_INTERVAL_IDS {
            self.write_record(relayed)?;
        }
        Ok(())
    }

    /// Writes a record of each store, before a removal of the events that show its position.
    pub(crate) fn write_all_records(&self) -> Result<()> {
        for store in self.list_relayed_stores()? {
            while let Some(mut relayed) = self.load_relay_state(store)? {
                if self.write_record(&mut relayed)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Returns the refusal of a range if that is certain already, so that the relay stages no events in vain.
    pub(crate) fn early_refusal(&self, store: Uuid, position: u64) -> Result<Option<RangeOutcome>> {
        Ok(match self.load_relay_state(store)? {
            Some(relayed) if relayed.has_missing_id => None,
            Some(relayed) => refusal(&relayed, position),
            None => Some(RangeOutcome::Lost),
        })
    }

    pub(crate) fn try_publish(&self, pending: &mut PendingRange) -> Result<RelayStep<RangeOutcome>> {
        let Some(mut relayed) = self.load_relay_state(pending.store)? else {
            return Ok(RelayStep::Done(RangeOutcome::Lost));
        };
        if relayed.has_missing_id {
            return self.fill_missing_or_wait(&relayed);
        }
        if let Some(refusal) = refusal(&relayed, pending.position) {
            return Ok(RelayStep::Done(refusal));
        }
        if pending.unpublished.is_empty() {
            if relayed.record.position < pending.through {
                // positions behind the last event have no event file: only a record shows that they are published
                let now = &mut relayed.record;
                (now.position, now.event_id) = (pending.through, None);
                if !self.write_record(&mut relayed)? {
                    return Ok(RelayStep::Retry);
                }
            }
            self.remember(&mut relayed)?;
            let ids = pending.ids.iter().map(|id| message_id(*id)).collect();
            return Ok(RelayStep::Done(RangeOutcome::Published(ids)));
        }
        // safe also if another relay began after `refusal`: these links take only free ids right behind the state that
        // was read, so they are the store's next events, and that relay finds them in the log
        let LinkOutcome { ids, error } = self.log.link_after(&mut pending.staged, relayed.record.through)?;
        for (id, (position, event_id)) in ids.iter().zip(pending.unpublished.drain(..ids.len())) {
            relayed.record.set_published(*id, position, event_id);
            pending.position = position;
        }
        pending.ids.extend(ids);
        if let Some(error) = error {
            return Err(error);
        }
        self.remember(&mut relayed)?;
        Ok(RelayStep::Retry)
    }

    /// Fills the first missing id if its publisher is overdue; waits for it otherwise.
    fn fill_missing_or_wait<T>(&self, relayed: &RelayState) -> Result<RelayStep<T>> {
        let is_filled = self.log.fill_overdue_gap(relayed.record.through + 1)?;
        Ok(if is_filled { RelayStep::Retry } else { RelayStep::WaitForGap })
    }

    /// Returns a store that was published here, unless `own` was too.
    pub(crate) fn other_store(&self, own: Uuid) -> Result<Option<Uuid>> {
        let stores = self.list_relayed_stores()?;
        Ok(if stores.contains(&own) { None } else { stores.first().copied() })
    }

    /// Sets the published position of a store, unless it has moved from `from`; returns the position.
    pub(crate) fn set_position(
        &self,
        store: Uuid,
        from: Option<PublishedPosition>,
        to: PublishedPosition,
    ) -> Result<RelayStep<PublishedPosition>> {
        let after = to.position.get();
        let Some(relayed) = self.load_relay_state(store)? else {
            return Ok(if self.create_first_record(store, after)? { RelayStep::Done(to) } else { RelayStep::Retry });
        };
        if relayed.has_missing_id {
            return self.fill_missing_or_wait(&relayed);
        }
        let found = relayed.record.published_position();
        if Some(found) != from || found == to {
            return Ok(RelayStep::Done(found));
        }
        let gap = EventFile::for_gap(&self.worker_id, "the relay of a store publishes again what it published before");
        let gap = EventFile { store: Some(store), again: Some(RepublishFrom { after }), ..gap };
        let mut staged =
            VecDeque::from([StagedEvent::new(self.disk.stage(&event::to_pretty_json("the gap", &gap)?)?, None)]);
        let LinkOutcome { ids, error } = self.log.link_after(&mut staged, relayed.record.through)?;
        match error {
            Some(error) => Err(error),
            None if ids.is_empty() => Ok(RelayStep::Retry),
            None => Ok(RelayStep::Done(to)),
        }
    }
}

/// Returns the refusal of a relay that would publish after a position; `None` if the relay may publish.
fn refusal(relayed: &RelayState, position: u64) -> Option<RangeOutcome> {
    let record = &relayed.record;
    (record.position != position).then(|| RangeOutcome::Moved(record.published_position()))
}

pub(crate) fn parse_store_id(name: &str) -> Option<Uuid> {
    Uuid::try_parse(name).ok().filter(|store| store.to_string() == name)
}
