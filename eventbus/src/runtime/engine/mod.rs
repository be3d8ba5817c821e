//! The engine: runs the handlers of an app on the feed of its store.
//!
//! All state of a handler is in the store ([`HandlerProgress`]); the engine of each live process owns some of its shards.
//! `ownership` shares the shards, `shard` is the state machine of one, `feeder` brings events, workers run them, and one
//! save at a time writes what has changed of all handlers.
//!
//! Invariant: what a process knows of a shard counts only as long as it owns it. Each save is fenced by the epoch; a
//! process that another one has replaced learns it there, and forgets the shard.

mod alone;
mod dead_letters;
mod feed_window;
mod feeder;
mod handler_queue;
mod left_types;
mod looker;
mod ownership;
mod run;
mod saver;
mod shard;
mod start_log;
mod store_bus;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::{Notify, RwLock};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::store_bus::StoreBus;
use self::{
    feed_window::FeedWindow,
    handler_queue::{HandlerQueue, HandlerSpec, MAX_WAITING},
    looker::LookState,
    saver::SaveState,
};
use crate::{
    delivery::{ActiveSubscriber, ConsumerReport},
    domain::{
        clock::SharedClock, error::ErrorLine, metadata::EventId, name::Name, record::RecordedEvent, stream::Position,
    },
    port::{
        EventStore, HandlerProgress, ReadError,
        handler_progress::{HandlerProgressError, ListedShard, Member, MemberGuard, MemberHandler, NotedHandler},
        stats::BusCounters,
    },
    runtime::feed_head::FeedHead,
};

/// The time after which an event that cannot be read is read again, in milliseconds.
const REREAD_MILLIS: u64 = 1_000;

/// How an app runs its handlers on its store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EngineOptions {
    /// The duration of the leases of shards.
    pub(crate) lease: Duration,
}

/// The handlers of a process on the feed of its store.
pub(crate) struct Engine {
    feed_head: FeedHead,
    /// The name of this start of the process among the members.
    member: Name,
    lease: Duration,
    queues: Vec<Arc<HandlerQueue>>,
    counters: Arc<BusCounters>,
    /// What the store noted of each handler at the start.
    noted: OnceLock<BTreeMap<Name, NotedHandler>>,
    window: Mutex<FeedWindow>,
    /// The last event of the feed that was read.
    last_read: Mutex<Option<(Position, EventId)>>,
    /// Why the feed cannot be read at the moment.
    feed_error: Mutex<Option<String>>,
    /// A run holds it shared, an event that runs alone exclusively.
    gate: RwLock<()>,
    backlog: Notify,
    due: Notify,
    alone: Notify,
    save: SaveState,
    look: LookState,
    guard: Mutex<Option<MemberGuard>>,
    workers: TaskTracker,
    abort: CancellationToken,
    is_stopping: AtomicBool,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("member", &self.member).finish_non_exhaustive()
    }
}

/// What the store told of the handlers when a process declared them.
#[derive(Debug)]
pub(crate) struct Declared {
    /// The handlers that the store did not know before.
    pub(crate) new: Vec<Name>,
    /// What the store notes of each handler.
    pub(crate) noted: BTreeMap<Name, NotedHandler>,
}

impl Engine {
    pub(crate) fn new(
        feed_head: FeedHead,
        member: Name,
        options: EngineOptions,
        handlers: Vec<(HandlerSpec, Arc<ActiveSubscriber>)>,
        counters: Arc<BusCounters>,
    ) -> Arc<Self> {
        let queues = handlers.into_iter().map(|(spec, subscriber)| Arc::new(HandlerQueue::new(spec, subscriber)));
        Arc::new(Self {
            feed_head,
            member,
            lease: options.lease,
            queues: queues.collect(),
            counters,
            noted: OnceLock::new(),
            window: Mutex::default(),
            last_read: Mutex::default(),
            feed_error: Mutex::default(),
            gate: RwLock::new(()),
            backlog: Notify::new(),
            due: Notify::new(),
            alone: Notify::new(),
            save: SaveState::default(),
            look: LookState::default(),
            guard: Mutex::default(),
            workers: TaskTracker::new(),
            abort: CancellationToken::new(),
            is_stopping: AtomicBool::new(false),
        })
    }

