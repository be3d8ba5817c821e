//! The bus of a [`TestApp`](super::TestApp): the handlers on the store, which records the runs of its handlers.
//!
//! Invariant: it changes no run. Deliveries, retries and progress are those of the handlers on the store.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

use super::{clock::in_run, delegate};
use crate::{
    domain::name::Name,
    port::{
        Subscriber, Subscription,
        delivery::{Delivery, HandlerError},
    },
    runtime::engine::StoreBus,
};

/// The error of a run that ended without a result.
const NO_OUTCOME: &str = "the run ended without an outcome: a panic, the time limit, or a crash";

/// One run of a handler.
#[derive(Debug, Clone)]
pub(super) struct RecordedRun {
    pub(super) handler: Name,
    pub(super) delivery: Delivery,
    /// `None` if the run succeeded.
    pub(super) error: Option<String>,
}

/// The runs of handlers, in the order they ended. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct RecordedRuns(Arc<RunsInner>);

#[derive(Debug, Default)]
struct RunsInner {
    /// The number of runs that have begun.
    begun: AtomicUsize,
    ended: Mutex<Vec<RecordedRun>>,
}

impl RecordedRuns {
    /// Returns the number of runs that have begun.
    pub(super) fn begun(&self) -> usize {
        self.0.begun.load(Ordering::SeqCst)
    }

    /// Returns the number of runs that have not ended.
    pub(super) fn running(&self) -> usize {
        self.begun() - self.0.ended.lock().len()
    }

    /// Returns the runs that have ended.
    pub(super) fn ended(&self) -> Vec<RecordedRun> {
        self.0.ended.lock().clone()
    }

    /// Returns the runs that have ended, without the first `count`.
    pub(super) fn ended_after(&self, count: usize) -> Vec<RecordedRun> {
        self.0.ended.lock().iter().skip(count).cloned().collect()
    }

    /// Returns a subscriber that runs `subscriber` and records it.
    fn record(&self, subscriber: Subscriber) -> Subscriber {
        let (runs, options, app) = (self.clone(), subscriber.options(), subscriber.app());
        let crate_name = subscriber.crate_name();
        let (name, events) = (subscriber.name().clone(), subscriber.events());
        let recording = Subscriber::new(name.clone(), events, move |delivery| {
            let (runs, subscriber, name) = (runs.clone(), subscriber.clone(), name.clone());
            let number = runs.0.begun.fetch_add(1, Ordering::SeqCst);
            Box::pin(in_run(number, async move {
                let mut run = RunGuard { runs: &runs, run: Some((name, delivery.clone())), outcome: None };
                let outcome = subscriber.handle(delivery).await;
                run.outcome = Some(outcome.as_ref().err().map(HandlerError::to_string));
                drop(run);
                outcome
            }))
        });
        recording.with_options(options).of_app(app).of_crate(crate_name)
    }
}

/// Records a run when this guard is dropped: when the run returns, panics or is cancelled.
struct RunGuard<'a> {
    runs: &'a RecordedRuns,
    run: Option<(Name, Delivery)>,
    /// `None` until the run returns; then its error, if it failed.
    outcome: Option<Option<String>>,
}

impl Drop for RunGuard<'_> {
    fn drop(&mut self) {
        let error = self.outcome.take().unwrap_or_else(|| Some(NO_OUTCOME.to_owned()));
        let ended = self.run.take().map(|(handler, delivery)| RecordedRun { handler, delivery, error });
        self.runs.0.ended.lock().extend(ended);
    }
}

/// A bus in memory that records the runs of its handlers.
pub(super) struct RecordingBus(Recorder);

impl RecordingBus {
    pub(super) const fn new(bus: StoreBus, runs: RecordedRuns) -> Self {
        Self(Recorder { bus, runs })
    }
}

/// The wrapped bus, with an `add_subscriber` that precedes the bus's own.
struct Recorder {
    bus: StoreBus,
    runs: RecordedRuns,
}

impl Recorder {
    fn add_subscriber(&self, group: Name, subscriber: Subscriber) -> Subscription {
        use crate::port::EventBus as _;
        self.bus.add_subscriber(group, self.runs.record(subscriber))
    }
}

impl Deref for Recorder {
    type Target = StoreBus;

    fn deref(&self) -> &StoreBus {
        &self.bus
    }
}

delegate!(RecordingBus, self => self.0; EventBus {
    async fn publish(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        self.0.publish(events).await
    }

    fn relay_target(&self) -> Option<&dyn RelayTarget> {
        self.0.relay_target()
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        self.0.dead_letters()
    }
});
