//! The lifecycle of a bus's consumers: start, one task per group, stop, shut down; shared by all buses.
//!
//! Invariant: a stop signals each task and awaits it. A task is aborted only when a deadline has passed, or when the
//! future of [`Consuming::run`] or of [`Consuming::shutdown`] is dropped; its in-flight entries then stay pending. At a
//! deadline it has a second to save that its handlers were aborted: the process has not ended because of their events.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tokio::{
    task::{Id, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::Subscribers;
use crate::{
    domain::{clock::SharedClock, name::Name},
    port::{ConsumeError, ShutdownError, SubscriberStatus as _, backoff::Backoff},
};

/// The delays before a consumer that died is replaced.
const RESTART_BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
/// After this lifetime, the death of a consumer has a cause of its own: the count of deaths in a row begins again.
const RESTART_BACKOFF_RESET_AFTER: Duration = Duration::from_secs(60);

/// The running consumers of a bus, if any, and their stop tokens; a bus shares one with its clones.
///
/// | state | event | next state |
/// |---|---|---|
/// | idle | [`run`](Self::run) | running |
/// | running, stopping | `run` | the same; the call fails |
/// | running | [`stop`](Self::stop) | stopping: tasks end after their current deliveries |
/// | stopping | all tasks have ended | idle; `run` and `stop` return |
/// | stopping | the deadline of [`shutdown`](Self::shutdown) | the same; signals the tasks to abort their handlers, save and end |
/// | stopping | a second after the deadline, or the future of `shutdown` is dropped | idle; aborts the tasks |
/// | running, stopping | the future of `run` is dropped | idle; aborts the tasks |
/// | any | [`close`](Self::close) | the same; `run` fails from now on |
#[derive(Debug, Default)]
pub struct Consuming {
    /// Locked for each transition; no transition awaits.
    state: Mutex<ConsumingState>,
    clock: SharedClock,
}

#[derive(Debug, Default)]
struct ConsumingState {
    closed: bool,
    has_deadline: bool,
    run: Option<CancelTokens>,
}

#[derive(Debug, Clone, Default)]
struct CancelTokens {
    stop: CancellationToken,
    deadline: CancellationToken,
    abort: CancellationToken,
    ended: CancellationToken,
}

/// The signal for the consumer of one group to stop.
#[derive(Debug, Clone)]
pub struct StopSignal {
    stop: CancellationToken,
    deadline: CancellationToken,
}

impl StopSignal {
    #[cfg(test)]
    pub(super) fn from_token(stop: CancellationToken) -> Self {
        Self { stop, deadline: CancellationToken::new() }
    }

    /// Returns `true` if the consumer must stop after its current delivery.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits until the consumer must stop.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Awaits a future until the deadline of a shutdown at most, then drops it: the consumer must abort its handlers, save
    /// its progress and end. A second later it is aborted itself.
    pub(crate) async fn until_deadline<F: Future>(&self, future: F) -> Option<F::Output> {
        self.deadline.run_until_cancelled(future).await
    }

    /// Awaits a future, unless the consumer must stop: then drops the future and returns `None`.
    pub async fn run_until_stopped<F: Future>(&self, future: F) -> Option<F::Output> {
        self.stop.run_until_cancelled(future).await
    }
}

/// The time for which a request to a store goes on after a stop: the store may be unreachable. Real time, as the caller
/// waits for the reply of a server.
const STOP_GRACE_PERIOD: Duration = Duration::from_secs(1);

/// Awaits `last`, but only for one more second once `stop` is cancelled; then returns `None`.
pub(crate) async fn within_grace_period<F: Future>(stop: &CancellationToken, last: F) -> Option<F::Output> {
    let over = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_GRACE_PERIOD).await;
    };
    tokio::select! {
        biased; // a reply that is ready counts
        last = last => Some(last),
        () = over => None,
    }
}