    fn feed_head(&self) -> &FeedHead {
        &self.feed_head
    }

    fn store(&self) -> &Arc<dyn EventStore> {
        self.feed_head.store()
    }

    fn clock(&self) -> &SharedClock {
        self.feed_head.clock()
    }

    fn queues(&self) -> &[Arc<HandlerQueue>] {
        &self.queues
    }

    fn queue(&self, handler: &Name) -> Option<&Arc<HandlerQueue>> {
        self.queues.iter().find(|queue| queue.spec.name == *handler)
    }

    fn window(&self) -> &Mutex<FeedWindow> {
        &self.window
    }

    fn progress(&self) -> Result<&dyn HandlerProgress, HandlerProgressError> {
        self.store()
            .handler_progress()
            .ok_or_else(|| HandlerProgressError::new("the store keeps no progress of handlers"))
    }

    fn noted(&self, handler: &Name) -> Option<&NotedHandler> {
        self.noted.get()?.get(handler)
    }

    /// Declares the handlers to the store and joins its members, before [`run`](Self::run).
    pub(crate) async fn declare(&self) -> Result<Declared, HandlerProgressError> {
        let (progress, store) = (self.progress()?, self.store());
        let head = store.head().await.map_err(HandlerProgressError::new)?;
        let declared: Vec<_> = self.queues.iter().map(|queue| queue.spec.declared()).collect();
        let answers = progress.declare_handlers(&declared, head).await?;
        let new = answers.iter().filter(|(_, is_new)| *is_new).map(|(noted, _)| noted.name.clone()).collect();
        let noted: BTreeMap<_, _> = answers.into_iter().map(|(noted, _)| (noted.name.clone(), noted)).collect();
        let mut handlers = BTreeMap::new();
        for queue in &self.queues {
            let Some(of_handler) = noted.get(&queue.spec.name) else { continue };
            queue.set_shard_count(of_handler.shards);
            let (list, crate_name) = (of_handler.list_number(&queue.spec.types()), queue.spec.crate_name.clone());
            handlers.insert(queue.spec.name.clone(), MemberHandler { list, crate_name });
        }
        let guard = progress.join(&Member { name: self.member.clone(), handlers }).await?;
        *self.guard.lock() = Some(guard);
        let noted = self.noted.get_or_init(|| noted).clone();
        Ok(Declared { new, noted })
    }

