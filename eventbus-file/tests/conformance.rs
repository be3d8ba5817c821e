//! The event-bus suite on files.

mod common;

use common::{another, fresh};
use eventbus_file::FileQueue;

eventbus::event_bus_conformance!(files, fresh(), async |queue: &FileQueue| another(queue).await);
