//! The records that processes write while they work, in one file that survives their deaths.
//!
//! Invariant: a record is one write in append mode that begins with the line break. So the records of many processes
//! never mix, their order in the file is the order of the writes, and a record torn by `kill -9` damages no other.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::Path,
};

use eventbus::{RecordedEvent, Uuid};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::HarnessError;

/// One record, written by the process that it concerns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistoryEntry {
    /// An append, or its answer.
    Told(AppendRecord),
    /// A handler or projection without a transaction has finished an event.
    Handled {
        /// Its name.
        reader: String,
        /// The event.
        event: Uuid,
        /// The epoch of the lease under which it worked, 0 without a lease.
        epoch: u64,
    },
}

/// A record of an appender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppendRecord {
    /// An append is about to be sent, with these events.
    Sent(Vec<Uuid>),
    /// An append was acknowledged, with its events stored at these places.
    Stored(Vec<StoredAt>),
    /// An append was refused for good, such as by a conflict.
    Refused(Vec<Uuid>),
}

/// The place of a stored event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredAt {
    /// The event.
    pub event: Uuid,
    /// Its version in its stream.
    pub version: u64,
    /// Its position in the store, 0 if the answer had none.
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

/// Writes records.
#[derive(Debug)]
pub struct HistoryWriter(File);

impl HistoryWriter {
    /// Opens or creates the file, which other processes may have open too.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn open(path: &Path) -> Result<Self, HarnessError> {
        Ok(Self(OpenOptions::new().create(true).append(true).open(path)?))
    }

    /// Writes a record. After the return it survives the death of this process.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn append(&self, note: &impl Serialize) -> Result<(), HarnessError> {
        let line = format!("\n{}", serde_json::to_string(note)?);
        // after a torn `write_all` the record of a second process could follow the first half
        let written = (&self.0).write(line.as_bytes())?;
        if written == line.len() { Ok(()) } else { Err("a note was written in part".into()) }
    }
}

/// The records in the order in which they were written.
#[derive(Debug, Default)]
pub struct History {
    /// The records.
    pub entries: Vec<HistoryEntry>,
    /// Number of torn records: their writers died while writing them.
    pub torn: usize,
}

impl History {
    /// Reads the records of a file; a missing file has none.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn read(path: &Path) -> Result<Self, HarnessError> {
        let (entries, torn) = if path.exists() { read_records(path)? } else { Default::default() };
        Ok(Self { entries, torn })
    }
}

/// Reads the records of a file in the order in which they were written, and the number of torn ones.
pub(super) fn read_records<T: DeserializeOwned>(path: &Path) -> Result<(Vec<T>, usize), HarnessError> {
    let bytes = std::fs::read(path)?;
    let lines: Vec<_> = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    let records: Vec<T> = lines.iter().filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let torn = lines.len() - records.len();
    Ok((records, torn))
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    #[test]
    fn a_torn_note_spoils_no_other() {
        let path = std::env::temp_dir().join(eventbus_test::unique_name("history"));
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
        let path = std::env::temp_dir().join(eventbus_test::unique_name("history"));
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
