//! The handlers of a process: how they begin, settle and end.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    alone::run_alone,
    feeder::Feeder,
    handler_queue::{HandlerQueue, HandlerSpec},
    heartbeats::Heartbeats,
    saver::Saver,
    shared::Shared,
    start_log::NewTypes,
    workers::Workers,
};
use crate::{
    delivery::{ActiveSubscriber, ConsumerReport},
    domain::{name::Name, stream::Position},
    port::{
        handler_progress::{HandlerProgressError, ListedShard, Member, MemberHandler},
        stats::BusCounters,
    },
    runtime::feed_head::FeedHead,
};

/// The longest time for the last save of a process that ends.
const LAST_SAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// The delay before the last save is tried again.
const SAVE_AGAIN: Duration = Duration::from_millis(100);

/// The handlers of a process on the feed of its store.
pub(super) struct Engine {
    shared: Arc<Shared>,
    saver: Arc<Saver>,
    workers: Arc<Workers>,
    feeder: Feeder,
    heartbeats: Heartbeats,
}

impl Engine {
    /// `settings` are the duration of the leases of shards, and the name under which operators skip events.
    pub(super) fn new(
        feed_head: FeedHead,
        member: Name,
        settings: (Duration, Name),
        handlers: Vec<(HandlerSpec, Arc<ActiveSubscriber>)>,
        counters: Arc<BusCounters>,
    ) -> Arc<Self> {
        let queues = handlers
            .into_iter()
            .map(|(spec, subscriber)| Arc::new(HandlerQueue::new(spec, subscriber, feed_head.clock().clone())));
        let queues = queues.collect();
        let shared = Arc::new(Shared::new(feed_head, member, settings, queues, counters));
        let saver = Arc::new(Saver::new(Arc::clone(&shared)));
        let workers = Arc::new(Workers::new(Arc::clone(&shared)));
        let feeder = Feeder::new(Arc::clone(&shared), Arc::clone(&workers), Arc::clone(&saver));
        let heartbeats = Heartbeats::new(Arc::clone(&shared), Arc::clone(&saver), Arc::clone(&workers));
        Arc::new(Self { shared, saver, workers, feeder, heartbeats })
    }

    /// Declares the handlers to the store and joins its members, before [`run`](Self::run). Returns which events new handlers
    /// and types get.
    pub(super) async fn declare(&self) -> Result<NewTypes, HandlerProgressError> {
        let (shared, progress) = (&*self.shared, self.shared.progress()?);
        let head = shared.store().head().await.map_err(HandlerProgressError::new)?;
        let declared: Vec<_> = shared.queues().iter().map(|queue| queue.spec.declared()).collect();
        let former = progress.list_handlers().await?;
        let noted = progress.declare_handlers(&declared, head).await?;
        let new_types = NewTypes::new(&former, &declared, &noted, head);
        let noted: BTreeMap<_, _> = noted.into_iter().map(|noted| (noted.name.clone(), noted)).collect();
        let mut handlers = BTreeMap::new();
        for queue in shared.queues() {
            let Some(of_handler) = noted.get(&queue.spec.name) else { continue };
            queue.set_shard_count(of_handler.shards);
            let (list, crate_name) = (of_handler.list_number(&queue.spec.types()), queue.spec.crate_name.clone());
            handlers.insert(queue.spec.name.clone(), MemberHandler { list, crate_name });
        }
        self.heartbeats.join(Member { name: shared.member.clone(), handlers }).await?;
        shared.noted.get_or_init(|| noted);
        Ok(new_types)
    }

    /// Runs the handlers until `cancel`: then it starts no event any more, waits for the runs, and releases its shards.
    /// [`abort`](Self::abort) ends the wait.
    pub(super) async fn run(&self, new_types: NewTypes, cancel: CancellationToken) {
        let tasks = CancellationToken::new();
        let running = async {
            tokio::join!(
                self.feeder.follow_end(&tasks),
                self.feeder.feed_backlogs(&tasks),
                self.saver.run(&tasks),
                self.heartbeats.run(&tasks),
                self.workers.wake_due(&tasks),
                self.workers.start_in_freed_slots(&tasks),
                run_alone(&self.shared, &self.saver, &self.workers, &tasks),
                new_types.log(&**self.shared.store()),
            );
        };
        let stopping = async {
            cancel.cancelled().await;
            self.release_all().await;
        };
        // the tasks end with their futures; what they had begun to save is part of the last save
        tokio::select! {
            () = running => {}
            () = stopping => {}
        }
        self.heartbeats.leave().await;
    }

    /// Ends the running handlers: their events run again in the next process.
    pub(super) fn abort(&self) {
        self.workers.abort();
    }

