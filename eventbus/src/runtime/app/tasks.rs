//! The tasks of a running app.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::sync::{oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::plan::CheckedPlan;
use crate::{
    domain::{
        clock::SharedClock,
        error::{BoxError, ErrorLine, panic_text},
    },
    port::{
        ConnectError, ConsumeError, EventBus, EventStore, ShutdownError, SubscriberStatus, Subscription,
        app_number::AppNumber,
        backoff::{Backoff, BackoffTimer},
    },
    runtime::{
        definition::HandlerDefinition,
        handler_context::HandlerContext,
        projection::RunnerContext,
        relay::{Relay, RelayOptions, RelayView},
        repository::RepositorySource,
        retention::{Notes, Retention},
        subscription::add_handlers,
    },
    support::{Outage, relay_to},
};

/// Timeout of the store's reply during a shutdown. Real time: it is the reply of a server.
const STORE_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const STATUS_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The tasks of an app: relay, consumers, projections. Dropping them cancels them.
pub(super) struct AppTasks {
    cancel: CancellationToken,
    /// Aborts the tasks that did not stop in time.
    abort: CancellationToken,
    /// Aborts the tasks that can only wait; cancelled only once the store does not answer.
    abort_store_tasks: CancellationToken,
    tracker: TaskTracker,
    /// Store, states and lease settings of the projection runners.
    runner_context: RunnerContext,
    relay: Option<RelayView>,
    /// The subscriptions of the handlers, while the consumer has them.
    subscriptions: Weak<Subscriptions>,
    number: AppNumber,
    /// The app's own subscribers, in the order of its handlers: several apps may share the bus.
    subscribers: Vec<Arc<dyn SubscriberStatus>>,
}

/// The buses of an app, for its tasks.
pub(super) struct Buses {
    /// Runs the handlers.
    pub(super) bus: Arc<dyn EventBus>,
    /// The bus on which the relay publishes.
    pub(super) relayed: Option<Arc<dyn EventBus>>,
    /// Set if handlers read the store, and wait for no bus.
    pub(super) has_store: bool,
    /// Set if the bus that the relay, or an app without a store, needs is connected.
    pub(super) is_connected: bool,
}

impl AppTasks {
    /// Spawns the tasks. If the bus is not connected, a task connects it before the relay, and handlers without a store,
    /// begin.
    pub(super) async fn spawn(
        context: RunnerContext,
        Buses { bus, relayed, has_store, is_connected }: Buses,
        plan: &CheckedPlan,
        relay: Option<RelayOptions>,
        retention: Retention,
        repositories: &RepositorySource,
    ) -> Result<Self, BoxError> {
        let (store, clock) = (Arc::clone(&context.store), context.clock.clone());
        let feed_head = context.feed_head.clone();
        let (cancel, abort) = (CancellationToken::new(), CancellationToken::new());
        let number = AppNumber::next();
        let handler_context = HandlerContext {
            app: Some(number),
            stop: cancel.clone(),
            clock: clock.clone(),
            transactions: store.transactions(),
            ..HandlerContext::from(&context.state)
        };
        let subscriptions =
            Arc::new(Subscriptions(add_handlers(&*bus, &plan.handlers, &plan.groups, &handler_context)));
        let mut subscribers = bus.subscribers();
        subscribers.retain(|status| status.subscriber().app() == Some(number));
        repositories.meters.export_runs(&subscribers);
        let mut tasks = Self {
            cancel,
            abort_store_tasks: CancellationToken::new(),
            abort,
            tracker: TaskTracker::new(),
            runner_context: context,
            relay: None,
            subscriptions: Arc::downgrade(&subscriptions),
            number,
            subscribers,
        };
        // not restarted: without it each reader polls by itself
        tasks.spawn_store_task(feed_head.share().run(tasks.cancel.clone()));
        let connected = watch::Sender::new(is_connected);
        let is_connected = connected.subscribe();
        let transport = relayed.as_ref().unwrap_or(&bus);
        if !*connected.borrow() {
            let connecting = connect(Arc::clone(transport), clock.clone(), connected, tasks.cancel.clone());
            tasks.spawn_abortable(&tasks.abort, connecting);
        }
        if let Some(options) = relay {
            let lease_request = tasks.runner_context.lease_request(relay_to(transport.destination()));
            let relay = Relay::prepare(feed_head, Arc::clone(transport), options, lease_request).await?;
            tasks.relay = Some(relay.view());
            let (relay, is_connected) = (Arc::new(relay), is_connected.clone());
            tasks.spawn_restarted("the relay", move |cancel| {
                let (relay, is_connected) = (Arc::clone(&relay), is_connected.clone());
                async move { run_when_connected(is_connected, relay.run(&cancel), &cancel).await }
            });
        }
        if !plan.handlers.is_empty() {
            let cancel = tasks.cancel.clone();
            let consumer = consume_until_cancelled(Arc::clone(&bus), subscriptions, clock.clone(), cancel.clone());
            let consumer = async move {
                match has_store {
                    true => consumer.await,
                    false => run_when_connected(is_connected, consumer, &cancel).await,
                }
            };
            let (begun, has_begun) = oneshot::channel::<()>();
            let begin = async move {
                let _ = begun.send(());
            };
            // biased: the consumer begins before `start` returns, and health says so
            tasks.spawn_abortable(&tasks.abort, async {
                tokio::join!(biased; consumer, begin);
            });
            let _ = has_begun.await;
        }
        let has_inbox = |handler: &HandlerDefinition| {
            let requirements = handler.requirements();
            !requirements.transactions().is_empty() || !requirements.aggregates().is_empty()
        };
        let purge = move |notes, cancel| retention.purge(notes, Arc::clone(&store), clock.clone(), cancel);
        if plan.handlers.iter().any(has_inbox) {
            let purge = purge.clone();
            tasks.spawn_restarted("the deletion of old deliveries", move |cancel| purge(Notes::Deliveries, cancel));
        }
        let first_command = Arc::clone(&repositories.first_command);
        tasks.spawn_restarted("the deletion of old commands", move |cancel| {
            let (first_command, purging) = (Arc::clone(&first_command), purge(Notes::Commands, cancel.clone()));
            async move {
                if cancel.run_until_cancelled(first_command.notified()).await.is_some() {
                    purging.await;
                }
            }
        });
        for projection in &plan.projections {
            let (projection, context) = (projection.clone(), tasks.runner_context.clone());
            tasks.spawn_restarted("a projection", move |cancel| projection.run(context.clone(), cancel));
        }
        tasks.tracker.close();
        Ok(tasks)
    }