    /// Runs the handlers until `cancel`: then it starts no event any more, waits for the runs, and releases its shards.
    /// [`abort`](Self::abort) ends the wait.
    pub(crate) async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let tasks = CancellationToken::new();
        let stop_tasks = tasks.clone().drop_guard();
        let running = async {
            tokio::join!(
                Arc::clone(&self).follow_end(tasks.clone()),
                Arc::clone(&self).feed_backlogs(tasks.clone()),
                Arc::clone(&self).save_changes(tasks.clone()),
                Arc::clone(&self).look_each_second(tasks.clone()),
                Arc::clone(&self).wake_due(tasks.clone()),
                Arc::clone(&self).run_alone(tasks.clone()),
                Arc::clone(&self).start_workers_of_freed_slots(tasks.clone()),
            );
        };
        let stopping = async {
            cancel.cancelled().await;
            self.release_all().await;
        };
        tokio::select! {
            () = running => {}
            () = stopping => {}
        }
        drop(stop_tasks);
        self.leave().await;
    }

    /// Ends the running handlers: their events run again in the next process.
    pub(crate) fn abort(&self) {
        self.abort.cancel();
    }

    /// Releases all shards, once their runs have ended or were aborted.
    async fn release_all(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        for queue in &self.queues {
            queue.begin_release(None);
        }
        self.workers.close();
        tokio::select! {
            () = self.workers.wait() => {}
            () = self.abort.cancelled() => self.workers.wait().await,
        }
        for queue in &self.queues {
            queue.abort_runs(self.clock());
        }
        // a store that does not answer keeps the leases until they are over
        let saving = async {
            while self.save_round(false).await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(2), saving).await.is_err() {
            tracing::warn!(
                "the store does not answer: the last progress of handlers is not saved, what ended after it is repeated"
            );
        }
    }

    /// Leaves the members of the store.
    async fn leave(&self) {
        if let Ok(progress) = self.progress() {
            let _ = tokio::time::timeout(Duration::from_secs(2), progress.leave(&self.member)).await;
        }
        *self.guard.lock() = None;
    }

    /// Starts workers for the events of a handler that are ready.
    fn start_workers(self: &Arc<Self>, queue: &Arc<HandlerQueue>) {
        for _ in 0..queue.claim_workers(self.clock()) {
            let (engine, queue) = (Arc::clone(self), Arc::clone(queue));
            let abort = self.abort.clone();
            self.workers.spawn(async move { abort.run_until_cancelled(engine.work(&queue)).await });
        }
        if queue.wait_to_run_alone(self.clock()).is_some() {
            self.alone.notify_one();
        }
    }

    /// Runs events of a handler as long as there are any.
    async fn work(self: Arc<Self>, queue: &Arc<HandlerQueue>) {
        let mut ended = None;
        loop {
            let next = queue.next(ended.take(), self.clock());
            if next.wants_more {
                self.wake_backlog();
            }
            self.save.note_change(next.is_save_due);
            let Some(mut taken) = next.taken else { break };
            let end = {
                let _beside = self.gate.read().await;
                self.run_event(queue, &mut taken).await
            };
            ended = Some((taken, end));
            // a handler that does nothing never yields
            tokio::task::consume_budget().await;
        }
        if queue.next_due().is_some() {
            self.due.notify_one();
        }
        if queue.wait_to_run_alone(self.clock()).is_some() {
            self.alone.notify_one();
        }
    }

    /// Runs a taken event; reads it first if it has waited behind a failed one.
    async fn run_event(&self, queue: &HandlerQueue, taken: &mut shard::Taken) -> shard::End {
        let event = match taken.event.take() {
            Some(event) => event,
            None => match self.read_taken(queue, taken).await {
                Ok(event) => event,
                Err(end) => return end,
            },
        };
        self.counters.events_consumed(1);
        let end = queue.run(taken, event.clone(), self.clock()).await;
        self.count(&end);
        if let shard::End::Dead { attempts, since, .. } = &end {
            let dead_letter = dead_letters::id_of(&queue.spec.name, taken.position, *since);
            let (event_type, aggregate) = (event.event_type(), event.metadata().stream());
            tracing::error!(
                handler = %queue.spec.name, group = %queue.spec.group, %dead_letter, error = attempts.errors(),
                attempts = attempts.most_attempts(), %event_type, %aggregate,
                "delivery given up: it is a dead letter now"
            );
        }
        end
    }

    /// Reads a taken event; how it ends instead if it cannot be read.
    async fn read_taken(&self, queue: &HandlerQueue, taken: &shard::Taken) -> Result<RecordedEvent, shard::End> {
        let (handler, position) = (&queue.spec.name, taken.position);
        match self.store().read_events_at(&[position]).await.pop() {
            Some(Ok(Some(event))) => Ok(event),
            Some(Ok(None)) => {
                tracing::warn!(%handler, %position, "an event was removed from the store, the handler does not get it");
                Err(shard::End::Done)
            }
            other => {
                if let Some(Err(error)) = other {
                    self.note_feed_error(&error);
                }
                let due = self.clock().unix_millis().saturating_add(REREAD_MILLIS);
                Err(shard::End::Retry(taken.attempts.clone(), due))
            }
        }
    }

    fn count(&self, end: &shard::End) {
        let counters = &self.counters;
        match end {
            shard::End::Done => counters.events_processed_success(1),
            shard::End::Again(_) => {}
            failed => {
                counters.events_processed_failed(1);
                counters.handler_errors(1);
                counters.messages_sent_to_dlq(u64::from(matches!(failed, shard::End::Dead { .. })));
            }
        }
    }

    /// Makes events ready when their time comes.
    async fn wake_due(self: Arc<Self>, cancel: CancellationToken) {
        loop {
            let next = self.queues.iter().filter_map(|queue| queue.next_due()).min();
            let until_due = async {
                match next {
                    Some(due) => {
                        let left = due.saturating_sub(self.clock().unix_millis());
                        self.clock().sleep(Duration::from_millis(left)).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = until_due => self.queues.iter().for_each(|queue| self.start_workers(queue)),
                () = self.due.notified() => {}
            }
        }
    }

    /// Starts further workers when a long run gives its slot back.
    async fn start_workers_of_freed_slots(self: Arc<Self>, cancel: CancellationToken) {
        let mut freed = crate::delivery::slots_freed();
        while let Some(Ok(())) = cancel.run_until_cancelled(freed.changed()).await {
            self.queues.iter().for_each(|queue| self.start_workers(queue));
        }
    }

    fn wake_backlog(&self) {
        self.backlog.notify_one();
    }

    async fn backlog_wanted(&self) {
        self.backlog.notified().await;
    }

    /// Notes the last event that was read of the feed.
    fn note_read(&self, events: &[RecordedEvent]) {
        let Some(event) = events.last() else { return };
        let Some(position) = event.position() else { return };
        let mut last = self.last_read.lock();
        if last.is_none_or(|(last, _)| last < position) {
            *last = Some((position, event.metadata().event_id()));
        }
    }

    fn note_feed_error(&self, error: &ReadError) {
        let text = ErrorLine(error).to_string();
        let mut noted = self.feed_error.lock();
        if noted.as_ref() != Some(&text) {
            tracing::warn!(error = %text, "the feed cannot be read, handlers wait");
            *noted = Some(text);
        }
    }

    fn note_feed_read(&self) {
        if self.feed_error.lock().take().is_some() {
            tracing::info!("the feed can be read again");
        }
    }

    /// Forgets all shards, and all that was read: an older copy has replaced the store.
    fn forget_all(&self) {
        tracing::warn!("the store went back to an older copy: the handlers go on where it has them");
        self.store().appended().note_possible_restore();
        *self.last_read.lock() = None;
        self.window.lock().reset();
        self.queues.iter().for_each(|queue| queue.forget_all());
        self.look.notify();
    }

    /// Returns what each handler reports to health.
    fn reports(&self) -> Vec<(Name, Weak<dyn ConsumerReport>)> {
        let report = |queue: &Arc<HandlerQueue>| {
            let queue: Arc<dyn ConsumerReport> = Arc::<HandlerQueue>::clone(queue);
            Arc::downgrade(&queue)
        };
        self.queues.iter().map(|queue| (queue.spec.group.clone(), report(queue))).collect()
    }

    /// Returns the number of events of a group's handlers in memory.
    fn pending_of(&self, group: &Name) -> u64 {
        self.of_group(group).map(|queue| queue.counts().entries).sum()
    }

    fn of_group(&self, group: &Name) -> impl Iterator<Item = &Arc<HandlerQueue>> {
        self.queues.iter().filter(move |queue| queue.spec.group == *group)
    }

    /// Returns `true` if a handler has events to run now.
    #[cfg(feature = "testkit")]
    fn has_work(&self) -> bool {
        self.queues.iter().any(|queue| queue.has_work(self.clock()))
    }

    /// Returns `true` if a handler of a group has not finished, or not saved, the events up to `head`, whichever process
    /// owns its shards.
    async fn unsettled(&self, head: Position, group: &Name) -> Result<bool, HandlerProgressError> {
        let mut elsewhere = Vec::new();
        for queue in self.of_group(group) {
            let local = queue.progress(head);
            if !local.is_idle {
                return Ok(true);
            }
            if local.owned < local.of {
                elsewhere.push(&queue.spec.name);
            }
        }
        if self.save.is_saving() {
            return Ok(true);
        }
        if elsewhere.is_empty() {
            return Ok(false);
        }
        let is_done = |shard: &ListedShard| shard.checkpoint >= head && shard.waiting == 0 && shard.started == 0;
        let listed = self.progress()?.list_handlers().await?;
        let mut elsewhere = listed.iter().filter(|listed| elsewhere.contains(&&listed.noted.name));
        Ok(elsewhere.any(|listed| listed.waiting_rows > 0 || !listed.shards.iter().all(is_done)))
    }
}
