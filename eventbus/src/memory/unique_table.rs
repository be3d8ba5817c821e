//! The unique values of the streams in memory.

use std::collections::{HashMap, HashSet};

use crate::{
    domain::{name::Name, stream::StreamId, unique::UniqueChange},
    port::{AppendError, unique_values::UniqueKey},
};

/// Which stream holds which value.
#[derive(Debug, Default)]
pub(super) struct UniqueTable {
    holders: HashMap<UniqueKey, StreamId>,
    /// The value of each name that a stream holds.
    held: HashMap<(StreamId, Name), UniqueKey>,
}

impl UniqueTable {
    pub(super) fn holder(&self, key: &UniqueKey) -> Option<&StreamId> {
        self.holders.get(key)
    }

    /// Makes the changes of several streams, all of them or none; each stream has at most one change for a name.
    pub(super) fn change(&mut self, changes: &[(&StreamId, Vec<UniqueChange>)]) -> Result<(), AppendError> {
        let each = || changes.iter().flat_map(|(stream, changes)| changes.iter().map(move |change| (*stream, change)));
        if each().next().is_none() {
            return Ok(());
        }
        let held =
            |(stream, change): (&StreamId, &UniqueChange)| self.held.get(&(stream.clone(), change.name().clone()));
        let given_back: HashSet<&UniqueKey> = each().filter_map(held).collect();
        let mut taken = HashSet::new();
        for (stream, change) in each() {
            let Some(key) = UniqueKey::taken_by(stream, change) else { continue };
            let is_held = self.holders.contains_key(&key) && !given_back.contains(&key);
            if is_held || !taken.insert(key) {
                return Err(AppendError::Taken { stream: stream.clone(), name: change.name().clone() });
            }
        }
        for (stream, change) in each() {
            if let Some(key) = self.held.remove(&(stream.clone(), change.name().clone())) {
                self.holders.remove(&key);
            }
        }
        for (stream, change) in each() {
            if let Some(key) = UniqueKey::taken_by(stream, change) {
                self.holders.insert(key.clone(), stream.clone());
                self.held.insert((stream.clone(), change.name().clone()), key);
            }
        }
        Ok(())
    }
}