    fn spawn_abortable(&self, abort: &CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
        let abort = abort.clone();
        self.tracker.spawn(async move { abort.run_until_cancelled(task).await });
    }

    /// Spawns a task that uses the store, and restarts it after a panic.
    pub(super) fn spawn_restarted<F: Future<Output = ()> + Send + 'static>(
        &self,
        task: &'static str,
        begin: impl Fn(CancellationToken) -> F + Send + 'static,
    ) {
        let (clock, cancel) = (self.runner_context.clock.clone(), self.cancel.clone());
        self.spawn_store_task(async move { restart_after_panics(task, &clock, &cancel, begin).await });
    }

    fn spawn_store_task(&self, task: impl Future<Output = ()> + Send + 'static) {
        let abort = self.abort_store_tasks.clone();
        self.spawn_abortable(&self.abort, async move {
            abort.run_until_cancelled(task).await;
        });
    }

    pub(super) const fn runner_context(&self) -> &RunnerContext {
        &self.runner_context
    }

    pub(super) const fn relay(&self) -> Option<&RelayView> {
        self.relay.as_ref()
    }

    pub(super) const fn number(&self) -> AppNumber {
        self.number
    }

    pub(super) fn subscribers(&self) -> &[Arc<dyn SubscriberStatus>] {
        &self.subscribers
    }

    /// Returns the token that is cancelled when the app stops.
    pub(super) const fn stop(&self) -> &CancellationToken {
        &self.cancel
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Stops all tasks. Deliveries in flight have until `timeout`; tasks that wait for a silent store end sooner.
    pub(super) async fn shutdown(&self, bus: &dyn EventBus, timeout: Duration) -> Result<(), ShutdownError> {
        let clock = &self.runner_context.clock;
        let began = clock.instant();
        let stopping = async {
            // biased: the bus learns first that it closes for good: a consumer whose name does not return then finishes
            // the entries it has read
            let (bus_stopped, ()) = tokio::join!(biased; bus.shutdown(timeout), async { self.cancel.cancel() });
            let left = timeout.saturating_sub(clock.elapsed(began));
            (bus_stopped, clock.timeout(left, self.tracker.wait()).await)
        };
        // biased: the shutdown begins before the watch of the store, which only aborts tasks and never ends
        let (bus_stopped, tasks_stopped) = tokio::select! {
            biased;
            stopped = stopping => stopped,
            never = self.abort_if_store_is_silent() => match never {},
        };
        let is_without_store = self.abort_store_tasks.is_cancelled();
        self.abort.cancel();
        bus_stopped?;
        tasks_stopped.map_err(|_| ShutdownError::new("the relay or a projection", timeout))?;
        match is_without_store {
            true => {
                Err(ShutdownError::new("the relay or a projection, whose store does not answer,", STORE_ANSWER_TIMEOUT))
            }
            false => Ok(()),
        }
    }

    /// Aborts all tasks; returns once they have ended. A rebuild after missed events may end a moment later.
    #[cfg(feature = "testkit")]
    pub(super) async fn abort(&self) {
        self.abort.cancel();
        self.tracker.wait().await;
    }

    /// Aborts the tasks that wait for the store, if it does not answer any more; never returns.
    async fn abort_if_store_is_silent(&self) -> Infallible {
        let answers = async {
            while self.runner_context.store.head().await.is_err() {
                tokio::time::sleep(STATUS_POLL_INTERVAL).await;
            }
        };
        if tokio::time::timeout(STORE_ANSWER_TIMEOUT, answers).await.is_err() && !self.tracker.is_empty() {
            self.abort_store_tasks.cancel();
        }
        std::future::pending().await
    }
}

