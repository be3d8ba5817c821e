//! Fixtures of the rules: the store under test, events, streams.

use std::{
    fmt::{Debug, Display},
    ops::Deref,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::task::JoinSet;

use crate::{
    AggregateId, ExpectedVersion, Name, NewEvent, Position, RecordedEvent, StreamId, Version,
    event::EventFields,
    port::{AppendError, Direction, EventStore, FeedFilter, ReadError, RecordStream},
};

/// Time that a rule waits before it fails: far longer than any store needs, so that only a hang exceeds it.
const RULE_TIMEOUT: Duration = Duration::from_secs(60);

/// More events than any rule stores. A read that loops may never yield, so that no timeout could stop it.
const EVENTS_MAX: usize = 20_000;

/// A store under test, and the rule it is tested for; every failure names the rule.
pub(super) struct StoreUnderTest<S> {
    rule: &'static str,
    store: Arc<S>,
}

impl<S> Clone for StoreUnderTest<S> {
    fn clone(&self) -> Self {
        Self { rule: self.rule, store: Arc::clone(&self.store) }
    }
}

impl<S> Deref for StoreUnderTest<S> {
    type Target = S;
    fn deref(&self) -> &S {
        &self.store
    }
}

impl<S: EventStore> StoreUnderTest<S> {
    pub(super) fn new(rule: &'static str, store: S) -> Self {
        Self { rule, store: Arc::new(store) }
    }

    /// Returns the shared store.
    pub(super) fn shared_store(&self) -> Arc<S> {
        Arc::clone(&self.store)
    }

    #[track_caller]
    pub(super) fn fail(&self, what: impl Display) -> ! {
        panic!("rule `{}` is broken: {what}", self.rule)
    }

    #[track_caller]
    pub(super) fn check(&self, holds: bool, what: impl Display) {
        if !holds {
            self.fail(what);
        }
    }

    #[track_caller]
    #[allow(clippy::needless_pass_by_value, reason = "reads like `assert_eq`")]
    pub(super) fn same<T: PartialEq + Debug>(&self, actual: T, wanted: T, what: impl Display) {
        if actual != wanted {
            self.fail(format_args!("{what}\n  wanted: {wanted:?}\n  actual: {actual:?}"));
        }
    }

    #[track_caller]
    pub(super) fn ok<T, E: Debug>(&self, result: Result<T, E>, what: impl Display) -> T {
        match result {
            Ok(value) => value,
            Err(error) => self.fail(format_args!("{what} failed: {error:?}")),
        }
    }

    /// Appends events that the store must accept.
    pub(super) async fn add(
        &self,
        stream: &StreamId,
        expected: ExpectedVersion,
        events: &[NewEvent],
    ) -> Vec<RecordedEvent> {
        let result = self.append(stream, expected, events.to_vec()).await;
        self.ok(result, format_args!("append to {stream} at {expected}"))
    }

    /// Appends events that the store must refuse.
    pub(super) async fn refused(
        &self,
        stream: &StreamId,
        expected: ExpectedVersion,
        events: &[NewEvent],
    ) -> AppendError {
        match self.append(stream, expected, events.to_vec()).await {
            Ok(recorded) => self.fail(format_args!("append to {stream} at {expected} was accepted: {recorded:?}")),
            Err(error) => error,
        }
    }

    /// Appends events that must conflict, and checks that the error names the stream's version.
    pub(super) async fn conflict(&self, stream: &StreamId, expected: ExpectedVersion, actual: u64) -> AppendError {
        let error = self.refused(stream, expected, &events(2)).await;
        match &error {
            AppendError::Conflict { stream: named, expected: wanted, actual: at } => {
                self.same(named, stream, "the conflict names another stream");
                self.same(*wanted, expected, "the conflict names another expectation");
                self.same(at.get(), actual, "the conflict names another version");
            }
            other => self.fail(format_args!("no conflict but {other:?}")),
        }
        error
    }

    /// Reads all events of a stream.
    pub(super) async fn read(&self, stream: &StreamId) -> Vec<RecordedEvent> {
        self.read_from(stream, Version::FIRST, Direction::Forward).await
    }

    pub(super) async fn read_from(&self, stream: &StreamId, from: Version, direction: Direction) -> Vec<RecordedEvent> {
        let read = self.read_stream(stream, from, direction);
        self.collect(&format!("reading {stream}"), read).await
    }

    /// Reads all events after a position.
    pub(super) async fn feed(&self, after: Position) -> Vec<RecordedEvent> {
        let read = self.read_all(after);
        self.collect("reading the feed", read).await
    }

    /// Reads all events after one position, up to and including a second one that is at or before the head.
    pub(super) async fn between(&self, after: Position, through: Position) -> Vec<RecordedEvent> {
        let read = self.read_feed(after, through, &FeedFilter::all());
        self.collect("reading a part of the feed", read).await
    }

    /// Reads the events at positions; asks again for those that a call has not read.
    pub(super) async fn at_positions(&self, positions: &[Position]) -> Vec<Result<Option<RecordedEvent>, ReadError>> {
        let mut read = Vec::new();
        while read.len() < positions.len() {
            let page = self.read_events_at(&positions[read.len()..]).await;
            let is_page = !page.is_empty() && read.len() + page.len() <= positions.len();
            self.check(is_page, format_args!("{} events at {} positions", page.len(), positions.len() - read.len()));
            read.extend(page);
        }
        read
    }

    pub(super) async fn collect(&self, what: &str, read: RecordStream<'_>) -> Vec<RecordedEvent> {
        let all = read.take(EVENTS_MAX).try_collect::<Vec<_>>();
        let all = self.ok(self.within(what, all).await, what);
        self.check(all.len() < EVENTS_MAX, format_args!("{what} never ends"));
        all
    }

    /// Returns the head of the feed.
    pub(super) async fn head_position(&self) -> Position {
        self.ok(self.head().await, "asking for the head")
    }

    /// Checks the events of a stream: as read, as its version and in the feed.
    pub(super) async fn holds(&self, stream: &StreamId, wanted: &[RecordedEvent]) {
        let stored = self.read(stream).await;
        self.same(&*stored, wanted, format_args!("{stream} holds other events"));
        let version = self.ok(self.stream_version(stream).await, "asking for the version");
        self.same(version.get(), wanted.len() as u64, format_args!("{stream} is at another version"));
        let feed = self.feed(Position::START).await;
        let of_stream = feed.into_iter().filter(|event| event.metadata().stream() == stream);
        self.same(&*of_stream.collect::<Vec<_>>(), wanted, format_args!("the feed holds other events of {stream}"));
    }

    /// Runs `tasks` futures concurrently, and waits for all.
    pub(super) async fn at_once<F, T>(&self, tasks: usize, task: impl Fn(usize) -> F) -> Vec<T>
    where
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        let all: JoinSet<T> = (0..tasks).map(task).collect();
        self.within("concurrent calls", all.join_all()).await
    }

    /// Waits for a future, but at most [`RULE_TIMEOUT`].
    pub(super) async fn within<F: Future>(&self, what: &str, future: F) -> F::Output {
        match tokio::time::timeout(RULE_TIMEOUT, future).await {
            Ok(output) => output,
            Err(_) => self.fail(format_args!("{what} did not end within {RULE_TIMEOUT:?}")),
        }
    }
}

