//! How far a store is published: what the events tell, from the last time on that somebody wrote it down.
//!
//! Keep: the events are the truth, in the order of their ids; a record only saves reading them from the first one, and
//! outlives them. So it is written before they are removed. Records are numbered, and the highest one counts: nobody who
//! was held up puts an older one in its place.

use std::path::PathBuf;

use eventbus::{
    EventId, Position,
    port::{Mark, from_json},
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    disk,
    error::{FileQueueError, Result},
    event::{self, EventFile},
    names,
    queue::Shared,
};

/// After how many ids what they tell is written down.
const OFTEN: u64 = 1_000;

/// How far a store is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
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
    pub(super) begun: Vec<Begun>,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) written_at: OffsetDateTime,
    pub(super) worker_id: String,
}

/// What comes after an id begins behind a position, again perhaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Begun {
    pub(super) id: u64,
    pub(super) after: u64,
}

/// What is known of a store.
#[derive(Debug, Clone)]
pub(crate) struct Relayed {
    /// The number of the record that it was written down in last.
    number: u64,
    written_through: u64,
    pub(super) now: Record,
    /// Whether there are ids after those that were looked at: the first of them is missing.
    pub(super) is_undecided: bool,
}

impl Record {
    pub(super) fn mark(&self) -> Mark {
        Mark { position: Position::new(self.position), event_id: self.event_id }
    }

    /// Takes in what is under the next id.
    fn take_in(&mut self, id: u64, file: Option<&EventFile>) {
        self.through = id;
        let Some(file) = file.filter(|file| file.store == Some(self.store)) else {
            return;
        };
        if let Some((position, event_id)) = file.event.as_ref().and_then(|event| event.place()) {
            self.published(id, position, event_id);
        } else if let Some(again) = file.again {
            self.epoch = self.epoch.max(again.epoch);
            (self.position, self.event_id) = (again.after, None);
            self.begun.push(Begun { id, after: again.after });
        }
    }

    pub(super) fn published(&mut self, id: u64, position: u64, event_id: EventId) {
        (self.through, self.position, self.event_id) = (id, position, Some(event_id));
    }
}

impl Shared {
    fn records_folder(&self, store: Uuid) -> PathBuf {
        self.disk.root().join(names::RELAYS).join(store.to_string())
    }

    /// The stores that are, or were, published here.
    pub(super) fn relayed_stores(&self) -> Result<Vec<Uuid>> {
        let names = disk::names(&self.disk.root().join(names::RELAYS))?;
        let mut stores = Vec::new();
        for store in names.iter().filter_map(|name| store_of(name)) {
            // somebody may have died after making the folder
            if !self.record_numbers(store)?.is_empty() {
                stores.push(store);
            }
        }
        Ok(stores)
    }

    fn record_numbers(&self, store: Uuid) -> Result<Vec<u64>> {
        Ok(disk::names(&self.records_folder(store))?.iter().filter_map(|name| names::number(name)).collect())
    }

    /// A record; `None` if it is not there, or no longer.
    fn record(&self, store: Uuid, number: u64) -> Result<Option<Record>> {
        let path = self.records_folder(store).join(names::numbered(number));
        let Some(content) = disk::read(&path)? else {
            return Ok(None);
        };
        let record: Result<Record, _> = from_json(&content);
        let record = record.map_err(|error| FileQueueError::torn("record of a relay", &path, error))?;
        match record.store == store {
            true => Ok(Some(record)),
            false => Err(FileQueueError::torn("record of a relay", path, "it is of another store")),
        }
    }

    /// How far a store is published; `None` if nobody began.
    pub(super) fn relayed(&self, store: Uuid) -> Result<Option<Relayed>> {
        loop {
            let Some(number) = self.record_numbers(store)?.into_iter().max() else {
                self.relays().remove(&store);
                return Ok(None);
            };
            let Some(mut relayed) = self.written(store, number)? else {
                continue;
            };
            let first = relayed.now.through + 1;
            self.look_on(&mut relayed)?;
            let removed = self.log.removed_through()?;
            if removed >= first && self.record_numbers(store)?.into_iter().max() != Some(number) {
                continue; // whoever removed what we were about to look at wrote down what it told
            }
            relayed.now.through = relayed.now.through.max(removed);
            self.relays().insert(store, relayed.clone());
            return Ok(Some(relayed));
        }
    }