impl Consuming {
    /// Creates the state of a bus that does not consume yet; `clock` measures its delays.
    #[must_use]
    pub fn with_clock(clock: SharedClock) -> Self {
        Self { clock, ..Self::default() }
    }

    /// Runs `consume` in a task of its own for every group that has subscribers, also for groups whose first subscriber
    /// is added later, until [`stop`](Self::stop); stops the task of a group that loses its last subscriber. Replaces a
    /// task that panics, after a delay that grows up to five seconds.
    ///
    /// # Errors
    /// [`ConsumeError::AlreadyConsuming`] while another call runs, [`ConsumeError::ShutDown`] after
    /// [`close`](Self::close).
    pub async fn run<F, T>(&self, destination: &Name, subscribers: &Subscribers, consume: F) -> Result<(), ConsumeError>
    where
        F: Fn(Name, StopSignal) -> T,
        T: Future<Output = ()> + Send + 'static,
    {
        let run = self.begin(destination)?;
        let mut changes = subscribers.watch();
        let mut tasks = Tasks { clock: self.clock.clone(), ..Tasks::default() };
        while !run.tokens.stop.is_cancelled() {
            changes.mark_unchanged();
            tasks.follow(&subscribers.groups(), &run.tokens, &consume);
            // a group that got its first handler or lost its last changes the tasks; a task that has ended begins anew
            tokio::select! {
                () = run.tokens.stop.cancelled() => {}
                _ = changes.changed() => {}
                () = tasks.await_one() => {}
            }
        }
        tokio::select! {
            biased; // tasks that have ended are not logged as aborted
            () = tasks.await_all() => {}
            () = run.tokens.abort.cancelled() => {
                if !run.tokens.deadline.is_cancelled() {
                    log_aborted(subscribers);
                }
            }
        }
        Ok(())
    }

    fn begin(&self, destination: &Name) -> Result<Run<'_>, ConsumeError> {
        let destination = destination.clone();
        let mut state = self.state.lock();
        if state.closed {
            return Err(ConsumeError::ShutDown { destination });
        }
        if state.run.is_some() {
            return Err(ConsumeError::AlreadyConsuming { destination });
        }
        let tokens = CancelTokens::default();
        state.run = Some(tokens.clone());
        Ok(Run { consuming: self, tokens })
    }

    /// Signals the consumers to stop after their current deliveries; returns once they have stopped.
    ///
    /// A handler must not await it: the handler would wait for itself.
    pub async fn stop(&self) {
        let Some(run) = self.state.lock().run.clone() else {
            return;
        };
        run.stop.cancel();
        run.ended.cancelled().await;
    }

    /// Returns `true` while [`run`](Self::run) is running.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state.lock().run.is_some()
    }

    /// Refuses later calls of [`run`](Self::run).
    pub fn close(&self) {
        self.state.lock().closed = true;
    }

    /// Returns `true` after [`close`](Self::close).
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Returns `true` once [`shutdown`](Self::shutdown) is called, which aborts the consumers that do not stop in time.
    /// Before that they may wait for a server that is away.
    #[must_use]
    pub fn has_deadline(&self) -> bool {
        self.state.lock().has_deadline
    }

    /// Closes and stops. The consumers that have not stopped after `timeout` abort their handlers, and have one more
    /// second to save that; then they are aborted, or at once when the future is dropped.
    ///
    /// # Errors
    /// [`ShutdownError`], which names `what`, if handlers are aborted.
    pub async fn shutdown(
        &self,
        subscribers: &Subscribers,
        what: &str,
        timeout: Duration,
    ) -> Result<(), ShutdownError> {
        let _abort = AbortOnDrop(self);
        self.close();
        self.state.lock().has_deadline = true;
        let stopped = self.clock.timeout(timeout, self.stop()).await;
        let run = self.state.lock().run.clone().filter(|_| stopped.is_err());
        if let Some(run) = run {
            log_aborted(subscribers); // before the handlers end
            run.deadline.cancel();
            within_grace_period(&run.stop, run.ended.cancelled()).await; // then they are aborted
        }
        stopped.map_err(|_| ShutdownError::new(what, timeout))
    }
}

