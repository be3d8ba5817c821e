//! The tasks of a running app.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::plan::Checked;
use crate::{
    domain::error::BoxError,
    port::{ConsumeError, EventBus, EventStore, RetryPolicy, ShutdownError, StateMap},
    runtime::relay::{Relay, RelayProgress},
};

/// Relay, consumers and projections of an app; dropped, they are told to stop.
pub(super) struct Tasks {
    cancel: CancellationToken,
    tracker: TaskTracker,
    pub(super) relay: Option<watch::Receiver<RelayProgress>>,
}

impl Tasks {
    pub(super) async fn spawn(
        store: &Arc<dyn EventStore>,
        bus: &Arc<dyn EventBus>,
        plan: &Checked,
        state: &StateMap,
        has_relay: bool,
    ) -> Result<Self, BoxError> {
        let mut tasks = Self {
            cancel: CancellationToken::new(),
            tracker: TaskTracker::new(),
            relay: None,
        };
        if has_relay {
            let relay = Relay::prepare(Arc::clone(store), Arc::clone(bus)).await?;
            tasks.relay = Some(relay.progress());
            tasks.tracker.spawn(relay.run(tasks.cancel.clone()));
        }
        if !plan.handlers.is_empty() {
            tasks
                .tracker
                .spawn(consume(Arc::clone(bus), tasks.cancel.clone()));
        }
        for slot in &plan.projections {
            tasks
                .tracker
                .spawn(slot.run(Arc::clone(store), state.clone(), tasks.cancel.clone()));
        }
        tasks.tracker.close();
        Ok(tasks)
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Stops everything; what is in flight gets until `timeout`.
    pub(super) async fn shutdown(
        &self,
        bus: &dyn EventBus,
        timeout: Duration,
    ) -> Result<(), ShutdownError> {
        let deadline = Instant::now() + timeout;
        self.cancel.cancel();
        let bus_stopped = bus.shutdown(timeout).await;
        let left = deadline.saturating_duration_since(Instant::now());
        let tasks_stopped = tokio::time::timeout(left, self.tracker.wait()).await;
        bus_stopped?;
        tasks_stopped.map_err(|_| ShutdownError::new("the relay or a projection", timeout))
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Consumes until cancelled; a bus that is away at first is tried again.
async fn consume(bus: Arc<dyn EventBus>, cancel: CancellationToken) {
    let backoff = RetryPolicy {
        max_retries: u32::MAX,
        first_delay: Duration::from_millis(100),
        max_delay: Duration::from_secs(2),
    };
    let mut attempt = 0;
    while !cancel.is_cancelled() {
        let stopped = tokio::select! {
            stopped = bus.start_consuming() => stopped,
            () = cancel.cancelled() => return bus.stop_consuming().await,
        };
        match stopped {
            Err(error @ ConsumeError::Unavailable { .. }) => {
                attempt += 1;
                tracing::warn!(destination = %bus.destination(), %error, attempt, "cannot consume yet, trying again");
                tokio::select! {
                    () = cancel.cancelled() => {}
                    () = tokio::time::sleep(backoff.jittered(attempt)) => {}
                }
            }
            Err(error) => {
                return tracing::error!(destination = %bus.destination(), %error, "cannot consume");
            }
            Ok(()) => return,
        }
    }
}
