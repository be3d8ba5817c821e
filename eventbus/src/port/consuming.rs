//! The life of a bus's consumers: begin, one task per group, stop, shut down; shared by all buses.
//!
//! Keep: a task is asked to stop and then awaited. It is aborted only when a deadline has passed, or when the future
//! of [`Consuming::run`] is dropped; what it had in hand then stays pending.

use std::{collections::HashMap, sync::Mutex, sync::PoisonError, time::Duration};

use tokio::{
    task::{Id, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{ConsumeError, RetryPolicy, ShutdownError, Subscriber, Subscribers};
use crate::domain::{clock::SharedClock, name::Name};

/// When a consumer that died is replaced.
const RESTART_BACKOFF: RetryPolicy = RetryPolicy {
    retry_for: Duration::MAX,
    max_retries: None,
    first_delay: Duration::from_millis(50),
    max_delay: Duration::from_secs(5),
};
/// A consumer that lived so long did not die of what its predecessor died of.
const RESTART_BACKOFF_RESET_AFTER: Duration = Duration::from_secs(60);

/// Whether a bus consumes, and how it is asked to stop; a bus keeps one and shares it with its clones.
#[derive(Debug, Default)]
pub struct Consuming {
    state: Mutex<ConsumingState>,
    clock: SharedClock,
}

#[derive(Debug, Default)]
struct ConsumingState {
    closed: bool,
    run: Option<CancelTokens>,
}

#[derive(Debug, Clone)]
struct CancelTokens {
    stop: CancellationToken,
    abort: CancellationToken,
    ended: CancellationToken,
}

/// How the consumer of one group is asked to stop.
#[derive(Debug, Clone)]
pub struct StopSignal(CancellationToken);

impl StopSignal {
    #[cfg(test)]
    pub(super) const fn from_token(token: CancellationToken) -> Self {
        Self(token)
    }

    /// A signal that also stops when the returned token is cancelled; the token alone does not stop this one.
    #[must_use]
    pub fn child(&self) -> (Self, CancellationToken) {
        let token = self.0.child_token();
        (Self(token.clone()), token)
    }

    /// Whether the consumer is to stop after the delivery it is in.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until the consumer is to stop.
    pub async fn stopped(&self) {
        self.0.cancelled().await;
    }

    /// Waits for `last`, but once the consumer is to stop only for a second more. `None`: given up.
    pub(crate) async fn within_grace_period<F: Future>(&self, last: F) -> Option<F::Output> {
        within_grace_period(&self.0, last).await
    }
}

/// How long something that a store is asked for goes on after it was to stop: the store may be gone. Real time, since it is
/// the reply of a server that is waited for.
const STOP_GRACE_PERIOD: Duration = Duration::from_secs(1);

/// Waits for `last`, but once it is to stop only for a second more. `None`: given up.
pub(crate) async fn within_grace_period<F: Future>(stop: &CancellationToken, last: F) -> Option<F::Output> {
    let over = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_GRACE_PERIOD).await;
    };
    tokio::select! {
        biased;
        last = last => Some(last),
        () = over => None,
    }
}

impl Consuming {
    /// Nothing consumes yet; what waits, waits by this clock.
    #[must_use]
    pub fn with_clock(clock: SharedClock) -> Self {
        Self { clock, ..Self::default() }
    }

    /// Runs `consume` in a task of its own for every group that has subscribers, also for those that get their first
    /// one later, until [`stop`](Self::stop); a group that loses its last subscriber is stopped alone. A task that
    /// panics is replaced, after a delay that grows up to five seconds.
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
            tasks.follow(&subscribers.groups(), &run.tokens.stop, &consume);
            tokio::select! {
                () = run.tokens.stop.cancelled() => {}
                _ = changes.changed() => {}
                () = tasks.await_one() => {}
            }
        }
        tokio::select! {
            biased;
            () = tasks.await_all() => {}
            () = run.tokens.abort.cancelled() => log_aborted(subscribers),
        }
        Ok(())
    }

    fn begin(&self, destination: &Name) -> Result<Run<'_>, ConsumeError> {
        let destination = destination.clone();
        let mut state = self.state();
        if state.closed {
            return Err(ConsumeError::ShutDown { destination });
        }
        if state.run.is_some() {
            return Err(ConsumeError::AlreadyConsuming { destination });
        }
        let tokens = CancelTokens {
            stop: CancellationToken::new(),
            abort: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        state.run = Some(tokens.clone());
        Ok(Run { consuming: self, tokens })
    }

    /// Asks the consumers to stop after the deliveries they are in; returns once they have stopped.
    ///
    /// A handler must not wait for it: it would wait for itself.
    pub async fn stop(&self) {
        let Some(run) = self.state().run.clone() else {
            return;
        };
        run.stop.cancel();
        run.ended.cancelled().await;
    }

    /// Whether [`run`](Self::run) is running.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state().run.is_some()
    }

    /// Lets nothing begin any more.
    pub fn close(&self) {
        self.state().closed = true;
    }

    /// Whether it was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Closes, stops, and aborts what has not stopped after `timeout`.
    ///
    /// # Errors
    /// [`ShutdownError`] if something had to be aborted; `what` names it.
    pub async fn shutdown(&self, what: &str, timeout: Duration) -> Result<(), ShutdownError> {
        self.close();
        if self.clock.timeout(timeout, self.stop()).await.is_ok() {
            return Ok(());
        }
        if let Some(run) = &self.state().run {
            run.abort.cancel();
        }
        Err(ShutdownError::new(what, timeout))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, ConsumingState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names what kept a shutdown waiting, before it is aborted.
fn log_aborted(subscribers: &Subscribers) {
    for group in subscribers.groups() {
        let of_group = subscribers.of_group(&group);
        for busy in of_group.iter().filter_map(Subscriber::handling) {
            tracing::warn!(%group, busy, "aborted by shutdown; the event stays pending");
        }
    }
}

/// One call of [`Consuming::run`]; dropping it says that nothing runs any more.
struct Run<'a> {
    consuming: &'a Consuming,
    tokens: CancelTokens,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.consuming.state().run = None;
        self.tokens.ended.cancel();
    }
}

/// The tasks of one run, by group. Dropping them aborts them.
#[derive(Default)]
struct Tasks {
    set: JoinSet<()>,
    groups: HashMap<Id, Task>,
    /// How many consumers of a group died one soon after the other.
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
    /// Starts a task for each group that has none, and stops those of groups that are gone.
    fn follow<F, T>(&mut self, groups: &[Name], stop: &CancellationToken, consume: &F)
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
            let stop = stop.child_token();
            let delay = self.restarts.get(group).map_or(Duration::ZERO, |deaths| RESTART_BACKOFF.jittered(*deaths));
            let consuming = consume(group.clone(), StopSignal(stop.clone()));
            let (delayed, clock) = (stop.clone(), self.clock.clone());
            let task = async move {
                delayed.run_until_cancelled(clock.sleep(delay)).await;
                consuming.await;
            };
            let id = self.set.spawn(task).id();
            self.groups.insert(id, Task { group: group.clone(), stop, began: self.clock.after(delay) });
        }
    }

    /// Waits until a task ends; for ever when there is none.
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
            // nobody aborts a single task: the runtime is shutting down, and takes us with it
            tracing::debug!(%group, "consumer ended with the runtime");
            return std::future::pending().await;
        }
        tracing::error!(%group, %error, "consumer died, starting another one");
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