/// Aborts the run at the end of a shutdown, if it has not ended: its caller does not wait any more.
struct AbortOnDrop<'a>(&'a Consuming);

impl Drop for AbortOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(run) = &self.0.state.lock().run {
            run.abort.cancel();
        }
    }
}

/// Logs the handlers that still run, before a shutdown aborts them.
fn log_aborted(subscribers: &Subscribers) {
    for group in subscribers.groups() {
        for busy in subscribers.of_group(&group).iter().filter_map(|subscriber| subscriber.handling()) {
            tracing::warn!(%group, busy, "aborted by shutdown; the event stays pending");
        }
    }
}

/// One call of [`Consuming::run`]; dropping it marks the end of the run.
struct Run<'a> {
    consuming: &'a Consuming,
    tokens: CancelTokens,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.consuming.state.lock().run = None;
        self.tokens.ended.cancel();
    }
}

/// The tasks of one run, by group. Dropping them aborts them.
#[derive(Default)]
struct Tasks {
    set: JoinSet<()>,
    groups: HashMap<Id, Task>,
    /// The number of consumers of a group that died in a row, each soon after its start.
    restarts: HashMap<Name, u32>,
    clock: SharedClock,
}

/// The consumer of a group.
struct Task {
    group: Name,
    stop: CancellationToken,
    began: Instant,
}

impl Tasks {
    /// Starts a task for each group that has none, and stops the tasks of groups without subscribers.
    fn follow<F, T>(&mut self, groups: &[Name], tokens: &CancelTokens, consume: &F)
    where
        F: Fn(Name, StopSignal) -> T,
        T: Future<Output = ()> + Send + 'static,
    {
        for task in self.groups.values() {
            if !groups.contains(&task.group) {
                task.stop.cancel();
            }
        }
        for group in groups {
            if self.groups.values().any(|task| task.group == *group) {
                continue;
            }
            let stop = tokens.stop.child_token();
            let delay = self.restarts.get(group).map_or(Duration::ZERO, |deaths| RESTART_BACKOFF.jittered(*deaths));
            let consuming =
                consume(group.clone(), StopSignal { stop: stop.clone(), deadline: tokens.deadline.clone() });
            let (delayed, clock) = (stop.clone(), self.clock.clone());
            let task = async move {
                delayed.run_until_cancelled(clock.sleep(delay)).await;
                consuming.await;
            };
            let id = self.set.spawn(task).id();
            self.groups.insert(id, Task { group: group.clone(), stop, began: self.clock.after(delay) });
        }
    }

    /// Waits until a task ends; for ever if there is none.
    async fn await_one(&mut self) {
        let (id, result) = match self.set.join_next_with_id().await {
            Some(Ok((id, ()))) => (id, Ok(())),
            Some(Err(error)) => (error.id(), Err(error)),
            None => return std::future::pending().await,
        };
        let Some(Task { group, began, .. }) = self.groups.remove(&id) else {
            return;
        };
        let Err(error) = result else {
            self.restarts.remove(&group);
            return;
        };
        if error.is_cancelled() {
            // no code aborts a single task: the runtime is shutting down, and drops this future too
            tracing::debug!(%group, "consumer ended with the runtime");
            return std::future::pending().await;
        }
        tracing::error!(%group, %error, "consumer died, starting its replacement");
        let deaths = self.restarts.entry(group).or_default();
        *deaths = if self.clock.elapsed(began) < RESTART_BACKOFF_RESET_AFTER { deaths.saturating_add(1) } else { 1 };
    }

    async fn await_all(&mut self) {
        while !self.groups.is_empty() {
            self.await_one().await;
        }
    }
}

#[cfg(test)]
mod tests;
