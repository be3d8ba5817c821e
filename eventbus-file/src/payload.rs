//! Large payloads, in compressed files of their own.
//!
//! Invariant: a publisher writes the payload before the event that names it. A crash leaves a payload that no event
//! names, never an event without its payload.
//!
//! Real time, not the given clock: the name of a payload is unique among workers.

use std::{
    io::{Read as _, Write as _},
    path::PathBuf,
    sync::Arc,
};

use eventbus::{BoxError, RecordedEvent, event::FieldError, support::from_json};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use serde::de::IgnoredAny;
use uuid::Uuid;

use crate::{
    disk::{self, Disk, FILE_BYTES_MAX},
    error::{FileQueueError, Result},
    names,
};

/// Suffix of the names of these files.
const PAYLOAD_SUFFIX: &str = ".json.gz";

#[derive(Debug, Clone)]
pub(crate) struct PayloadFiles {
    disk: Arc<Disk>,
    folder: PathBuf,
    /// Smallest payload in bytes that is compressed.
    compress_from: Option<usize>,
}

impl PayloadFiles {
    pub(crate) fn new(disk: Arc<Disk>, compress_from: Option<usize>) -> Self {
        let folder = disk.root().join(names::PAYLOADS);
        Self { disk, folder, compress_from }
    }

    /// Writes the payload of an event into a file of its own if it is large; returns the name of the file, which
    /// [`path`](Self::path) finds.
    pub(crate) fn write(&self, record: &RecordedEvent) -> Result<Option<String>> {
        let length = record.payload().len();
        if self.compress_from.is_none_or(|from| length < from) {
            return Ok(None);
        }
        let event_id = record.metadata().event_id();
        check_json(record.payload()).map_err(|source| FileQueueError::Unwritable { event_id, source })?;
        let name = format!("{}{PAYLOAD_SUFFIX}", Uuid::now_v7());
        let path = self.folder.join(&name);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let compressed = encoder.write_all(record.payload().as_bytes()).and_then(|()| encoder.finish());
        self.disk.create(&path, &compressed.map_err(FileQueueError::io("compress", &path))?)?;
        Ok(Some(name))
    }

    pub(crate) fn read(&self, name: &str) -> Result<String> {
        let path = self.path(name)?;
        let torn = |source: BoxError| FileQueueError::torn("compressed payload", &path, source);
        let content = disk::read(&path)?.ok_or_else(|| torn("it is not there".into()))?;
        let mut payload = String::new();
        let mut decoder = GzDecoder::new(&content[..]).take(FILE_BYTES_MAX + 1);
        decoder.read_to_string(&mut payload).map_err(|error| torn(error.into()))?;
        if payload.len() as u64 > FILE_BYTES_MAX {
            return Err(torn("it is larger than any that is written".into()));
        }
        check_json(&payload).map_err(|error| torn(error.into()))?;
        Ok(payload)
    }

    pub(crate) fn remove(&self, name: &str) -> Result<bool> {
        self.disk.remove(&self.path(name)?)
    }

    /// Returns the path of a payload; refuses a name that no payload has, because an event may come from a foreign
    /// program.
    pub(crate) fn path(&self, name: &str) -> Result<PathBuf> {
        match is_payload_name(name) {
            true => Ok(self.folder.join(name)),
            false => {
                let reason = "it is no id with the end of such files";
                Err(FileQueueError::invalid_name("name of a payload", name, reason))
            }
        }
    }
}

pub(crate) fn is_payload_name(name: &str) -> bool {
    name.strip_suffix(PAYLOAD_SUFFIX).is_some_and(|stem| Uuid::try_parse(stem).is_ok_and(|id| id.to_string() == stem))
}

fn check_json(payload: &str) -> Result<(), FieldError> {
    from_json::<IgnoredAny>(payload).map(drop)
}
