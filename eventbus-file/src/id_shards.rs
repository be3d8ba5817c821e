//! Folders with a file per id, a thousand to a folder.
//!
//! Invariant: memory holds at most a thousand ids at once, however many there are.

use std::path::{Path, PathBuf};

use crate::{disk, error::Result, names};

/// Returns the folders of a thousand ids in a folder, sorted.
pub(crate) fn list_shards(folder: &Path) -> Result<Vec<u64>> {
    let mut shards: Vec<u64> =
        disk::list_names(folder)?.iter().filter_map(|name| names::parse_shard_name(name)).collect();
    shards.sort_unstable();
    Ok(shards)
}

/// Returns the ids that have files in one of these, sorted.
pub(crate) fn list_shard_ids(folder: &Path, shard: u64) -> Result<Vec<u64>> {
    let mut ids = disk::list_numbers(&folder.join(names::shard_name(shard)))?;
    ids.retain(|id| names::shard_index(*id) == shard);
    ids.sort_unstable();
    Ok(ids)
}

/// Returns the ids that have files in some of these, from one on; lists each folder when the iterator reaches it.
pub(crate) fn ids_from(folder: PathBuf, shards: Vec<u64>, first: u64) -> impl Iterator<Item = Result<u64>> {
    let shards = shards.into_iter().filter(move |shard| *shard >= names::shard_index(first));
    let ids = shards.flat_map(move |shard| match list_shard_ids(&folder, shard) {
        Ok(ids) => ids.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    });
    ids.filter(move |id| id.as_ref().map_or(true, |id| *id >= first))
}