impl Drop for AppTasks {
    fn drop(&mut self) {
        // before the consumer has ended: the next app may start meanwhile
        if let Some(subscriptions) = self.subscriptions.upgrade() {
            subscriptions.0.iter().for_each(Subscription::leave);
        }
        self.cancel.cancel();
    }
}

/// The subscriptions of an app's handlers on a bus; dropping them cancels them.
///
/// Invariant: they outlive the consumer. An entry in flight for a group without handlers would stay unhandled.
struct Subscriptions(Vec<Subscription>);

impl Drop for Subscriptions {
    fn drop(&mut self) {
        for subscription in &self.0 {
            subscription.cancel();
        }
    }
}

/// The delays before a task that panicked is restarted.
const RESTART_BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));

/// Runs a task to its end; restarts it after a panic, which only a bug of this crate or of a driver causes.
async fn restart_after_panics<F: Future<Output = ()>>(
    task: &'static str,
    clock: &SharedClock,
    cancel: &CancellationToken,
    begin: impl Fn(CancellationToken) -> F,
) {
    let mut backoff = BackoffTimer::new(RESTART_BACKOFF);
    while let Err(panic) = AssertUnwindSafe(begin(cancel.clone())).catch_unwind().await {
        tracing::error!(task, error = panic_text(&*panic), "a task of the app died, starting its replacement");
        cancel.run_until_cancelled(clock.sleep(backoff.next_jittered())).await;
    }
}

/// Runs a task once the bus is connected.
async fn run_when_connected(
    mut is_connected: watch::Receiver<bool>,
    task: impl Future<Output = ()>,
    cancel: &CancellationToken,
) {
    let connected = is_connected.wait_for(|is_connected| *is_connected);
    if cancel.run_until_cancelled(connected).await.is_some() {
        task.await;
    }
}

/// The delays while the bus is away.
const BUS_BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));

/// Connects a bus that was away when the app started. Retries also a refusal, since an operator may repair its cause.
async fn connect(
    bus: Arc<dyn EventBus>,
    clock: SharedClock,
    connected: watch::Sender<bool>,
    cancel: CancellationToken,
) {
    let (began, destination) = (clock.instant(), bus.destination());
    let (mut backoff, mut is_refused) = (BackoffTimer::new(BUS_BACKOFF), false);
    loop {
        if cancel.run_until_cancelled(clock.sleep(backoff.next_jittered())).await.is_none() {
            return;
        }
        match cancel.run_until_cancelled(bus.ensure_connected()).await {
            None => return,
            Some(Ok(())) => break,
            Some(Err(ConnectError::Refused { source, .. })) if !std::mem::replace(&mut is_refused, true) => {
                tracing::error!(%destination, error = %ErrorLine(&*source), "bus refuses the connection, trying again");
            }
            Some(Err(_)) => {}
        }
    }
    tracing::info!(%destination, after = ?clock.elapsed(began), "bus is connected");
    connected.send_replace(true);
}

/// Logs when the bus consumes after an outage; never returns.
async fn log_when_consuming(bus: &dyn EventBus, clock: &SharedClock, outage: &mut Outage) -> Infallible {
    while outage.lasts() {
        clock.sleep(STATUS_POLL_INTERVAL).await;
        if bus.is_consuming()
            && let Some(lasted) = outage.ends()
        {
            tracing::info!(destination = %bus.destination(), ?lasted, "the bus consumes now");
        }
    }
    std::future::pending().await
}

/// Consumes until cancelled, and retries while the bus is away.
///
/// If a different caller consumes on the same bus, its consumer serves the app's handlers too, until this one takes
/// over.
async fn consume_until_cancelled(
    bus: Arc<dyn EventBus>,
    _subscriptions: Arc<Subscriptions>,
    clock: SharedClock,
    cancel: CancellationToken,
) {
    let (mut backoff, mut outage) = (BackoffTimer::new(BUS_BACKOFF), Outage::new(clock.clone()));
    while !cancel.is_cancelled() {
        let mut consuming = std::pin::pin!(bus.start_consuming());
        // biased: polls the consumer first, so that `is_consuming` tells below whether it has begun
        let stopped = tokio::select! {
            biased;
            stopped = &mut consuming => stopped,
            never = log_when_consuming(&*bus, &clock, &mut outage) => match never {},
            // a consumer that has not begun would not notice the stop and begin after it
            () = cancel.cancelled() => match bus.is_consuming() {
                true => tokio::join!(bus.stop_consuming(), consuming).1,
                false => return,
            },
        };
        match stopped {
            // the program stopped the bus's consumers: the next `start_consuming` on this bus serves the handlers
            Ok(()) => return cancel.cancelled().await,
            Err(error @ ConsumeError::ShutDown { .. }) => {
                return tracing::error!(destination = %bus.destination(), %error, "cannot consume");
            }
            Err(error) => {
                if outage.begins() {
                    tracing::warn!(destination = %bus.destination(), %error, "cannot consume yet, trying again");
                }
                cancel.run_until_cancelled(clock.sleep(backoff.next_jittered())).await;
            }
        }
    }
}
