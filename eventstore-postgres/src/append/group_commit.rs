//! Group commit: concurrent appends share statements.
//!
//! A caller that finds no leader becomes a leader and sends at once, in its own task, without a timer. Requests that
//! arrive meanwhile queue up; the next statement takes them all. Usually that one is sent when the running one ends. If
//! many events wait, it is sent at once: this process then prepares one statement while the server executes the other.
//! It is also sent at once if both are small: an append then does not wait for the commit of other appends.
//!
//! Invariant: while the queue is not empty, some task is a leader or is about to become one; a leader that is dropped,
//! for any reason, hands leadership to a task that it spawns for the waiting requests, unless there is another leader.
//! A caller that goes away gives up only its own appends, which may still be stored if they were sent.
//!
//! Real time, not the given clock: the replies of PostgreSQL.

use std::{collections::VecDeque, mem, pin::pin, sync::Arc};

use eventbus::port::{Append, AppendError};
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, oneshot},
    task::yield_now,
    time::timeout,
};

use super::{
    AppendResult,
    blocked_streams::{BlockedStreams, STREAM_LOCK_WAIT, UnblockSignal},
    entry::{CommitEntry, approximate_bytes},
    executor::AppendExecutor,
};
use crate::store_inner::StoreInner;

/// The most statements that run at a time: two keep both this process and the server busy, and more would be smaller.
const LEADERS_MAX: usize = 2;
/// The number of waiting events that always justifies a second statement, as they share its cost. Two statements of 16
/// events cost both sides a fifth more than one of 32, and are no faster.
const ENOUGH_EVENTS: usize = 64;
/// The most appends in a small statement, during which a second one is sent once as many appends wait.
const SMALL_STATEMENT_APPENDS: usize = 4;
/// The most appends in a statement.
const BATCH_APPENDS_MAX: usize = 1_000;
/// The most bytes in a statement of several appends, roughly; a larger append goes alone.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// The receiver of each result, with the number of the result in the call.
type PendingResults = Vec<(usize, oneshot::Receiver<AppendResult>)>;

/// The queue of appends of one store, and the executor with which its leaders send them.
#[derive(Debug)]
pub(crate) struct GroupCommit {
    executor: AppendExecutor,
    /// Locked to queue a request, or to take a batch; never while a statement runs.
    queue: Mutex<CommitQueue>,
    /// One permit for each append that is queued or executed.
    permits: Arc<Semaphore>,
    request_appends_max: usize,
}

/// The requests that wait for a leader.
///
/// | State | Event | Next state |
/// |---|---|---|
/// | no leader, empty | a request arrives | its caller leads and executes it |
/// | led | a request arrives | led; the request is queued |
/// | led by one that executes | [`ENOUGH_EVENTS`] wait | led by a spawned task too |
/// | led by one that executes up to [`SMALL_STATEMENT_APPENDS`] | as many wait as it executes | led by a spawned task too |
/// | led | the caller's statements end | its leader is dropped |
/// | led | the batch of a spawned leader ends within `STREAM_LOCK_WAIT` | led; the next batch, if the queue has one |
/// | led | execution takes longer than `STREAM_LOCK_WAIT` | its leader is dropped, the execution goes on |
/// | led | the last leader is dropped, also because its caller went away; requests wait | led by a spawned task |
/// | led | the last leader is dropped; no request waits | no leader, empty |
#[derive(Debug, Default)]
struct CommitQueue {
    /// Number of leaders, at most [`LEADERS_MAX`]; if there is none, the queue is empty.
    leaders: usize,
    /// Number of leaders that fill their batches with the requests that arrive.
    filling: usize,
    /// Number of appends in the batches of the leaders.
    executing: usize,
    waiting: VecDeque<Batch>,
    /// Number of appends in `waiting`.
    waiting_appends: usize,
    /// Number of their events.
    waiting_events: usize,
}

/// The runtime shut down and dropped the task that executed the append.
#[derive(Debug, thiserror::Error)]
#[error("the runtime was shut down meanwhile")]
struct RuntimeShutDown;

impl From<RuntimeShutDown> for AppendError {
    fn from(source: RuntimeShutDown) -> Self {
        // the statement may have been sent
        Self::OutcomeUnknown(source.into())
    }
}

impl GroupCommit {
    pub(crate) fn new(store: Arc<StoreInner>) -> Arc<Self> {
        let permits = store.config().append_queue as usize;
        Arc::new(Self {
            executor: AppendExecutor { store, blocked_streams: BlockedStreams::default() },
            queue: Mutex::default(),
            permits: Arc::new(Semaphore::new(permits)),
            request_appends_max: permits.min(BATCH_APPENDS_MAX),
        })
    }