    /// Releases all shards, once their runs have ended or were aborted.
    async fn release_all(&self) {
        let shared = &*self.shared;
        for queue in shared.queues() {
            queue.begin_release(None);
        }
        self.heartbeats.stop_acquiring().await;
        self.workers.join().await;
        for queue in shared.queues() {
            queue.abort_runs(shared.clock());
        }
        // a store that does not answer keeps the leases until they are over
        let saving = async {
            while self.saver.save(false).await.is_err() {
                shared.clock().sleep(SAVE_AGAIN).await;
            }
        };
        if shared.clock().timeout(LAST_SAVE_TIMEOUT, saving).await.is_err() {
            tracing::warn!(
                "the store does not answer: the last progress of handlers is not saved, what ended after it is repeated"
            );
        }
    }

    /// Returns what each handler reports to health.
    pub(super) fn reports(&self) -> Vec<(Name, Weak<dyn ConsumerReport>)> {
        let report = |queue: &Arc<HandlerQueue>| {
            let queue: Arc<dyn ConsumerReport> = Arc::<HandlerQueue>::clone(queue);
            Arc::downgrade(&queue)
        };
        self.shared.queues().iter().map(|queue| (queue.spec.group.clone(), report(queue))).collect()
    }

    /// Describes what keeps handlers of this process from their events, for health.
    pub(super) fn problems(&self) -> Vec<String> {
        let feed = self.shared.feed_error().map(|error| {
            format!(
                "handlers wait, the feed cannot be read: {error}; mend a damaged event, or skip it with \
                 `app.skip_published_event`"
            )
        });
        let progress = self.saver.is_failing().then(|| "the progress of handlers cannot be saved".to_owned());
        let mut problems: Vec<_> = feed.into_iter().chain(progress).collect();
        for queue in self.shared.queues() {
            let (name, own) = (&queue.spec.name, &queue.spec.crate_name);
            for other in self.heartbeats.crates_of(name, own) {
                problems.push(format!(
                    "handler `{name}` is of crate `{own}` here and of `{other}` in another process: each gets only a part \
                     of the events; name one of them by `#[handler(name = \"..\")]`"
                ));
            }
        }
        problems
    }

    /// Returns the paused groups.
    pub(super) fn paused(&self) -> impl Iterator<Item = &Name> {
        self.shared.queues().iter().filter(|queue| queue.is_paused()).map(|queue| &queue.spec.group)
    }

    /// Returns the number of events of a group's handlers in memory.
    pub(super) fn pending_of(&self, group: &Name) -> u64 {
        self.shared.of_group(group).map(|queue| queue.counts().entries).sum()
    }

    /// Returns `true` if an operator has paused the group.
    pub(super) fn is_paused(&self, group: &Name) -> bool {
        self.shared.of_group(group).any(|queue| queue.is_paused())
    }

    /// Returns up to where all handlers of a group here have read the feed.
    pub(super) fn read_through(&self, group: &Name) -> Option<Position> {
        self.shared.of_group(group).filter_map(|queue| queue.read_through()).min()
    }

    /// Saves what has changed, and sends a heartbeat, without the pauses between two of them.
    #[cfg(feature = "testkit")]
    pub(super) async fn flush(&self) {
        if self.shared.noted.get().is_some() && self.saver.save(false).await.is_ok() {
            // the next one tries again
            let _ = self.heartbeats.send().await;
        }
    }

    /// Returns `true` if a handler has events to run now.
    #[cfg(feature = "testkit")]
    pub(super) fn has_work(&self) -> bool {
        self.shared.queues().iter().any(|queue| queue.has_work(self.shared.clock()))
    }

    /// Returns `true` if a handler of a group has not finished, or not saved, the events up to `head`, whichever process
    /// owns its shards.
    pub(super) async fn unsettled(&self, head: Position, group: &Name) -> Result<bool, HandlerProgressError> {
        let (mut local, mut elsewhere) = (BTreeMap::new(), false);
        if self.shared.noted.get().is_none() {
            return Ok(true);
        }
        for queue in self.shared.of_group(group) {
            let progress = queue.progress(head);
            if !progress.is_idle {
                return Ok(true);
            }
            local.insert(&queue.spec.name, progress);
        }
        if self.saver.is_saving() {
            return Ok(true);
        }
        let is_done = |shard: &ListedShard| shard.checkpoint >= head && shard.waiting == 0 && shard.started == 0;
        let listed = self.shared.progress()?.list_handlers().await?;
        for listed in &listed {
            let Some(local) = local.get(&listed.noted.name) else { continue };
            // a row that is not known here is a replayed dead letter, or one of another process
            elsewhere |= listed.waiting_rows > local.newer;
            elsewhere |= local.owned < local.of && !listed.shards.iter().all(is_done);
        }
        if elsewhere {
            self.shared.heartbeat.notify_one();
        }
        Ok(elsewhere)
    }
}
