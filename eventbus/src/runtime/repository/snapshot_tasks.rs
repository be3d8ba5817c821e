//! The snapshots that a repository takes in the background.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;

use crate::domain::stream::StreamId;

/// Largest number of snapshots that one repository takes at once.
const TASKS_MAX: usize = 4;

/// The streams whose snapshots are being taken.
#[derive(Debug, Clone, Default)]
pub(super) struct SnapshotTasks(Arc<Mutex<BTreeSet<StreamId>>>);

impl SnapshotTasks {
    /// Runs `task` in the background, unless a snapshot of the stream is being taken, or of enough others: the next save
    /// or load asks again.
    pub(super) fn spawn(&self, stream: StreamId, task: impl Future<Output = ()> + Send + 'static) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        // the lock makes the look at the number and the new entry one step
        let mut streams = self.0.lock();
        if streams.len() >= TASKS_MAX || !streams.insert(stream.clone()) {
            return;
        }
        let ended = Ended { tasks: self.clone(), stream };
        runtime.spawn(async move {
            task.await;
            drop(ended);
        });
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