    pub(crate) fn new_request(&self) -> AppendRequest {
        AppendRequest { appends_max: self.request_appends_max, ..AppendRequest::default() }
    }

    /// Executes one append: as [`append`](Self::append) does, without the lists that several need.
    pub(crate) async fn append_one(self: &Arc<Self>, append: Append) -> AppendResult {
        if let Some(signal) = self.executor.blocked_streams.unblock_signal(&append.stream) {
            signal.wait().await;
        }
        let permit = Arc::clone(&self.permits).acquire_owned().await.expect("the semaphore is never closed");
        let (bytes, events) = (approximate_bytes(&append), append.events.len());
        let (entry, answer) = CommitEntry::new(append, permit);
        self.enqueue(Batch { entries: vec![entry], bytes, events, runtime: Some(Handle::current()) }).await;
        answer.await.unwrap_or_else(|_| Err(RuntimeShutDown.into()))
    }

    /// Executes the appends of a request.
    pub(crate) async fn append(self: &Arc<Self>, mut request: AppendRequest, results: &mut [AppendResult]) {
        let (blocked, unblock_signals) = request.split_off_blocked(&self.executor.blocked_streams);
        let mut answers = self.commit(request).await;
        for signal in unblock_signals {
            signal.wait().await;
        }
        answers.append(&mut self.commit(blocked).await);
        for (number, answer) in answers {
            results[number] = answer.await.unwrap_or_else(|_| Err(RuntimeShutDown.into()));
        }
    }

    /// Queues the request, or executes it at once if there is no leader.
    async fn commit(self: &Arc<Self>, request: AppendRequest) -> PendingResults {
        if request.appends.is_empty() {
            return Vec::new();
        }
        let (queued, answers) = self.admit(request).await;
        self.enqueue(queued).await;
        answers
    }

    async fn enqueue(self: &Arc<Self>, queued: Batch) {
        if let Some((leader, entries)) = self.enqueue_or_lead(queued) {
            // boxed: most callers do not lead, and the future of each would hold the statement's future, 20 kB
            Box::pin(leader.execute(entries)).await;
        }
    }

    /// Unblocks all streams: the appends that wait for them fail in the closed store.
    pub(crate) fn close(&self) {
        self.executor.blocked_streams.close();
    }

    /// Waits for a permit for each append of the request.
    async fn admit(&self, request: AppendRequest) -> (Batch, PendingResults) {
        let number = u32::try_from(request.appends.len()).unwrap_or(u32::MAX);
        let mut permits =
            Arc::clone(&self.permits).acquire_many_owned(number).await.expect("the semaphore is never closed");
        let runtime = Some(Handle::current());
        let events = request.appends.iter().map(|(_, append)| append.events.len()).sum();
        let mut queued = Batch { entries: Vec::new(), bytes: request.bytes, events, runtime };
        let mut answers = Vec::new();
        for (number, append) in request.appends {
            let permit = permits.split(1).expect("acquired one permit for each append");
            let (entry, answer) = CommitEntry::new(append, permit);
            queued.entries.push(entry);
            answers.push((number, answer));
        }
        (queued, answers)
    }

    /// Becomes the leader if there is none; queues the request otherwise.
    fn enqueue_or_lead(self: &Arc<Self>, queued: Batch) -> Option<(Leader, Vec<CommitEntry>)> {
        // one lock for both: a leader must not resign between the check and the push
        let mut queue = self.queue.lock();
        if queue.leaders == 0 {
            return Some((self.new_leader(&mut queue, queued.entries.len()), queued.entries));
        }
        queue.waiting_appends += queued.entries.len();
        queue.waiting_events += queued.events;
        queue.waiting.push_back(queued);
        self.spawn_leader_if_due(queue);
        None
    }

    fn new_leader(self: &Arc<Self>, queue: &mut CommitQueue, executing: usize) -> Leader {
        let leader = Leader { group: Arc::clone(self), executing, is_filling: false };
        queue.leaders += 1;
        leader.enter_counts(queue);
        leader
    }

    /// Spawns a leader for the waiting requests, if they need one.
    fn spawn_leader_if_due(self: &Arc<Self>, mut queue: MutexGuard<'_, CommitQueue>) {
        let mut batch = Batch::default();
        if queue.needs_leader() {
            queue.drain_into(&mut batch);
        }
        // a batch has a runtime exactly if it has an append
        let Some(runtime) = batch.runtime.take() else { return };
        let leader = self.new_leader(&mut queue, batch.entries.len());
        // before the spawn: a runtime that is shut down drops the new leader within it, which fails its batch and hands
        // leadership on for the rest
        drop(queue);
        runtime.spawn(leader.lead(batch));
    }
}

