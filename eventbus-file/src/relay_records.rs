//! The published positions of stores, as numbered records: the highest number counts.
//!
//! Invariant: only one worker can create the record of a number, so a delayed relay cannot put an older position in the
//! place of a newer one.

use std::{path::PathBuf, sync::Arc};

use eventbus::{EventId, Position, relay::PublishedPosition};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    disk::{self, Disk},
    error::{FileQueueError, Result},
    event::{now, to_pretty_json},
    names,
};

/// Published position of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RelayRecord {
    pub(crate) store: Uuid,
    /// Every event of the store up to this position is published.
    pub(crate) position: u64,
    /// The event at the position; `None` if the position was set, or the relay skips that event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) event_id: Option<EventId>,
    #[serde(with = "time::serde::rfc3339")]
    written_at: OffsetDateTime,
    worker_id: String,
}

impl RelayRecord {
    pub(crate) fn published_position(&self) -> PublishedPosition {
        PublishedPosition { position: Position::new(self.position), event_id: self.event_id }
    }
}

/// The records of the stores whose relays publish to the queue: a folder per store.
#[derive(Debug)]
pub(crate) struct RelayRecords {
    disk: Arc<Disk>,
    worker_id: String,
}

impl RelayRecords {
    pub(crate) const fn new(disk: Arc<Disk>, worker_id: String) -> Self {
        Self { disk, worker_id }
    }

    fn folder(&self, store: Uuid) -> PathBuf {
        self.disk.root().join(names::RELAYS).join(store.to_string())
    }

    /// Returns a different store that is, or was, published here.
    pub(crate) fn find_other_store(&self, own: Uuid) -> Result<Option<Uuid>> {
        let names = disk::list_names(&self.disk.root().join(names::RELAYS))?;
        for store in names.iter().filter_map(|name| parse_store_id(name)).filter(|store| *store != own) {
            // a worker may have died after it made the folder
            if !disk::list_numbers(&self.folder(store))?.is_empty() {
                return Ok(Some(store));
            }
        }
        Ok(None)
    }

    /// Reads a record; `None` if it does not exist, or no longer.
    pub(crate) fn read(&self, store: Uuid, number: u64) -> Result<Option<RelayRecord>> {
        let path = self.folder(store).join(names::file_name(number));
        match disk::read_json::<RelayRecord>(&path, "record of a relay")? {
            Some(record) if record.store != store => {
                Err(FileQueueError::torn("record of a relay", path, "it is of another store"))
            }
            record => Ok(record),
        }
    }

    /// Returns the last record of a store, with its number; `None` if no relay began to publish it.
    pub(crate) fn load_last(&self, store: Uuid) -> Result<Option<(u64, RelayRecord)>> {
        while let Some(number) = disk::list_numbers(&self.folder(store))?.into_iter().max() {
            // a relay may have written later records since, and removed this one
            if let Some(record) = self.read(store, number)? {
                return Ok(Some((number, record)));
            }
        }
        Ok(None)
    }

    /// Writes the record of a number. Returns `false` if a different worker wrote one with this number.
    pub(crate) fn create(
        &self,
        number: u64,
        store: Uuid,
        PublishedPosition { position, event_id }: PublishedPosition,
    ) -> Result<bool> {
        let (written_at, worker_id, folder) = (now(), self.worker_id.clone(), self.folder(store));
        let record = RelayRecord { store, position: position.get(), event_id, written_at, worker_id };
        let content = to_pretty_json("the record of a relay", &record)?;
        if !self.disk.create(&folder.join(names::file_name(number)), &content)? {
            return Ok(false);
        }
        // the record before stays: a worker that lists the folder meanwhile sees at least one of the two
        for older in disk::list_numbers(&folder)?.into_iter().filter(|older| older + 1 < number) {
            self.disk.remove(&folder.join(names::file_name(older)))?;
        }
        Ok(true)
    }
}

pub(crate) fn parse_store_id(name: &str) -> Option<Uuid> {
    Uuid::try_parse(name).ok().filter(|store| store.to_string() == name)
}
