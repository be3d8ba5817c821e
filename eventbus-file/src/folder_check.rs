//! The check of a queue's folder for foreign and torn files.
//!
//! Invariant: the check reports problems and repairs none; no function here writes.

use std::{
    collections::HashSet,
    error::Error as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Serialize, Serializer};

use crate::{
    disk::{self, TMP_FOLDER, TMP_SUFFIX},
    error::{FileQueueError, Result},
    inner::{QueueInner, join_task},
    log::LogEntry,
    names, payload,
    relay_records::parse_store_id,
};

/// A file or folder that the queue cannot use, and leaves as it is.
#[derive(Debug, Serialize)]
#[serde(tag = "problem", rename_all = "snake_case")]
#[non_exhaustive]
pub enum FolderProblem {
    /// A queue has no file or folder of this name there.
    Foreign {
        /// The file or folder.
        #[serde(serialize_with = "path_text")]
        path: PathBuf,
    },
    /// A file that is named like a file of a queue, but does not hold what such a file holds.
    Torn {
        /// The file.
        #[serde(serialize_with = "path_text")]
        path: PathBuf,
        /// The reason.
        #[serde(serialize_with = "error_text")]
        error: FileQueueError,
    },
    /// A payload that no event names: its publisher died, or is about to publish.
    UnusedPayload {
        /// The file.
        #[serde(serialize_with = "path_text")]
        path: PathBuf,
    },
}

/// Serializes a path as text, also where it is not UTF-8.
fn path_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

fn error_text<S: Serializer>(error: &FileQueueError, serializer: S) -> Result<S::Ok, S::Error> {
    match error.source() {
        Some(why) => serializer.collect_str(&format_args!("{error}: {why}")),
        None => serializer.collect_str(error),
    }
}

impl FolderProblem {
    /// Returns the path of the file or folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Foreign { path } | Self::Torn { path, .. } | Self::UnusedPayload { path } => path,
        }
    }
}

/// Findings of a check so far.
#[derive(Debug, Default)]
struct FolderScan {
    problems: Vec<FolderProblem>,
    payloads: HashSet<String>,
}

impl FolderScan {
    /// Returns the names in a folder that belong there; reports the rest as foreign.
    fn list_known<T>(&mut self, folder: &Path, known: impl Fn(&str) -> Option<T>) -> Result<Vec<T>> {
        if folder.is_file() {
            self.problems.push(FolderProblem::Foreign { path: folder.into() });
            return Ok(Vec::new());
        }
        let mut names = disk::list_all_names(folder)?;
        names.sort_unstable();
        let mut belonging = Vec::new();
        for name in names {
            match name.to_str().and_then(&known) {
                Some(name) => belonging.push(name),
                None => self.problems.push(FolderProblem::Foreign { path: folder.join(name) }),
            }
        }
        Ok(belonging)
    }

    fn add_torn(&mut self, path: PathBuf, checked: Result<()>) -> Result<()> {
        match checked {
            Err(error @ (FileQueueError::Torn { .. } | FileQueueError::InvalidName { .. })) => {
                self.problems.push(FolderProblem::Torn { path, error });
                Ok(())
            }
            other => other,
        }
    }
}

fn check_folder(queue: &QueueInner) -> Result<Vec<FolderProblem>> {
    let mut found = FolderScan::default();
    let is_known = |name: &str| names::FOLDERS.contains(&name) || name == TMP_FOLDER || name == names::QUEUE_FILE;
    found.list_known(queue.disk().root(), |name| is_known(name).then_some(()))?;
    found.add_torn(queue.disk().root().join(names::QUEUE_FILE), queue.disk().check_identity())?;
    check_events(queue, &mut found)?;
    check_results(queue, &mut found)?;
    let claims = queue.claims();
    for id in found.list_known(claims.folder(), names::decode)? {
        let folder = claims.folder_of(&id)?;
        for epoch in found.list_known(&folder, names::parse_file_name)? {
            found.add_torn(folder.join(names::file_name(epoch)), claims.load_epoch(&id, epoch).map(drop))?;
        }
    }
    let folder = queue.disk().root().join(names::DEAD_LETTERS);
    for id in found.list_known(&folder, names::parse_file_name)? {
        found.add_torn(folder.join(names::file_name(id)), queue.dead_letters().load(id).map(drop))?;
    }
    found.list_known(&queue.disk().root().join(names::REMOVED), names::parse_file_name)?;
    check_relays(queue, &mut found)?;
    found.list_known(&queue.disk().root().join(TMP_FOLDER), |name| name.ends_with(TMP_SUFFIX).then_some(()))?;
    check_payloads(queue, &mut found)?;
    Ok(found.problems)
}

fn check_events(queue: &QueueInner, found: &mut FolderScan) -> Result<()> {
    let events = queue.disk().root().join(names::EVENTS);
    let near = queue.log().shards()?;
    for shard in found.list_known(&events, |name| names::parse_shard_name(name).filter(|shard| near.contains(shard)))? {
        let folder = events.join(names::shard_name(shard));
        let of_shard = |name: &str| names::parse_file_name(name).filter(|id| names::shard_index(*id) == shard);
        for id in found.list_known(&folder, of_shard)? {
            if let LogEntry::Torn(error) = queue.log().read(id)? {
                found.problems.push(FolderProblem::Torn { path: queue.log().path(id), error });
            }
            found.payloads.extend(queue.log().find_payload_file(id)?);
        }
    }
    Ok(())
}

fn check_results(queue: &QueueInner, found: &mut FolderScan) -> Result<()> {
    let results = queue.disk().root().join(names::RESULTS);
    for shard in found.list_known(&results, names::parse_shard_name)? {
        let folder = results.join(names::shard_name(shard));
        let of_shard = |name: &str| names::parse_file_name(name).filter(|id| names::shard_index(*id) == shard);
        for id in found.list_known(&folder, of_shard)? {
            found.add_torn(queue.results().path(id), queue.results().load_result(id).map(drop))?;
        }
    }
    Ok(())
}

fn check_relays(queue: &QueueInner, found: &mut FolderScan) -> Result<()> {
    let relays = queue.disk().root().join(names::RELAYS);
    for store in found.list_known(&relays, parse_store_id)? {
        let folder = relays.join(store.to_string());
        for number in found.list_known(&folder, names::parse_file_name)? {
            found.add_torn(folder.join(names::file_name(number)), queue.relays().read(store, number).map(drop))?;
        }
    }
    Ok(())
}

fn check_payloads(queue: &QueueInner, found: &mut FolderScan) -> Result<()> {
    let folder = queue.disk().root().join(names::PAYLOADS);
    let payloads = found.list_known(&folder, |name| payload::is_payload_name(name).then(|| name.to_owned()))?;
    let unused = payloads.into_iter().filter(|name| !found.payloads.contains(name));
    let unused: Vec<_> = unused.map(|name| FolderProblem::UnusedPayload { path: folder.join(name) }).collect();
    found.problems.extend(unused);
    Ok(())
}

pub(crate) async fn check(queue: &Arc<QueueInner>) -> Result<Vec<FolderProblem>> {
    // not by `blocking`, which fails if `queue.json` is unreadable
    let queue = Arc::clone(queue);
    join_task(tokio::task::spawn_blocking(move || check_folder(&queue))).await
}
