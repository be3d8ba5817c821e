//! The layout of the partitions as a bus has joined it.

use std::sync::OnceLock;

use tokio::sync::{Mutex, MutexGuard};

/// The generation of the layout, and whether the bus has joined it.
#[derive(Default)]
pub(crate) struct LayoutState {
    /// A decimal; set by the join.
    generation: OnceLock<String>,
    /// Set once the bus has joined. The lock admits one join at a time.
    is_joined: Mutex<bool>,
}

impl LayoutState {
    /// Returns the generation; `0` before the bus has joined.
    pub(crate) fn generation(&self) -> &str {
        self.generation.get().map_or("0", |generation| generation)
    }

    /// Records the generation; the first one stays.
    pub(crate) fn set_generation(&self, generation: String) {
        let _ = self.generation.set(generation);
    }

    /// Locks the flag that the bus has joined.
    pub(crate) async fn lock_join(&self) -> MutexGuard<'_, bool> {
        self.is_joined.lock().await
    }
}
