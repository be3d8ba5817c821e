//! Fail points: wrappers around the ports that end the process before or after a call.
//!
//! Invariant: a wrapper passes every call on unchanged, so that the wrapped port cannot detect it.

mod bus;
mod store;
mod transaction;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use bus::FailPointBus;
pub use store::FailPointStore;

/// The fail points; the flag is set for a death after the call, unset for one before it. Their calls:
/// - `append`: events are stored;
/// - `publish`, `begin`: the relay publishes a range, or sets its record on the bus;
/// - `handle`: a handler without a transaction has its effect;
/// - `ack`: that handler has returned, and the bus is about to finish its delivery, or has just done so;
/// - `inbox`, `effect`, `checkpoint`, `commit`: steps of a transaction of a handler or a projection;
/// - `multi_stream`: the saves of a handler are stored together, at the end of a handler that only saves;
/// - `append-in`: they are stored in the handler's transaction;
/// - `switch`: the rows of a rebuild replace the live ones;
/// - `switched`: the transaction that did so is committed.
pub const FAIL_POINTS: [(&str, bool); 21] = [
    ("append", false),
    ("append", true),
    ("begin", false),
    ("begin", true),
    ("publish", false),
    ("publish", true),
    ("checkpoint", false),
    ("checkpoint", true),
    ("switch", false),
    ("switch", true),
    ("switched", false),
    ("switched", true),
    ("handle", false),
    ("handle", true),
    ("ack", true),
    ("inbox", false),
    ("inbox", true),
    ("effect", false),
    ("effect", true),
    ("commit", false),
    ("commit", true),
];

/// The bus finishes a delivery within about this time after its handler has returned.
const ACK_DELAY_MAX: Duration = Duration::from_millis(5);

/// The fail point at which a process dies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashPoint {
    /// Its name in [`FAIL_POINTS`].
    pub point: String,
    /// Set to die after the call, unset to die before it.
    pub after: bool,
    /// The number of the call, from 1.
    pub nth: u64,
}

/// The crash point of this process, if it has one. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct FailPoints(Option<Arc<(CrashPoint, AtomicU64)>>);

impl FailPoints {
    /// Dies at `crash`, or never.
    #[must_use]
    pub fn new(crash: Option<CrashPoint>) -> Self {
        Self(crash.map(|crash| Arc::new((crash, AtomicU64::new(0)))))
    }

    /// Makes a call; dies before or after it if the call is the crash point.
    pub async fn around<T>(&self, point: &str, call: impl Future<Output = T>) -> T {
        self.crash_if_due(point, false);
        let answer = call.await;
        self.crash_if_due(point, true);
        answer
    }

    /// For a call that follows elsewhere and reports no end: dies during the call or soon after it.
    pub fn crash_after_delay(&self, point: &str) {
        if self.is_due(point, true) {
            let within = u64::try_from(ACK_DELAY_MAX.as_micros()).unwrap_or(u64::MAX);
            let pause = Duration::from_micros(fastrand::u64(..within));
            std::thread::spawn(move || {
                std::thread::sleep(pause);
                std::process::abort();
            });
        }
    }

    fn crash_if_due(&self, point: &str, after: bool) {
        if self.is_due(point, after) {
            std::process::abort();
        }
    }

    fn is_due(&self, point: &str, after: bool) -> bool {
        let Some((crash, calls)) = self.0.as_deref() else { return false };
        let is_it = crash.point == point && crash.after == after;
        is_it && calls.fetch_add(1, Ordering::SeqCst) + 1 == crash.nth
    }
}
