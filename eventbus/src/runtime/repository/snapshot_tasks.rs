//! The snapshots that a repository takes in the background.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

use crate::domain::stream::StreamId;

/// Largest number of snapshots that one repository takes at once.
const TASKS_MAX: usize = 4;

/// The streams whose snapshots are being taken, and whether the states of the aggregate can be kept at all.
#[derive(Debug, Clone, Default)]
pub(super) struct SnapshotTasks(Arc<Mutex<BTreeSet<StreamId>>>, Arc<AtomicBool>);

impl SnapshotTasks {
    /// Runs `task` in the background, unless a snapshot of the stream is being taken, or of enough others: the next save
    /// or load asks again.
    pub(super) fn spawn(&self, stream: StreamId, task: impl Future<Output = ()> + Send + 'static) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if self.1.load(Ordering::Relaxed) {
            return;
        }
        if !self.begin(&stream) {
            return;
        }
        // without the lock: a runtime that shuts down drops the task at once, on this thread
        let ended = Ended { tasks: self.clone(), stream };
        runtime.spawn(async move {
            task.await;
            drop(ended);
        });
    }

    /// Takes no further snapshots; returns `true` at the first call.
    pub(super) fn stop(&self) -> bool {
        !self.1.swap(true, Ordering::Relaxed)
    }

    /// Adds a stream; returns `false` if it is there, or if there are enough.
    fn begin(&self, stream: &StreamId) -> bool {
        // the lock makes the look at the number and the new entry one step
        let mut streams = self.0.lock();
        streams.len() < TASKS_MAX && streams.insert(stream.clone())
    }
}

/// Forgets the stream of a task, also if the task panics or is aborted.
struct Ended {
    tasks: SnapshotTasks,
    stream: StreamId,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.tasks.0.lock().remove(&self.stream);
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
    async fn a_stream_has_one_task_and_a_repository_a_few() {
        let tasks = SnapshotTasks::default();
        let (started, begun) = mpsc::channel();
        let task = |number: usize| {
            let started = started.clone();
            async move {
                let _ = started.send(number);
                std::future::pending().await
            }
        };
        for number in [0, 0, 1, 2, 3, 4, 5] {
            tasks.spawn(stream(number), task(number));
        }
        tokio::task::yield_now().await;
        assert_eq!(begun.try_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[tokio::test]
    async fn a_task_that_panics_frees_its_stream() {
        let tasks = SnapshotTasks::default();
        tasks.spawn(stream(1), async { panic!("on purpose") });
        while !tasks.0.lock().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    /// A runtime that shuts down drops the new task within the call of `spawn`.
    #[test]
    fn a_runtime_that_shuts_down_waits_for_no_task() {
        struct SpawnsWhenDropped(SnapshotTasks);
        impl Drop for SpawnsWhenDropped {
            fn drop(&mut self) {
                self.0.spawn(stream(1), async {});
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
        assert!(tasks.0.lock().is_empty());
    }
}