impl CommitQueue {
    /// Returns `true` if a statement with the waiting appends is to be sent now: none runs, or enough of them wait.
    fn needs_leader(&self) -> bool {
        let is_small = self.executing <= SMALL_STATEMENT_APPENDS && self.waiting_appends >= self.executing;
        let is_enough = is_small || self.waiting_events >= ENOUGH_EVENTS;
        is_enough && self.leaders < LEADERS_MAX && self.filling == 0 && !self.waiting.is_empty()
    }

    /// Moves as many requests as fit into the batch.
    fn drain_into(&mut self, batch: &mut Batch) {
        while let Some(mut request) = self.waiting.pop_front_if(|request| batch.has_room_for(request)) {
            self.waiting_appends -= request.entries.len();
            self.waiting_events -= request.events;
            // appends of callers that went away were never sent, and need not be
            request.entries.retain(|entry| !entry.is_abandoned());
            if !request.entries.is_empty() {
                batch.bytes += request.bytes;
                batch.entries.append(&mut request.entries);
                batch.runtime = request.runtime;
            }
        }
    }
}

/// A request in the queue, or the requests that the leader executes next.
#[derive(Debug, Default)]
struct Batch {
    entries: Vec<CommitEntry>,
    bytes: usize,
    events: usize,
    /// The runtime of a caller that waits for it, on which a leader can be spawned.
    runtime: Option<Handle>,
}

impl Batch {
    fn has_room_for(&self, request: &Self) -> bool {
        let fits = self.entries.len() + request.entries.len() <= BATCH_APPENDS_MAX
            && self.bytes + request.bytes <= BATCH_BYTES_MAX;
        fits || self.entries.is_empty()
    }
}

/// The right to send a statement. Dropped, it passes to the queue, or to the next request that arrives.
#[derive(Debug)]
struct Leader {
    group: Arc<GroupCommit>,
    /// Number of appends in its batch.
    executing: usize,
    /// Set while it fills the batch.
    is_filling: bool,
}

impl Leader {
    /// Executes appends; hands leadership on after [`STREAM_LOCK_WAIT`], and returns `None` then: by then the statement
    /// likely waits for a row or a connection, and appends to other streams must not wait with it.
    async fn execute(self, entries: Vec<CommitEntry>) -> Option<Self> {
        let group = Arc::clone(&self.group);
        let mut execution = pin!(group.executor.execute(entries));
        if timeout(STREAM_LOCK_WAIT, &mut execution).await.is_ok() {
            return Some(self);
        }
        drop(self);
        execution.await;
        None
    }

    /// Executes the batch, and then the requests that arrived meanwhile, until the queue is empty.
    async fn lead(self, mut batch: Batch) {
        let mut leader = self;
        loop {
            leader.fill_batch(&mut batch).await;
            if batch.entries.is_empty() {
                return;
            }
            match leader.execute(mem::take(&mut batch).entries).await {
                Some(kept) => leader = kept,
                None => return,
            }
        }
    }

    /// Fills the batch from the queue. Yields while it grows: callers that just got their results may append again, and
    /// join.
    async fn fill_batch(&mut self, batch: &mut Batch) {
        let mut before = None;
        while self.take_waiting(batch, before) {
            before = Some(batch.entries.len());
            yield_now().await;
        }
    }

    fn enter_counts(&self, queue: &mut CommitQueue) {
        queue.executing += self.executing;
        queue.filling += usize::from(self.is_filling);
    }

    fn leave_counts(&self, queue: &mut CommitQueue) {
        queue.executing -= self.executing;
        queue.filling -= usize::from(self.is_filling);
    }

    /// Moves the waiting requests into the batch, which had `before` appends. Returns `true` if it grew.
    fn take_waiting(&mut self, batch: &mut Batch, before: Option<usize>) -> bool {
        let mut queue = self.group.queue.lock();
        queue.drain_into(batch);
        let has_grown = before != Some(batch.entries.len());
        self.leave_counts(&mut queue);
        (self.executing, self.is_filling) = (batch.entries.len(), has_grown);
        self.enter_counts(&mut queue);
        has_grown
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        let mut queue = self.group.queue.lock();
        self.leave_counts(&mut queue);
        queue.leaders -= 1;
        self.group.spawn_leader_if_due(queue);
    }
}

/// Appends of one call that go into a batch together, each with the number of its result.
#[derive(Debug, Default)]
pub(crate) struct AppendRequest {
    appends: Vec<(usize, Append)>,
    bytes: usize,
    appends_max: usize,
}

