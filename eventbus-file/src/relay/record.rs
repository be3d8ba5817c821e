//! How far a store is published: what the events tell, from the last time on that somebody wrote it down.
//!
//! Keep: the events are the truth, in the order of their ids; a record only saves reading them from the first one, and
//! outlives them. So it is written before they are removed. Records are numbered, and the highest one counts: nobody who
//! was held up puts an older one in its place.

use std::path::PathBuf;

use eventbus::{
    EventId, Position,
    port::{PublishedPosition, from_json},
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    disk,
    error::{FileQueueError, Result},
    event::{self, EventFile},
    names,
    queue::QueueInner,
};

/// After how many ids what they tell is written down.
const RECORD_INTERVAL_IDS: u64 = 1_000;

/// How far a store is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RelayRecord {
    pub(super) store: Uuid,
    /// Relays with a lower one are to step down.
    pub(super) epoch: u64,
    /// Everything of the store up to here is published.
    pub(super) position: u64,
    /// The event at the position; nothing if the position was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) event_id: Option<EventId>,
    /// Up to this id all events were looked at.
    pub(super) through: u64,
    /// Where it was begun, and begun again.
    pub(super) begun: Vec<PublishingStart>,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) written_at: OffsetDateTime,
    pub(super) worker_id: String,
}

/// What comes after an id begins behind a position, again perhaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PublishingStart {
    pub(super) id: u64,
    pub(super) after: u64,
}

/// What is known of a store.
#[derive(Debug, Clone)]
pub(crate) struct RelayState {
    /// The number of the record that it was written down in last.
    record_number: u64,
    written_through: u64,
    pub(super) record: RelayRecord,
    /// Whether there are ids after those that were looked at: the first of them is missing.
    pub(super) has_missing_id: bool,
}

impl RelayRecord {
    pub(super) fn published_position(&self) -> PublishedPosition {
        PublishedPosition { position: Position::new(self.position), event_id: self.event_id }
    }

    /// Takes in what is under the next id.
    fn apply(&mut self, id: u64, file: Option<&EventFile>) {
        self.through = id;
        let Some(file) = file.filter(|file| file.store == Some(self.store)) else {
            return;
        };
        if let Some((position, event_id)) = file.event.as_ref().and_then(|event| event.position_and_event_id()) {
            self.set_published(id, position, event_id);
        } else if let Some(again) = file.again {
            self.epoch = self.epoch.max(again.epoch);
            (self.position, self.event_id) = (again.after, None);
            self.begun.push(PublishingStart { id, after: again.after });
        }
    }

    pub(super) fn set_published(&mut self, id: u64, position: u64, event_id: EventId) {
        (self.through, self.position, self.event_id) = (id, position, Some(event_id));
    }
}

impl QueueInner {
    fn records_folder(&self, store: Uuid) -> PathBuf {
        self.disk.root().join(names::RELAYS).join(store.to_string())
    }

    /// The stores that are, or were, published here.
    pub(super) fn list_relayed_stores(&self) -> Result<Vec<Uuid>> {
        let names = disk::list_names(&self.disk.root().join(names::RELAYS))?;
        let mut stores = Vec::new();
        for store in names.iter().filter_map(|name| parse_store_id(name)) {
            // somebody may have died after making the folder
            if !self.list_record_numbers(store)?.is_empty() {
                stores.push(store);
            }
        }
        Ok(stores)
    }

    fn list_record_numbers(&self, store: Uuid) -> Result<Vec<u64>> {
        Ok(disk::list_names(&self.records_folder(store))?
            .iter()
            .filter_map(|name| names::parse_file_name(name))
            .collect())
    }

