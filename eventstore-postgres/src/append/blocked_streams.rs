//! Streams for whose row a statement waits: who appends to them meanwhile steps aside, and holds up no one.
//!
//! Keep: a stream is set aside only as long as a statement for it waits, or waits to be sent. Then all who stepped aside
//! line up like anyone else, and go together.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eventbus::StreamId;
use tokio::sync::watch;

/// A statement that takes longer does not keep the others any more: its locks, or its connection, may take very long.
pub(super) const STREAM_LOCK_WAIT: Duration = Duration::from_millis(100);

/// The streams that are set aside.
#[derive(Debug, Clone, Default)]
pub(super) struct BlockedStreams(Arc<Mutex<HashMap<StreamId, BlockedStream>>>);

/// How many statements wait, and what ends with the last of them.
#[derive(Debug, Default)]
struct BlockedStream {
    statements: usize,
    unblocked: watch::Sender<()>,
}

impl BlockedStreams {
    /// Sets a stream aside.
    pub(super) fn block(&self, stream: &StreamId) -> BlockedStreamGuard {
        self.lock().entry(stream.clone()).or_default().statements += 1;
        BlockedStreamGuard { blocked: self.clone(), stream: stream.clone() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// If the stream is set aside, what to wait for.
    pub(super) fn unblock_signal(&self, stream: &StreamId) -> Option<UnblockSignal> {
        self.lock().get(stream).map(|waiting| UnblockSignal(waiting.unblocked.subscribe()))
    }

    /// Lets all go on: the store is closed.
    pub(super) fn close(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StreamId, BlockedStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of waiting for a stream.
pub(super) struct UnblockSignal(watch::Receiver<()>);

impl UnblockSignal {
    pub(super) async fn wait(mut self) {
        // nothing is ever sent: the sender goes
        let _ = self.0.changed().await;
    }
}

/// A stream is set aside until this is dropped.
#[derive(Debug)]
pub(super) struct BlockedStreamGuard {
    blocked: BlockedStreams,
    stream: StreamId,
}

impl Drop for BlockedStreamGuard {
    fn drop(&mut self) {
        let mut streams = self.blocked.lock();
        if let Some(waiting) = streams.get_mut(&self.stream) {
            waiting.statements -= 1;
            if waiting.statements == 0 {
                streams.remove(&self.stream);
            }
        }
    }
}
