//! Those who append at the same time share statements.
//!
//! Who finds nothing under way sends at once, in its own task: there is nothing to wait for, and no timer. Meanwhile
//! the others line up; then one statement takes all of them along.
//!
//! Keep: the turn is always somewhere. While somebody stands in line, somebody has it, or a task that will take it; who
//! drops it, whatever the reason, hands it on. A caller that goes away takes nothing with it but its own append.
//!
//! Real time, not the given clock: the replies of PostgreSQL.

use std::{
    collections::VecDeque,
    mem,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use eventbus::{
    NewEvent,
    port::{Append, AppendError, ListedEventTypes},
};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, oneshot},
    task::yield_now,
    time::timeout,
};

use super::{
    AppendResult,
    blocked_streams::{BlockedStreams, STREAM_LOCK_WAIT, UnblockSignal},
    entry::CommitEntry,
    executor::AppendExecutor,
};
use crate::{config::PgEventStoreConfig, notify::AppendNotifier, pool::ConnectionPools, statements::Statements};

/// The most appends in a statement.
const BATCH_APPENDS_MAX: usize = 1_000;
/// The most bytes in a statement of several appends, roughly; a larger append goes alone.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// What an event takes beside its payload, roughly.
const EVENT_OVERHEAD_BYTES: usize = 256;
/// Who waits for which result.
type PendingResults = Vec<(usize, oneshot::Receiver<AppendResult>)>;

/// All who append through one store.
#[derive(Debug)]
pub(crate) struct GroupCommit {
    executor: AppendExecutor,
    queue: Mutex<CommitQueue>,
    /// A place for each append that is under way or waits.
    permits: Arc<Semaphore>,
    request_appends_max: usize,
}

/// Those who wait for the turn.
#[derive(Debug, Default)]
struct CommitQueue {
    /// Whether somebody has the turn; if nobody has, nobody waits.
    has_leader: bool,
    waiting: VecDeque<QueuedRequest>,
}

#[derive(Debug)]
struct QueuedRequest {
    entries: Vec<CommitEntry>,
    bytes: usize,
    /// Where the caller runs, and hence a task can run for it.
    runtime: Handle,
}

/// The task that made the append ended before it was done: its runtime was shut down.
#[derive(Debug, thiserror::Error)]
#[error("the runtime was shut down meanwhile")]
struct RuntimeShutDown;

impl GroupCommit {
    pub(crate) fn new(
        config: &PgEventStoreConfig,
        connections: ConnectionPools,
        statements: Arc<Statements>,
        listed_types: Arc<ListedEventTypes>,
        append_notifier: Arc<AppendNotifier>,
    ) -> Arc<Self> {
        let permits = config.append_queue as usize;
        Arc::new(Self {
            executor: AppendExecutor {
                connections,
                statements,
                listed_types,
                append_notifier,
                blocked_streams: BlockedStreams::default(),
                retry_timeout: config.connect_timeout,
            },
            queue: Mutex::default(),
            permits: Arc::new(Semaphore::new(permits)),
            request_appends_max: permits.min(BATCH_APPENDS_MAX),
        })
    }

    /// An empty call.
    pub(crate) fn new_request(&self) -> AppendRequest {
        AppendRequest { appends_max: self.request_appends_max, ..AppendRequest::default() }
    }

    /// Makes the appends, alone or with others, and notes the results.
    pub(crate) async fn append(self: &Arc<Self>, mut request: AppendRequest, results: &mut [AppendResult]) {
        let (blocked, unblock_signals) = request.split_off_blocked(&self.executor.blocked_streams);
        let mut answers = self.commit(request).await;
        for free in unblock_signals {
            free.wait().await;
        }
        answers.append(&mut self.commit(blocked).await);
        for (number, answer) in answers {
            // where nobody answers, nobody knows
            results[number] = answer.await.unwrap_or_else(|_| Err(AppendError::OutcomeUnknown(RuntimeShutDown.into())));
        }
    }

    /// Lines up, or settles the appends at once if nobody is before them.
    async fn commit(self: &Arc<Self>, request: AppendRequest) -> PendingResults {
        if request.appends.is_empty() {
            return Vec::new();
        }
        let (queued, answers) = self.admit(request).await;
        if let Some((leader, entries)) = self.enqueue_or_lead(queued) {
            leader.execute(entries).await;
        }
        answers
    }

    /// Those who stepped aside line up again, to be told that the store is closed.
    pub(crate) fn close(&self) {
        self.executor.blocked_streams.close();
    }

    /// Waits until there is room.
    async fn admit(&self, request: AppendRequest) -> (QueuedRequest, PendingResults) {
        let number = u32::try_from(request.appends.len()).unwrap_or(u32::MAX);
        let mut permits =
            Arc::clone(&self.permits).acquire_many_owned(number).await.expect("the semaphore is never closed");
        let mut queued = QueuedRequest { entries: Vec::new(), bytes: request.bytes, runtime: Handle::current() };
        let mut answers = Vec::new();
        for (number, append) in request.appends {
            let permit = permits.split(1).expect("there is a place for each");
            let (entry, answer) = CommitEntry::new(append, permit);
            queued.entries.push(entry);
            answers.push((number, answer));
        }
        (queued, answers)
    }

