//! The event-bus suite on files.

use crate::common::{another, fresh, jobs_conformance};
use eventbus_file::FileQueue;

jobs_conformance!(files, fresh(), async |queue: &FileQueue| another(queue).await);
