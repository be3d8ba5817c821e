//! The snapshots that the repositories of an app, or one outside of an app, take in the background.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lru::LruCache;
use parking_lot::Mutex;

use crate::domain::stream::StreamId;

/// Largest number of snapshots that are taken at once.
const TASKS_MAX: usize = 4;

/// Largest number of refusals that are remembered.
const REFUSALS_MAX: usize = 1_000;

/// Number of streams whose states no snapshot can hold after which their fold has no further snapshots: its type is at
/// fault.
const LEFT_OUT_MAX: usize = 100;

/// The snapshots that are being taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct SnapshotTasks(Arc<Mutex<Tasks>>);

#[derive(Debug)]
struct Tasks {
    running: BTreeSet<SnapshotKey>,
    /// The streams of each fold whose states no snapshot can hold.
    left_out: BTreeMap<&'static str, BTreeSet<StreamId>>,
    /// The snapshots that the store refused last, and the boundary at which that was.
    refused: LruCache<SnapshotKey, u64>,
}

impl Default for Tasks {
    fn default() -> Self {
        // with a capacity it would take the memory for all refusals at once
        Self { running: BTreeSet::new(), left_out: BTreeMap::new(), refused: LruCache::unbounded() }
    }
}

/// The fold of a snapshot and its stream.
type SnapshotKey = (&'static str, StreamId);

impl SnapshotTasks {
    /// Runs `task` in the background, unless the same snapshot is being taken, or enough others: the next save or load
    /// asks again. A snapshot that the store has refused is not taken before a later `boundary`, the number of snapshots
    /// that were due so far.
    pub(super) fn spawn(
        &self,
        fold: &'static str,
        stream: StreamId,
        boundary: u64,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let key = (fold, stream);
        if !self.begin(&key, boundary) {
            return;
        }
        // without the lock: a runtime that shuts down drops the task at once, on this thread
        let ended = Ended { tasks: self.clone(), key };
        runtime.spawn(async move {
            task.await;
            drop(ended);
        });
    }

    /// Takes no further snapshots of a stream until the process ends; returns `true` if its fold has no more snapshots
    /// now.
    pub(super) fn leave_out(&self, fold: &'static str, stream: StreamId) -> bool {
        let left_out = &mut self.0.lock().left_out;
        let of_fold = left_out.entry(fold).or_default();
        of_fold.insert(stream);
        of_fold.len() >= LEFT_OUT_MAX
    }

    /// Notes that the store refused a snapshot.
    pub(super) fn refused(&self, fold: &'static str, stream: StreamId, boundary: u64) {
        let refused = &mut self.0.lock().refused;
        refused.put((fold, stream), boundary);
        if refused.len() > REFUSALS_MAX {
            refused.pop_lru();
        }
    }

    /// Adds a snapshot; returns `false` if it is there, if there are enough, if its stream or fold is left out, or if the
    /// store has refused it and no later one is due.
    fn begin(&self, key: &SnapshotKey, boundary: u64) -> bool {
        // the lock makes the look at the number and the new entry one step
        let Tasks { running, left_out, refused } = &mut *self.0.lock();
        let is_left_out = |of_fold: &BTreeSet<StreamId>| of_fold.len() >= LEFT_OUT_MAX || of_fold.contains(&key.1);
        running.len() < TASKS_MAX
            && !left_out.get(key.0).is_some_and(is_left_out)
            && refused.peek(key).is_none_or(|before| *before < boundary)
            && running.insert(key.clone())
    }
}

/// Forgets the snapshot of a task, also if the task panics or is aborted.
struct Ended {
    tasks: SnapshotTasks,
    key: SnapshotKey,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.tasks.0.lock().running.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn stream(id: usize) -> StreamId {
        StreamId::parse("Ledger", &id.to_string()).unwrap()
    }

    #[tokio::test]
    async fn a_snapshot_has_one_task_and_there_are_only_a_few() {
        let tasks = SnapshotTasks::default();
        let (started, begun) = mpsc::channel();
        let task = |number: usize| {
            let started = started.clone();
            async move {
                let _ = started.send(number);
                std::future::pending().await
            }
        };
        for number in [0, 0, 1, 2] {
            tasks.spawn("Ledger", stream(number), 1, task(number));
        }
        tasks.spawn("Balance", stream(0), 1, task(3));
        tasks.spawn("Ledger", stream(4), 1, task(4));
        tokio::task::yield_now().await;
        assert_eq!(begun.try_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[tokio::test]
    async fn a_stream_that_is_left_out_has_no_tasks_and_after_many_its_fold_has_none() {
        let tasks = SnapshotTasks::default();
        assert!(!tasks.leave_out("Ledger", stream(1)));
        for (fold, number) in [("Ledger", 1), ("Ledger", 2), ("Balance", 1)] {
            tasks.spawn(fold, stream(number), 1, std::future::pending());
        }
        assert_eq!(tasks.0.lock().running, BTreeSet::from([("Ledger", stream(2)), ("Balance", stream(1))]));
        let last = (1..=LEFT_OUT_MAX).map(|number| tasks.leave_out("Ledger", stream(number))).collect::<Vec<_>>();
        assert_eq!(last.iter().position(|is_ended| *is_ended), Some(LEFT_OUT_MAX - 1));
        for fold in ["Ledger", "Balance"] {
            tasks.spawn(fold, stream(LEFT_OUT_MAX + 1), 1, std::future::pending());
        }
        let running = tasks.0.lock().running.clone();
        assert!(running.len() == 3 && running.contains(&("Balance", stream(LEFT_OUT_MAX + 1))), "{running:?}");
    }

    #[tokio::test]
    async fn a_snapshot_that_was_refused_is_taken_when_the_next_one_is_due() {
        let tasks = SnapshotTasks::default();
        tasks.refused("Ledger", stream(1), 3);
        for (fold, number, boundary) in [("Ledger", 1, 3), ("Ledger", 2, 3), ("Balance", 1, 3)] {
            tasks.spawn(fold, stream(number), boundary, std::future::pending());
        }
        assert_eq!(tasks.0.lock().running, BTreeSet::from([("Ledger", stream(2)), ("Balance", stream(1))]));
        tasks.spawn("Ledger", stream(1), 4, std::future::pending());
        assert_eq!(tasks.0.lock().running.len(), 3);
    }

    #[test]
    fn of_too_many_refusals_the_oldest_is_forgotten() {
        let tasks = SnapshotTasks::default();
        let (oldest, newest) = (1_000 + REFUSALS_MAX, 1_000);
        for number in (newest..=oldest).rev() {
            tasks.refused("Ledger", stream(number), 1);
        }
        let begins = |number| tasks.begin(&("Ledger", stream(number)), 1);
        assert_eq!([newest, oldest - 1, oldest].map(begins), [false, false, true]);
    }

    #[tokio::test]
    async fn a_task_that_panics_frees_its_stream() {
        let tasks = SnapshotTasks::default();
        tasks.spawn("Ledger", stream(1), 1, async { panic!("on purpose") });
        while !tasks.0.lock().running.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    /// A runtime that shuts down drops the new task within the call of `spawn`.
    #[test]
    fn a_runtime_that_shuts_down_waits_for_no_task() {
        struct SpawnsWhenDropped(SnapshotTasks);
        impl Drop for SpawnsWhenDropped {
            fn drop(&mut self) {
                self.0.spawn("Ledger", stream(1), 1, async {});
            }
        }
        let tasks = SnapshotTasks::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let spawns = SpawnsWhenDropped(tasks.clone());
        runtime.spawn(async move {
            let _spawns = spawns;
            std::future::pending::<()>().await;
        });
        runtime.block_on(tokio::task::yield_now());
        let (ended, waits) = mpsc::channel();
        std::thread::spawn(move || {
            drop(runtime);
            let _ = ended.send(());
        });
        waits.recv_timeout(std::time::Duration::from_secs(60)).expect("the runtime shuts down");
        assert!(tasks.0.lock().running.is_empty());
    }
}
