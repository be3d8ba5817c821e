//! Blocked streams: a statement waits for the row of each. Further appends to them wait here, outside of the queue, and
//! delay no append to a different stream.
//!
//! Invariant: a stream is blocked only while a statement for it runs or waits to be sent. When that ends, the appends
//! that waited here enter the queue as usual, and go together.

use std::{collections::HashMap, sync::Arc, time::Duration};

use eventbus::StreamId;
use parking_lot::Mutex;
use tokio::sync::watch;

/// The longest time that a statement delays other appends: a lock or a connection may take much longer.
pub(super) const STREAM_LOCK_WAIT: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Default)]
pub(super) struct BlockedStreams(Arc<Mutex<HashMap<StreamId, BlockedStream>>>);

/// The number of statements that block a stream, and the sender that is dropped with the last of them.
#[derive(Debug, Default)]
struct BlockedStream {
    statements: usize,
    unblocked: watch::Sender<()>,
}

impl BlockedStreams {
    /// Blocks a stream until the guard is dropped; guards of one stream add up.
    pub(super) fn block(&self, stream: &StreamId) -> BlockedStreamGuard {
        self.0.lock().entry(stream.clone()).or_default().statements += 1;
        BlockedStreamGuard { blocked: self.clone(), stream: stream.clone() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Returns the signal to wait for if the stream is blocked.
    pub(super) fn unblock_signal(&self, stream: &StreamId) -> Option<UnblockSignal> {
        self.0.lock().get(stream).map(|waiting| UnblockSignal(waiting.unblocked.subscribe()))
    }

    /// Unblocks all streams, because the store closes.
    pub(super) fn close(&self) {
        self.0.lock().clear();
    }
}

/// Resolves when its stream is unblocked.
pub(super) struct UnblockSignal(watch::Receiver<()>);

impl UnblockSignal {
    pub(super) async fn wait(mut self) {
        // no value is ever sent: the last guard drops the sender
        let _ = self.0.changed().await;
    }
}

/// Keeps a stream blocked until dropped.
#[derive(Debug)]
pub(super) struct BlockedStreamGuard {
    blocked: BlockedStreams,
    stream: StreamId,
}

impl Drop for BlockedStreamGuard {
    fn drop(&mut self) {
        let mut streams = self.blocked.0.lock();
        if let Some(waiting) = streams.get_mut(&self.stream) {
            waiting.statements -= 1;
            if waiting.statements == 0 {
                streams.remove(&self.stream);
            }
        }
    }
}
