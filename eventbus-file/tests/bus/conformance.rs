//! The event-bus suite on files.

use std::time::Duration;

use crate::common::{another, config, folder, fresh};
use eventbus_file::{FileQueue, FileQueueConfig};

eventbus::event_bus_conformance!(files, fresh(), async |queue: &FileQueue| another(queue).await);

async fn long_ago() -> FileQueue {
    let config = FileQueueConfig { deliver_skipped_within: Duration::ZERO, ..config(folder()) };
    FileQueue::open(config).await.expect("the folder can be used")
}