impl AppendRequest {
    pub(crate) fn has_room_for(&self, append: &Append) -> bool {
        self.appends.is_empty()
            || (self.appends.len() < self.appends_max && self.bytes + approximate_bytes(append) <= BATCH_BYTES_MAX)
    }

    pub(crate) fn push(&mut self, number: usize, append: Append) {
        self.bytes += approximate_bytes(&append);
        self.appends.push((number, append));
    }

    /// Splits off the appends to blocked streams, and returns them with the signals to wait for first.
    fn split_off_blocked(&mut self, blocked_streams: &BlockedStreams) -> (Self, Vec<UnblockSignal>) {
        let (mut blocked, mut unblock_signals) = (Self::default(), Vec::new());
        if blocked_streams.is_empty() {
            return (blocked, unblock_signals);
        }
        for (number, append) in self.take().appends {
            let signal = blocked_streams.unblock_signal(&append.stream);
            let request = if signal.is_some() { &mut blocked } else { &mut *self };
            request.push(number, append);
            unblock_signals.extend(signal);
        }
        (blocked, unblock_signals)
    }

    /// Takes the appends, leaving an empty request.
    pub(crate) fn take(&mut self) -> Self {
        let empty = Self { appends_max: self.appends_max, ..Self::default() };
        mem::replace(self, empty)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use eventbus::{ExpectedVersion, Name, NewEvent, StreamId};

    use super::*;
    use crate::{PgEventStore, PgEventStoreConfig};

    fn request(id: &str) -> AppendRequest {
        let events = vec![NewEvent::new(Name::from_static("Placed"), 1, "{}")];
        let stream = StreamId::parse("Order", id).unwrap();
        let mut request = AppendRequest { appends_max: 1, ..AppendRequest::default() };
        request.push(0, Append { stream, expected: ExpectedVersion::Any, events });
        request
    }

    #[tokio::test]
    async fn a_second_statement_does_not_wait_for_the_end_of_the_first() {
        let database_url = eventbus_test::postgres_url().to_owned();
        let schema = eventbus_test::unique_name("store");
        let config = PgEventStoreConfig { database_url, schema, ..PgEventStoreConfig::default() };
        let store = PgEventStore::connect_with(config).await.unwrap();
        let group = store.group_commit();
        let (first, _) = group.admit(request("first")).await;
        let (first_leader, _) = group.enqueue_or_lead(first).expect("it leads");
        let (second, mut answers) = group.admit(request("second")).await;
        assert!(group.enqueue_or_lead(second).is_none(), "a task leads");
        let (_, answer) = answers.pop().unwrap();
        timeout(Duration::from_secs(60), answer).await.expect("it waits for the first").unwrap().unwrap();
        drop(first_leader);
        let all_resigned = async {
            while group.queue.lock().leaders > 0 {
                yield_now().await;
            }
        };
        timeout(Duration::from_secs(60), all_resigned).await.expect("a leader is left");
        let counts = {
            let queue = group.queue.lock();
            (queue.executing, queue.filling, queue.waiting_appends, queue.waiting_events)
        };
        assert_eq!(counts, (0, 0, 0, 0));
        let drop = store.inner().statements().schema().fill_placeholders("DROP SCHEMA {schema} CASCADE");
        let mut connection =
            <sqlx::PgConnection as sqlx::Connection>::connect(eventbus_test::postgres_url()).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(drop)).execute(&mut connection).await.unwrap();
    }

    #[test]
    fn a_second_statement_waits_for_many_events_or_until_it_is_as_large_as_a_small_one() {
        for (waiting_appends, waiting_events, executing, needs_leader) in [
            (1, 1, 1, true),
            (2, 20, 3, false),
            (4, 4, 4, true),
            (5, 5, 5, false),
            (63, 63, 200, false),
            (64, 64, 200, true),
            (7, 64, 32, true),
            (1, 64, 2, true),
        ] {
            let queue = |leaders, filling| CommitQueue {
                leaders,
                filling,
                executing,
                waiting: [Batch::default()].into(),
                waiting_appends,
                waiting_events,
            };
            let waiting = format!("{waiting_appends} with {waiting_events} events wait for {executing}");
            assert_eq!(queue(1, 0).needs_leader(), needs_leader, "{waiting}");
            assert!(!queue(1, 1).needs_leader(), "the leader that fills its batch takes them");
            assert!(!queue(LEADERS_MAX, 0).needs_leader());
        }
        assert!(
            CommitQueue { waiting: [Batch::default()].into(), waiting_appends: 1, ..Default::default() }.needs_leader()
        );
        assert!(!CommitQueue::default().needs_leader());
    }
}
