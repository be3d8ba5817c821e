//! What processes note while they work, in one file that survives the death of each of them.
//!
//! Keep: a note is one write in append mode that begins with the line break. So notes of many processes never mix, their
//! order in the file is the order in which they were made, and one that `kill -9` tore spoils no other.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::Path,
};

use eventbus::{RecordedEvent, Uuid};
use serde::{Deserialize, Serialize};

use super::HarnessError;

/// One thing that happened, noted by whom it happened to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistoryEntry {
    /// Somebody appended, or was told what came of it.
    Told(AppendRecord),
    /// A handler or projection without a transaction is done with an event.
    Handled {
        /// Who it was.
        reader: String,
        /// The event.
        event: Uuid,
        /// The epoch of the lease under which it worked, 0 if there is none.
        epoch: u64,
    },
}

/// What somebody who appends did or was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppendRecord {
    /// An append is about to be sent; these are its events.
    Sent(Vec<Uuid>),
    /// An append was acknowledged; there its events are.
    Stored(Vec<StoredAt>),
    /// An append was refused for good, by a conflict for example.
    Refused(Vec<Uuid>),
}

/// Where an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredAt {
    /// The event.
    pub event: Uuid,
    /// Its version in its stream.
    pub version: u64,
    /// Its position in the store, 0 if nobody said.
    pub position: u64,
}

impl From<&RecordedEvent> for StoredAt {
    fn from(record: &RecordedEvent) -> Self {
        Self {
            event: record.metadata().event_id().as_uuid(),
            version: record.version().get(),
            position: record.position().map_or(0, |position| position.get()),
        }
    }
}

/// Makes notes.
#[derive(Debug)]
pub struct HistoryWriter(File);

impl HistoryWriter {
    /// Opens the file, which other processes may have open too, and makes it if need be.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn open(path: &Path) -> Result<Self, HarnessError> {
        Ok(Self(OpenOptions::new().create(true).append(true).open(path)?))
    }

    /// Makes a note; it is safe from the death of this process when this returns.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn append(&self, note: &HistoryEntry) -> Result<(), HarnessError> {
        let line = format!("\n{}", serde_json::to_string(note)?);
        // by `write_all` a torn first half could be followed by another process's note
        let written = (&self.0).write(line.as_bytes())?;
        if written == line.len() { Ok(()) } else { Err("a note was written in part".into()) }
    }
}

/// What was noted, in the order in which it was.
#[derive(Debug, Default)]
pub struct History {
    /// The notes.
    pub entries: Vec<HistoryEntry>,
    /// How many were torn: their writers died while they made them.
    pub torn: usize,
}

impl History {
    /// Reads a file of notes; one that does not exist has none.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn read(path: &Path) -> Result<Self, HarnessError> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let bytes = std::fs::read(path)?;
        let mut history = Self::default();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(note) => history.entries.push(note),
                Err(_) => history.torn += 1,
            }
        }
        Ok(history)
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    #[test]
    fn a_torn_note_spoils_no_other() {
        let path = std::env::temp_dir().join(test_servers::unique_name("history"));
        let notebook = HistoryWriter::open(&path).unwrap();
        let note = HistoryEntry::Told(AppendRecord::Refused(vec![Uuid::now_v7()]));
        notebook.append(&note).unwrap();
        (&notebook.0).write_all(b"\n{\"told\":{\"ref").unwrap();
        notebook.append(&note).unwrap();
        let history = History::read(&path).unwrap();
        assert_eq!((history.entries, history.torn), (vec![note.clone(), note], 1));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn notes_of_many_do_not_mix() {
        let path = std::env::temp_dir().join(test_servers::unique_name("history"));
        let writers: Vec<_> = (0..4)
            .map(|_| {
                let notebook = HistoryWriter::open(&path).unwrap();
                thread::spawn(move || {
                    for _ in 0..500 {
                        notebook.append(&HistoryEntry::Told(AppendRecord::Sent(vec![Uuid::now_v7(); 3]))).unwrap();
                        thread::sleep(Duration::ZERO);
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        let history = History::read(&path).unwrap();
        assert_eq!((history.entries.len(), history.torn), (2_000, 0));
        std::fs::remove_file(path).unwrap();
    }
}