/// Returns the name of a new stream.
pub(super) fn stream() -> StreamId {
    StreamId::new(Name::from_static("Account"), AggregateId::new())
}

/// Returns an event with a payload.
pub(super) fn event() -> NewEvent {
    NewEvent::new(Name::from_static("Deposited"), 1, r#"{"cents":120}"#)
}

/// Returns `count` different events.
pub(super) fn events(count: usize) -> Vec<NewEvent> {
    (1..=count)
        .map(|n| {
            let payload = format!(r#"{{"n":{n}}}"#);
            NewEvent::new(Name::from_static("Counted"), 1, payload)
        })
        .collect()
}

/// Returns the versions of events.
pub(super) fn versions(events: &[RecordedEvent]) -> Vec<u64> {
    events.iter().map(|event| event.version().get()).collect()
}

/// Returns `true` if all events have a position and the positions increase.
pub(super) fn positions_grow(events: &[RecordedEvent]) -> bool {
    events.iter().all(|event| event.position().is_some())
        && events.windows(2).all(|pair| pair[0].position() < pair[1].position())
}

/// Copies the fields of an event.
pub(super) fn copied(fields: EventFields<'_>) -> (Name, u32, bool, String) {
    let EventFields { event_type, schema_version, has_sealed_fields, payload } = fields;
    (event_type.clone(), schema_version, has_sealed_fields, payload.to_owned())
}
