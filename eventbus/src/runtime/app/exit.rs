//! The exit guard: ends the process even if a handler blocks its thread, where no cancellation reaches it.
//!
//! Invariant: it is a thread with its own runtime, as the app's may have no free thread to notice a signal.

use std::{
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use tracing::{Dispatch, subscriber::NoSubscriber};

use super::signal::Signals;
use crate::{port::EventBus, runtime::projection::AnyProjection};

/// `EX_SOFTWARE`: an error of the program itself.
const EXIT_STATUS: i32 = 70;

/// Time between the deadline of a shutdown and the exit.
const EXIT_GRACE_PERIOD: Duration = Duration::from_secs(5);

/// Ends the process some time after a signal, unless it is dropped before.
///
/// | state | event | next state |
/// |---|---|---|
/// | armed | a signal | counting: deadline and grace period |
/// | armed, counting | drop | disarmed |
/// | counting | `stay_armed`, as handlers still block | returned: drop no longer disarms it |
/// | counting | the time is up | the process exits |
/// | returned | the time is up, and a handler still blocks | the process exits |
/// | returned | the time is up, and no handler blocks | disarmed |
pub(super) struct ExitGuard {
    cancel: CancellationToken,
    has_returned: Arc<AtomicBool>,
    stays_armed: bool,
}

/// The handlers and projections that may block a thread.
pub(super) struct ActivitySources {
    pub(super) bus: Weak<dyn EventBus>,
    pub(super) projections: Vec<AnyProjection>,
}

impl ActivitySources {
    /// Lists them, as the bus forgets its handlers during a shutdown. Returns a function that describes those that block
    /// a thread when it is called.
    pub(super) fn list(&self) -> impl Fn() -> Vec<String> + Send + use<> {
        let subscribers = self.bus.upgrade().map(|bus| bus.subscribers()).unwrap_or_default();
        let projections: Vec<_> =
            self.projections.iter().map(|projection| Arc::clone(projection.fed().activity())).collect();
        move || {
            let blocking = subscribers.iter().flat_map(|subscriber| subscriber.blocking());
            blocking.chain(projections.iter().flat_map(|activity| activity.blocking())).collect()
        }
    }
}

impl ExitGuard {
    /// Starts listening for a signal, after which a shutdown may take until `deadline`.
    pub(super) fn new(deadline: Duration, activity_sources: ActivitySources) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let signals = {
            let _inside = runtime.enter();
            Signals::listen()?
        };
        let (cancel, has_returned) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        let (cancelled, returned) = (cancel.clone(), Arc::clone(&has_returned));
        let dispatch = tracing::dispatcher::get_default(Dispatch::clone);
        thread::Builder::new().name("eventbus-exit".into()).spawn(move || {
            let after = deadline.saturating_add(EXIT_GRACE_PERIOD);
            let waited = runtime.block_on(cancelled.run_until_cancelled(async {
                signals.received().await;
                // before the shutdown removes the handlers from the bus
                let describe_blocking = activity_sources.list();
                tokio::time::sleep(after).await;
                describe_blocking
            }));
            if let Some(describe_blocking) = waited {
                let blocking = describe_blocking();
                if !(blocking.is_empty() && returned.load(Ordering::SeqCst)) {
                    tracing::dispatcher::with_default(&dispatch, || exit(after, &blocking));
                }
            }
        })?;
        Ok(Self { cancel, has_returned, stays_armed: false })
    }

    /// Keeps the guard armed after its drop, for a handler that still blocks: the drop of the runtime waits for its
    /// thread.
    pub(super) fn stay_armed(mut self) {
        self.stays_armed = true;
        self.has_returned.store(true, Ordering::SeqCst);
    }
}

impl Drop for ExitGuard {
    fn drop(&mut self) {
        if !self.stays_armed {
            self.cancel.cancel();
        }
    }
}

fn exit(after: Duration, blocking: &[String]) {
    let who = match blocking {
        [] => "a task that is no handler keeps the app's runtime busy".into(),
        blocking => format!("these block their threads: {}", blocking.join("; ")),
    };
    let text = format!("not stopped {after:?} after the signal, {who}: the process exits with status {EXIT_STATUS}");
    tracing::error!("{text}");
    // without a log subscriber the text would be lost
    if tracing::dispatcher::get_default(|dispatch| dispatch.is::<NoSubscriber>()) {
        eprintln!("{text}");
    }
    std::process::exit(EXIT_STATUS);
}
