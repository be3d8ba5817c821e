//! An event on disk that has no id yet.
//!
//! Invariant: dropping the event removes its payload, unless the event has an id. So a publisher that fails, or
//! whose task ends, at any point before it links the event leaves no payload that no event names.

use std::{fs, path::PathBuf};

use crate::disk::StagedFile;

/// An event on disk that has no id yet; dropping it removes its files, unless the link to an id may have succeeded.
#[derive(Debug)]
pub(crate) struct StagedEvent {
    file: StagedFile,
    /// The payload, if it is in a file of its own.
    payload_path: Option<PathBuf>,
}

impl StagedEvent {
    pub(crate) const fn new(file: StagedFile, payload_path: Option<PathBuf>) -> Self {
        Self { file, payload_path }
    }

    pub(crate) const fn file(&self) -> &StagedFile {
        &self.file
    }

    /// Ends the staging of an event that has an id now: its payload stays.
    pub(crate) fn finish(mut self) {
        self.payload_path = None;
    }
}

impl Drop for StagedEvent {
    fn drop(&mut self) {
        if let Some(path) = self.payload_path.take().filter(|_| self.file.has_no_name()) {
            // if it stays, `check` reports it as unused
            let _ = fs::remove_file(path);
        }
    }
}