    /// Takes the turn if nobody has it, otherwise waits in line.
    fn enqueue_or_lead(self: &Arc<Self>, queued: QueuedRequest) -> Option<(Leader, Vec<CommitEntry>)> {
        let mut line = self.lock_queue();
        if mem::replace(&mut line.has_leader, true) {
            line.waiting.push_back(queued);
            return None;
        }
        Some((Leader(Arc::clone(self)), queued.entries))
    }

    fn lock_queue(&self) -> MutexGuard<'_, CommitQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CommitQueue {
    /// Moves as many calls as fit into the load.
    fn drain_into(&mut self, batch: &mut Batch) {
        while let Some(mut request) = self.waiting.pop_front_if(|call| batch.has_room_for(call)) {
            // nothing was sent for those who are gone, and nothing needs to be
            request.entries.retain(|entry| !entry.is_abandoned());
            if !request.entries.is_empty() {
                batch.bytes += request.bytes;
                batch.entries.append(&mut request.entries);
                batch.runtime = Some(request.runtime);
            }
        }
    }
}

/// What a statement takes along.
#[derive(Debug, Default)]
struct Batch {
    entries: Vec<CommitEntry>,
    bytes: usize,
    /// That of one who waits for it.
    runtime: Option<Handle>,
}

impl Batch {
    fn has_room_for(&self, request: &QueuedRequest) -> bool {
        let fits = self.entries.len() + request.entries.len() <= BATCH_APPENDS_MAX
            && self.bytes + request.bytes <= BATCH_BYTES_MAX;
        fits || self.entries.is_empty()
    }
}

/// The right to send the next statement. Dropped, it goes to those who wait, or to whoever comes next.
#[derive(Debug)]
struct Leader(Arc<GroupCommit>);

impl Leader {
    /// Settles appends, and returns the turn unless it took long: then it was handed on meanwhile.
    async fn execute(self, entries: Vec<CommitEntry>) -> Option<Self> {
        let group = Arc::clone(&self.0);
        let mut execution = pin!(group.executor.execute(entries));
        if timeout(STREAM_LOCK_WAIT, &mut execution).await.is_ok() {
            return Some(self);
        }
        drop(self);
        execution.await;
        None
    }

    /// Settles the load, and then what comes meanwhile, until nothing comes any more.
    async fn lead(self, mut batch: Batch) {
        let mut leader = self;
        loop {
            leader.fill_batch(&mut batch).await;
            if batch.entries.is_empty() {
                return;
            }
            match leader.execute(mem::take(&mut batch).entries).await {
                Some(again) => leader = again,
                None => return,
            }
        }
    }

    /// Takes along those who wait, and those who are about to: the ones just answered, who append again.
    async fn fill_batch(&self, batch: &mut Batch) {
        let mut before = None;
        loop {
            self.0.lock_queue().drain_into(batch);
            if before == Some(batch.entries.len()) {
                return;
            }
            before = Some(batch.entries.len());
            yield_now().await;
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        let mut batch = Batch::default();
        {
            let mut line = self.0.lock_queue();
            line.drain_into(&mut batch);
            line.has_leader = batch.runtime.is_some();
        }
        // a task that cannot run any more drops its load, and hands on the turn for the rest
        if let Some(runtime) = batch.runtime.take() {
            runtime.spawn(Leader(Arc::clone(&self.0)).lead(batch));
        }
    }
}

/// Appends that are made in one call, which no statement tears apart, each with the number of its result.
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

    /// Takes out the appends to streams that are set aside, with what to wait for before they are made.
    fn split_off_blocked(&mut self, blocked_streams: &BlockedStreams) -> (Self, Vec<UnblockSignal>) {
        let (mut blocked, mut unblock_signals) = (Self::default(), Vec::new());
        if blocked_streams.is_empty() {
            return (blocked, unblock_signals);
        }
        for (number, append) in self.take().appends {
            let free = blocked_streams.unblock_signal(&append.stream);
            let call = if free.is_some() { &mut blocked } else { &mut *self };
            call.push(number, append);
            unblock_signals.extend(free);
        }
        (blocked, unblock_signals)
    }

    /// Takes out what was pushed.
    pub(crate) fn take(&mut self) -> Self {
        let empty = Self { appends_max: self.appends_max, ..Self::default() };
        mem::replace(self, empty)
    }
}

/// How many bytes an append takes in a statement, roughly.
fn approximate_bytes(append: &Append) -> usize {
    let of_event =
        |event: &NewEvent| EVENT_OVERHEAD_BYTES + event.payload().len() + event.context().attributes.as_json().len();
    append.events.iter().map(of_event).sum()
}