    /// A record; `None` if it is not there, or no longer.
    fn read_record(&self, store: Uuid, number: u64) -> Result<Option<RelayRecord>> {
        let path = self.records_folder(store).join(names::file_name(number));
        let Some(content) = disk::read(&path)? else {
            return Ok(None);
        };
        let record: Result<RelayRecord, _> = from_json(&content);
        let record = record.map_err(|error| FileQueueError::torn("record of a relay", &path, error))?;
        match record.store == store {
            true => Ok(Some(record)),
            false => Err(FileQueueError::torn("record of a relay", path, "it is of another store")),
        }
    }

    /// How far a store is published; `None` if nobody began.
    pub(super) fn load_relay_state(&self, store: Uuid) -> Result<Option<RelayState>> {
        loop {
            let Some(number) = self.list_record_numbers(store)?.into_iter().max() else {
                self.relay_states().remove(&store);
                return Ok(None);
            };
            let Some(mut relayed) = self.load_latest_known(store, number)? else {
                continue;
            };
            let first = relayed.record.through + 1;
            self.apply_new_events(&mut relayed)?;
            let removed = self.log.removed_through()?;
            if removed >= first && self.list_record_numbers(store)?.into_iter().max() != Some(number) {
                continue; // whoever removed what we were about to look at wrote down what it told
            }
            relayed.record.through = relayed.record.through.max(removed);
            self.relay_states().insert(store, relayed.clone());
            return Ok(Some(relayed));
        }
    }

    /// What was written down, or was looked at since.
    fn load_latest_known(&self, store: Uuid, number: u64) -> Result<Option<RelayState>> {
        let known = self.relay_states().get(&store).cloned();
        if let Some(known) = &known
            && known.record_number == number
        {
            return Ok(Some(known.clone()));
        }
        let Some(record) = self.read_record(store, number)? else {
            return Ok(None);
        };
        let (written_through, epoch) = (record.through, record.epoch);
        let mut now = record;
        if let Some(known) = known
            && known.record_number < number
            && known.record.through > now.through
        {
            now = known.record;
            now.epoch = now.epoch.max(epoch);
        }
        Ok(Some(RelayState { record_number: number, written_through, record: now, has_missing_id: false }))
    }

    /// Looks at the events that came since, up to the first id that is missing.
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

    /// Writes down how far a store is published. `false`: somebody else has just written.
    pub(super) fn write_record(&self, relayed: &mut RelayState) -> Result<bool> {
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
        self.relay_states().insert(relayed.record.store, relayed.clone());
        // the one before stays: whoever lists the folder just now sees one of them
        for older in self.list_record_numbers(relayed.record.store)?.into_iter().filter(|older| older + 1 < number) {
            self.disk.remove(&folder.join(names::file_name(older)))?;
        }
        Ok(true)
    }

    /// The first record of a store. `false`: there is one.
    pub(super) fn create_first_record(&self, store: Uuid, epoch: u64, after: u64) -> Result<bool> {
        let id = self.log.head()?;
        let now = RelayRecord {
            store,
            epoch,
            position: after,
            event_id: None,
            through: id,
            begun: vec![PublishingStart { id, after }],
            written_at: event::now(),
            worker_id: self.worker_id.clone(),
        };
        self.write_record(&mut RelayState { record_number: 0, written_through: 0, record: now, has_missing_id: false })
    }

    /// Keeps what is known in memory, and writes it down now and then.
    pub(super) fn remember(&self, relayed: &mut RelayState) -> Result<()> {
        self.relay_states().insert(relayed.record.store, relayed.clone());
        if relayed.record.through >= relayed.written_through + RECORD_INTERVAL_IDS {
            self.write_record(relayed)?;
        }
        Ok(())
    }

    /// Writes down how far each store is published, before the events go that tell it.
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

    /// Refuses a file that is no record, for those who look at all files.
    pub(crate) fn check_record(&self, store: Uuid, number: u64) -> Result<()> {
        self.read_record(store, number).map(drop)
    }
}

/// The store that a folder of records is named by.
pub(crate) fn parse_store_id(name: &str) -> Option<Uuid> {
    Uuid::try_parse(name).ok().filter(|store| store.to_string() == name)
}
