//! Death at a named point: wrappers around the ports, which end the process before or after a call.
//!
//! Keep: a wrapper passes everything on as it is. What it wraps must not be able to tell.

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

/// Where a process may die, and whether after the call or before it. What is called where:
///
/// - `append`: events are stored;
/// - `publish`, `adopt`: the relay hands events to the bus, or begins with it;
/// - `floors`: the relay saves how far the groups are;
/// - `handle`: a handler without a transaction has its effect;
/// - `ack`: that handler has returned, and its delivery is about to be finished, or just was;
/// - `inbox`, `effect`, `checkpoint`, `commit`: steps of a transaction of a handler or a projection;
/// - `switch`: the rows of a rebuild replace the live ones;
/// - `switched`: the transaction that did so is committed.
pub const FAIL_POINTS: [(&str, bool); 23] = [
    ("append", false),
    ("append", true),
    ("adopt", false),
    ("adopt", true),
    ("publish", false),
    ("publish", true),
    ("floors", false),
    ("floors", true),
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

/// A delivery is finished within so long after its handler returned, or not much later.
const ACK_DELAY_MAX: Duration = Duration::from_millis(5);

/// When a process dies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashPoint {
    /// At which of [`FAIL_POINTS`].
    pub point: String,
    /// After the call, or before it.
    pub after: bool,
    /// At the how-manieth call, from 1.
    pub nth: u64,
}

/// What is to become of this process. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct FailPoints(Option<Arc<(CrashPoint, AtomicU64)>>);

impl FailPoints {
    /// It dies like this, or not at all.
    #[must_use]
    pub fn new(crash: Option<CrashPoint>) -> Self {
        Self(crash.map(|crash| Arc::new((crash, AtomicU64::new(0)))))
    }

    /// Makes a call, and dies before or after it if that is how it is to be.
    pub async fn around<T>(&self, point: &str, call: impl Future<Output = T>) -> T {
        self.crash_if_due(point, false);
        let answer = call.await;
        self.crash_if_due(point, true);
        answer
    }

    /// A call of somebody else follows, and nobody tells when it is over: dies while it is made, or soon after it.
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
