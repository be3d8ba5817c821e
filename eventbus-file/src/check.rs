//! What does not belong in the folder of a queue, or holds nothing.
//!
//! Keep: it is told and left alone. Nothing here writes.

use std::{
    collections::HashSet,
    error::Error as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Serialize, Serializer};

use crate::{
    FileQueue,
    bus::is_letter_name,
    disk::{self, TMP, TMP_END},
    error::{FileQueueError, Result},
    log::Slot,
    names, payload,
    queue::{Shared, joined},
    relay::store_of,
};

/// A file or folder that the queue does not know what to do with, and leaves alone.
#[derive(Debug, Serialize)]
#[serde(tag = "problem", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Problem {
    /// No file of a queue has such a name there.
    Foreign {
        /// The file or folder.
        #[serde(serialize_with = "path_text")]
        path: PathBuf,
    },
    /// It has the name of a file of a queue, and does not hold such a thing.
    Torn {
        /// The file.
        #[serde(serialize_with = "path_text")]
        path: PathBuf,
        /// What is wrong with it.
        #[serde(serialize_with = "error_text")]
        error: FileQueueError,
    },
    /// A payload that no event names; its publisher died, or is about to publish.
    UnusedPayload {
        /// The file.
        #[serde(serialize_with = "path_text")]
        path: PathBuf,
    },
}

/// As text, also where it is not UTF-8.
fn path_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// What is wrong, and why.
fn error_text<S: Serializer>(error: &FileQueueError, serializer: S) -> Result<S::Ok, S::Error> {
    match error.source() {
        Some(why) => serializer.collect_str(&format_args!("{error}: {why}")),
        None => serializer.collect_str(error),
    }
}

impl Problem {
    /// The file or folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Foreign { path } | Self::Torn { path, .. } | Self::UnusedPayload { path } => path,
        }
    }
}

/// What was found so far.
#[derive(Debug, Default)]
struct Found {
    problems: Vec<Problem>,
    payloads: HashSet<String>,
}

impl Found {
    /// The names in a folder that belong there; the others are foreign.
    fn names<T>(&mut self, folder: &Path, known: impl Fn(&str) -> Option<T>) -> Result<Vec<T>> {
        if folder.is_file() {
            self.problems.push(Problem::Foreign { path: folder.into() });
            return Ok(Vec::new());
        }
        let mut names = disk::all_names(folder)?;
        names.sort_unstable();
        let mut belonging = Vec::new();
        for name in names {
            match name.to_str().and_then(&known) {
                Some(name) => belonging.push(name),
                None => self.problems.push(Problem::Foreign { path: folder.join(name) }),
            }
        }
        Ok(belonging)
    }

    fn torn(&mut self, path: PathBuf, checked: Result<()>) -> Result<()> {
        match checked {
            Err(error @ (FileQueueError::Torn { .. } | FileQueueError::InvalidName { .. })) => {
                self.problems.push(Problem::Torn { path, error });
                Ok(())
            }
            other => other,
        }
    }
}

impl Shared {
    fn check(&self) -> Result<Vec<Problem>> {
        let mut found = Found::default();
        let is_known = |name: &str| names::FOLDERS.contains(&name) || name == TMP || name == names::QUEUE;
        found.names(self.disk.root(), |name| is_known(name).then_some(()))?;
        found.torn(self.disk.root().join(names::QUEUE), self.disk.identity().map(drop))?;
        self.check_events(&mut found)?;
        self.check_results(&mut found)?;
        for claims in [&self.claims, &self.groups] {
            for id in found.names(claims.folder(), names::decoded)? {
                let folder = claims.folder_of(&id)?;
                for epoch in found.names(&folder, names::number)? {
                    let path = folder.join(names::numbered(epoch));
                    found.torn(path, claims.of_epoch(&id, epoch).map(drop))?;
                }
            }
        }
        for folder in [names::DEAD_LETTERS, names::REPLAYS] {
            let folder = self.disk.root().join(folder);
            for name in found.names(&folder, |name| is_letter_name(name).then(|| name.to_owned()))? {
                found.torn(folder.join(&name), crate::bus::check_letter(&folder.join(&name)))?;
            }
        }
        found.names(&self.disk.root().join(names::REMOVED), names::number)?;
        self.check_relays(&mut found)?;
        found.names(&self.disk.root().join(TMP), |name| name.ends_with(TMP_END).then_some(()))?;
        self.check_payloads(&mut found)?;
        Ok(found.problems)
    }

    fn check_events(&self, found: &mut Found) -> Result<()> {
        let events = self.disk.root().join(names::EVENTS);
        let near = self.log.shards()?;
        for shard in found.names(&events, |name| names::shard_number(name).filter(|shard| near.contains(shard)))? {
            let folder = events.join(names::shard_of(shard));
            let of_shard = |name: &str| names::number(name).filter(|id| names::shard_index(*id) == shard);
            for id in found.names(&folder, of_shard)? {
                if let Slot::Torn(error) = self.log.read(id)? {
                    found.problems.push(Problem::Torn { path: self.log.path(id), error });
                }
                found.payloads.extend(self.log.payload_file(id)?);
            }
        }
        Ok(())
    }

    fn check_results(&self, found: &mut Found) -> Result<()> {
        let results = self.disk.root().join(names::RESULTS);
        for shard in found.names(&results, names::shard_number)? {
            let folder = results.join(names::shard_of(shard));
            let of_shard = |name: &str| names::number(name).filter(|id| names::shard_index(*id) == shard);
            for id in found.names(&folder, of_shard)? {
                found.torn(self.result_path(id), self.read_result(id).map(drop))?;
            }
        }
        Ok(())
    }

    fn check_relays(&self, found: &mut Found) -> Result<()> {
        let relays = self.disk.root().join(names::RELAYS);
        for store in found.names(&relays, store_of)? {
            let folder = relays.join(store.to_string());
            for number in found.names(&folder, names::number)? {
                found.torn(folder.join(names::numbered(number)), self.check_record(store, number))?;
            }
        }
        Ok(())
    }

    fn check_payloads(&self, found: &mut Found) -> Result<()> {
        let folder = self.disk.root().join(names::PAYLOADS);
        let payloads = found.names(&folder, |name| payload::is_name(name).then(|| name.to_owned()))?;
        let unused = payloads.into_iter().filter(|name| !found.payloads.contains(name));
        let unused: Vec<_> = unused.map(|name| Problem::UnusedPayload { path: folder.join(name) }).collect();
        found.problems.extend(unused);
        Ok(())
    }
}

impl FileQueue {
    /// Looks at every file of the queue, and tells which do not belong there or hold nothing. They are left alone: a
    /// consumer makes a torn event a dead letter of its group and goes on, and [`next_work`](Self::next_work) passes it
    /// over.
    ///
    /// # Errors
    /// [`FileQueueError::Io`] if a file cannot be read.
    pub async fn check(&self) -> Result<Vec<Problem>> {
        // works without a readable `queue.json`, too
        let shared = Arc::clone(&self.shared);
        joined(tokio::task::spawn_blocking(move || shared.check())).await
    }
}
