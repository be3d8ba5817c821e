//! Death at a named point: wrappers around the ports, which end the process before or after a call.
//!
//! Keep: a wrapper passes everything on as it is. What it wraps must not be able to tell.

mod bus;
mod store;
mod transaction;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};

pub use bus::DoomedBus;
pub use store::DoomedStore;

/// Where a process may die.
pub const POINTS: [&str; 9] =
    ["append", "publish", "adopt", "handle", "inbox", "effect", "checkpoint", "commit", "floors"];

/// When a process dies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// At which of [`POINTS`].
    pub point: String,
    /// After the call, or before it.
    pub after: bool,
    /// At the how-manieth call, from 1.
    pub nth: u64,
}

/// What is to become of this process. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Doom(Option<Arc<(Death, AtomicU64)>>);

impl Doom {
    /// It dies like this, or not at all.
    #[must_use]
    pub fn new(death: Option<Death>) -> Self {
        Self(death.map(|death| Arc::new((death, AtomicU64::new(0)))))
    }

    /// Makes a call, and dies before or after it if that is how it is to be.
    pub async fn around<T>(&self, point: &str, call: impl Future<Output = T>) -> T {
        self.reach(point, false);
        let answer = call.await;
        self.reach(point, true);
        answer
    }

    fn reach(&self, point: &str, after: bool) {
        let Some((death, calls)) = self.0.as_deref() else { return };
        let is_it = death.point == point && death.after == after;
        if is_it && calls.fetch_add(1, Ordering::SeqCst) + 1 == death.nth {
            std::process::abort();
        }
    }
}