    /// What was written down, or was looked at since.
    fn written(&self, store: Uuid, number: u64) -> Result<Option<Relayed>> {
        let known = self.relays().get(&store).cloned();
        if let Some(known) = &known
            && known.number == number
        {
            return Ok(Some(known.clone()));
        }
        let Some(record) = self.record(store, number)? else {
            return Ok(None);
        };
        let (written_through, epoch) = (record.through, record.epoch);
        let mut now = record;
        if let Some(known) = known
            && known.number < number
            && known.now.through > now.through
        {
            now = known.now;
            now.epoch = now.epoch.max(epoch);
        }
        Ok(Some(Relayed { number, written_through, now, is_undecided: false }))
    }

    /// Looks at the events that came since, up to the first id that is missing.
    fn look_on(&self, relayed: &mut Relayed) -> Result<()> {
        let head = self.log.head()?;
        relayed.is_undecided = false;
        for id in relayed.now.through + 1..=head {
            match self.log.file(id) {
                Ok(None) => {
                    relayed.is_undecided = true;
                    break;
                }
                Ok(file) => relayed.now.take_in(id, file.as_ref()),
                Err(FileQueueError::Torn { .. }) => relayed.now.take_in(id, None),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes down how far a store is published. `false`: somebody else has just written.
    pub(super) fn write_record(&self, relayed: &mut Relayed) -> Result<bool> {
        let number = relayed.number + 1;
        let folder = self.records_folder(relayed.now.store);
        let removed = self.log.removed_through()?;
        relayed.now.begun.retain(|begun| begun.id > removed);
        (relayed.now.written_at, relayed.now.worker_id) = (event::now(), self.worker.clone());
        let content = event::pretty("the record of a relay", &relayed.now)?;
        if !self.disk.create(&folder.join(names::numbered(number)), &content)? {
            return Ok(false);
        }
        (relayed.number, relayed.written_through) = (number, relayed.now.through);
        self.relays().insert(relayed.now.store, relayed.clone());
        // the one before stays: whoever lists the folder just now sees one of them
        for older in self.record_numbers(relayed.now.store)?.into_iter().filter(|older| older + 1 < number) {
            self.disk.remove(&folder.join(names::numbered(older)))?;
        }
        Ok(true)
    }

    /// The first record of a store. `false`: there is one.
    pub(super) fn begin_record(&self, store: Uuid, epoch: u64, after: u64) -> Result<bool> {
        let id = self.log.head()?;
        let now = Record {
            store,
            epoch,
            position: after,
            event_id: None,
            through: id,
            begun: vec![Begun { id, after }],
            written_at: event::now(),
            worker_id: self.worker.clone(),
        };
        self.write_record(&mut Relayed { number: 0, written_through: 0, now, is_undecided: false })
    }

    /// Keeps what is known in memory, and writes it down now and then.
    pub(super) fn keep(&self, relayed: &mut Relayed) -> Result<()> {
        self.relays().insert(relayed.now.store, relayed.clone());
        if relayed.now.through >= relayed.written_through + OFTEN {
            self.write_record(relayed)?;
        }
        Ok(())
    }

    /// Writes down how far each store is published, before the events go that tell it.
    pub(crate) fn note_relayed(&self) -> Result<()> {
        for store in self.relayed_stores()? {
            while let Some(mut relayed) = self.relayed(store)? {
                if self.write_record(&mut relayed)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Refuses a file that is no record, for those who look at all files.
    pub(crate) fn check_record(&self, store: Uuid, number: u64) -> Result<()> {
        self.record(store, number).map(drop)
    }
}

/// The store that a folder of records is named by.
pub(crate) fn store_of(name: &str) -> Option<Uuid> {
    Uuid::try_parse(name).ok().filter(|store| store.to_string() == name)
}
