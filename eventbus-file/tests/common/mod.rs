//! Helpers of the tests.
#![allow(dead_code, reason = "each test file uses some of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{path::PathBuf, time::Duration};

use eventbus::testkit::event_bus::SHORT_DELAYS;
use eventbus_file::{ClaimedEvent, FileQueue, FileQueueConfig};
use serde_json::value::RawValue;

/// A folder that is removed when the test's runtime ends.
pub(crate) fn folder() -> PathBuf {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(eventbus_test::unique_name("queue"));
    tokio::spawn(async move {
        let _folder = folder;
        std::future::pending::<()>().await;
    });
    path
}

/// A configuration for a folder: no syncing, and short waits.
pub(crate) fn config(root_dir: impl Into<PathBuf>) -> FileQueueConfig {
    FileQueueConfig {
        sync: false,
        retry: SHORT_DELAYS,
        poll_interval: Duration::from_millis(20),
        ..FileQueueConfig::at(root_dir)
    }
}

/// A queue in a folder of the test's own.
pub(crate) async fn fresh() -> FileQueue {
    FileQueue::open(config(folder())).await.unwrap()
}

/// A second worker of the same queue.
pub(crate) async fn another(queue: &FileQueue) -> FileQueue {
    FileQueue::open(FileQueueConfig { worker_id: None, ..queue.config().clone() }).await.unwrap()
}

/// Claims the next event, which must come.
pub(crate) async fn next_work(queue: &FileQueue) -> ClaimedEvent {
    let next = tokio::time::timeout(Duration::from_secs(60), queue.claim_next()).await;
    next.expect("there is work in time").unwrap()
}

/// Waits until the condition holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(waited.is_ok(), "waited in vain until {what}");
}

/// Returns a text of this many bytes, as JSON: to escape a large one takes long in a build that is not optimized.
pub(crate) fn text_of_bytes(count: usize) -> Box<RawValue> {
    RawValue::from_string(format!("\"{}\"", "x".repeat(count))).unwrap()
}

/// The rules of the event-bus suite that a queue keeps whose events are jobs: it has neither groups nor an order.
macro_rules! jobs_conformance {
    ($name:ident, $fresh:expr, $another:expr) => {
        mod $name {
            use super::*;
            eventbus::event_bus_conformance!(@of_jobs $fresh, $another);
        }
    };
}
pub(crate) use jobs_conformance;
