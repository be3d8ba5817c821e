//! Decisions of one process that wait for each other, in order.
//!
//! Invariant: a decision locks its tags in their order, so that no two wait in a circle.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::{Mutex as TagLock, OwnedMutexGuard};
use uuid::Uuid;

use crate::domain::tag::Tag;

type TagKey = (Option<Uuid>, Tag);

/// The decisions about each tag: one at a time is made. A second one would only find that its boundary has moved.
#[derive(Debug, Default)]
pub(crate) struct TagQueues(Mutex<HashMap<TagKey, Arc<TagLock<()>>>>);

/// The locked tags of a decision; dropped, they are free for the next one.
pub(super) struct TagLocks<'a> {
    queues: &'a TagQueues,
    /// Without a guard while it waits.
    held: Vec<(TagKey, Option<OwnedMutexGuard<()>>)>,
}

impl TagQueues {
    /// Waits until no other decision of this process is about one of the tags, and locks them.
    pub(super) async fn line_up(&self, tenant_id: Option<Uuid>, tags: BTreeSet<&Tag>) -> TagLocks<'_> {
        let mut locks = TagLocks { queues: self, held: Vec::new() };
        for tag in tags {
            let key = (tenant_id, tag.clone());
            let lock = Arc::clone(self.0.lock().entry(key.clone()).or_default());
            // before it waits: dropped meanwhile, it leaves no lock behind
            locks.held.push((key, None));
            let guard = lock.lock_owned().await;
            if let Some((_, held)) = locks.held.last_mut() {
                *held = Some(guard);
            }
        }
        locks
    }
}

impl Drop for TagLocks<'_> {
    fn drop(&mut self) {
        let mut queues = self.queues.0.lock();
        for (key, guard) in mem::take(&mut self.held) {
            drop(guard);
            // only the map has it: no decision waits
            if queues.get(&key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
                queues.remove(&key);
            }
        }
    }
}
