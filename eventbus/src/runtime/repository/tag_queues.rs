//! Decisions of one process that wait for each other, in order.
//!
//! Invariant: a decision takes the turns of its tags in the order of the tags, so that no two wait in a circle.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};
use uuid::Uuid;

use crate::domain::tag::Tag;

type TagKey = (Option<Uuid>, Tag);

/// The decisions about each tag: one at a time is made. A second one would only find that its boundary has moved.
#[derive(Debug, Default)]
pub(crate) struct TagQueues(Mutex<HashMap<TagKey, Arc<Turn<()>>>>);

/// The turns of a decision; gives them to the next ones when dropped.
pub(super) struct Turns<'a> {
    queues: &'a TagQueues,
    held: Vec<(TagKey, OwnedMutexGuard<()>)>,
}

impl TagQueues {
    /// Waits for the turn at each tag.
    pub(super) async fn line_up(&self, tenant_id: Option<Uuid>, tags: BTreeSet<&Tag>) -> Turns<'_> {
        let mut turns = Turns { queues: self, held: Vec::new() };
        for tag in tags {
            let key = (tenant_id, tag.clone());
            let turn = Arc::clone(self.0.lock().entry(key.clone()).or_default());
            turns.held.push((key, turn.lock_owned().await));
        }
        turns
    }
}

impl Drop for Turns<'_> {
    fn drop(&mut self) {
        let mut queues = self.queues.0.lock();
        for (key, guard) in mem::take(&mut self.held) {
            drop(guard);
            // the map's own one: nobody waits
            if queues.get(&key).is_some_and(|turn| Arc::strong_count(turn) == 1) {
                queues.remove(&key);
            }
        }
    }
}
