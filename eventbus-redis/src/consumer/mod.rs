//! The consumer of one group: a reader that fetches entries, workers that handle them, and a keeper that writes down
//! what came of them.
//!
//! Keep: an entry stays pending until all its handlers have succeeded or it is a dead letter; whoever it is pending on
//! is the only one who works on it, and shows life often enough. Everything else may be lost at any time.

mod backlog;
mod held;
mod intake;
mod keep;
mod leave;
mod look;
mod paper;
mod partitioned;
mod read;
mod recover;
mod several;
mod trim;
mod trouble;

use std::{
    collections::{BTreeSet, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use eventbus::{
    Name,
    port::{Desk, Hand, Limits, MessageId, Places, RetryPolicy, StopSignal, Subscriber},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use redis::{FromRedisValue, ScriptInvocation};

use backlog::GroupBacklog;
use held::Held;

use crate::{bus::Shared, connection::CommandError, keys, script::OfConsumer, trace};

pub use recover::{Recovery, RecoveryStats};
pub(crate) use several::consume as consume_all;

/// What the server calls the consumer of a partition, whoever that is.
const OWNER: &str = "owner";

/// The consumer of one group.
pub(crate) struct Consumer {
    shared: Arc<Shared>,
    group: Name,
    /// What the server calls it.
    name: String,
    hand: Arc<Hand>,
    /// Entries that used up their attempts and are to stay pending.
    left: Mutex<HashSet<MessageId>>,
    /// Whether it has told of a time without a zone.
    has_told_naive: AtomicBool,
    /// The types of which it was told that their events wait for absent members.
    told_absent: Mutex<HashSet<String>>,
    /// Entries that are none of this group's business.
    not_ours: Mutex<Vec<MessageId>>,
    /// Whether what was pending on it when it began is in hand; until then nobody but the reader takes entries in, as
    /// that would mix up their order.
    has_caught_up: AtomicBool,
    /// Tells the keeper that this has happened.
    joined: Notify,
    /// What shows that it still owns its partition, if that is what it reads.
    fence: Option<Fence>,
    /// Whether the consumer before it of its name ended without leaving: then it may have ended of what is pending on it.
    has_ended_before: AtomicBool,
    /// Whether it has shown itself to the group.
    is_announced: AtomicBool,
    /// Whether it has read entries of this group since this was made, and no backlog came before them.
    is_past_backlog: AtomicBool,
    /// What waits for the group's backlog.
    held: Mutex<Held>,
    keys: Keys,
}

/// The ownership of a partition.
struct Fence {
    lease: String,
    /// What tells the owner from others.
    owner: String,
    /// A decimal.
    epoch: String,
}

/// The keys beside the stream that a group has.
struct Keys {
    retry: String,
    members: String,
    known_types: String,
    floors: String,
    relay: String,
    dead_letters: String,
}

/// Hands the group its events until it is stopped: those of its backlog, and those of the stream.
async fn consume(shared: Arc<Shared>, group: Name, stop: StopSignal) {
    let places = Places::default();
    let hand = shared.hand(&places);
    let mut backlog = GroupBacklog::new(&shared, &group, places);
    let is_past = backlog.is_past().clone();
    let stream = async {
        tokio::select! {
            () = is_past.cancelled() => consume_stream(shared, group, hand, stop.clone()).await,
            () = stop.stopped() => {}
        }
    };
    tokio::join!(stream, backlog.consume(&stop));
}

impl Shared {
    /// What a consumer of it has in hand. It shares its places with others of the same consumer and group.
    fn hand(&self, places: &Places) -> Arc<Hand> {
        let config = &self.config;
        let hand = Hand::new(config.in_hand(), config.max_in_hand_bytes, config.clock.clone());
        Arc::new(hand.with_waiting(config.max_waiting).sharing(places))
    }
}

/// Hands the group the events of a stream until it is stopped; connects anew as often as it must.
async fn consume_stream(shared: Arc<Shared>, group: Name, hand: Arc<Hand>, stop: StopSignal) {
    if !shared.partitions.is_empty() {
        return partitioned::consume(shared, group, hand, stop).await;
    }
    let consumer = Consumer::new(shared, group, hand);
    let desk = consumer.desk();
    let ended = CancellationToken::new();
    let work = async {
        tokio::join!(
            consumer.hand.work(&desk, &stop),
            consumer.read(&stop),
            consumer.release(&stop),
            consumer.trim(&stop, || vec![Arc::clone(&consumer.shared)])
        );
        ended.cancel();
    };
    tokio::join!(work, consumer.keep(&ended));
}

impl Consumer {
    /// That of a whole stream, under the name of the bus.
    fn new(shared: Arc<Shared>, group: Name, hand: Arc<Hand>) -> Self {
        let name = shared.consumer.clone();
        Self::with(shared, group, name, hand, None)
    }

    fn with(shared: Arc<Shared>, group: Name, name: String, hand: Arc<Hand>, fence: Option<Fence>) -> Self {
        let config = &shared.config;
        let keys = Keys {
            retry: keys::retry(&shared.stream, &config.retry_key_prefix, &group),
            members: keys::members(&shared.home, &group),
            known_types: keys::known_types(&shared.root, &group),
            floors: keys::floors(&shared.stream),
            relay: keys::relay(&shared.stream),
            dead_letters: config.dlq_stream_name(),
        };
        Self {
            shared,
            group,
            name,
            hand,
            left: Mutex::default(),
            has_told_naive: AtomicBool::new(false),
            told_absent: Mutex::default(),
            not_ours: Mutex::default(),
            has_caught_up: AtomicBool::new(false),
            joined: Notify::new(),
            fence,
            has_ended_before: AtomicBool::new(true),
            is_announced: AtomicBool::new(false),
            is_past_backlog: AtomicBool::new(false),
            held: Mutex::default(),
            keys,
        }
    }

    /// How the entries of the group are handled.
    fn desk(&self) -> Desk {
        let bus = Arc::clone(&self.shared);
        Desk {
            group: self.group.clone(),
            subscribers: bus.subscribers.clone(),
            counters: Arc::clone(&bus.counters),
            retry: self.retry(),
            limits: self.limits(),
            run_lock: bus.run_lock.clone(),
            span: Arc::new(move |delivery, handler| trace::handle(&bus, delivery, handler)),
        }
    }

    /// That of a partition which it owns. Its name there is that of all owners, so that the next one goes on with what
    /// this one leaves.
    fn of_partition(part: &Arc<Shared>, group: &Name, hand: &Arc<Hand>, fence: Fence) -> Self {
        Self::with(Arc::clone(part), group.clone(), OWNER.into(), Arc::clone(hand), Some(fence))
    }

    /// A script on its stream.
    fn script(&self, script: &'static OfConsumer) -> ScriptInvocation<'static> {
        script.text(self.fence.is_some()).key(&self.shared.stream)
    }

    /// Runs a script that may run twice, unless its partition is somebody else's by now.
    async fn rerun<T: FromRedisValue>(&self, mut script: ScriptInvocation<'_>) -> Result<T, CommandError> {
        if let Some(Fence { lease, epoch, .. }) = &self.fence {
            script.key(lease).arg(epoch);
        }
        self.shared.link.rerun(&script).await
    }

    /// How often and when a failed delivery is tried again.
    fn retry(&self) -> RetryPolicy {
        let config = &self.shared.config;
        RetryPolicy {
            retry_for: Duration::from_secs(config.retry_for_seconds),
            max_retries: config.max_retries,
            first_delay: Duration::from_millis(config.retry_delay_ms),
            max_delay: Duration::from_millis(config.retry_max_delay_ms),
        }
    }

    fn limits(&self) -> Limits {
        let config = &self.shared.config;
        let slow = Duration::from_millis(config.slow_handler_ms);
        Limits { concurrency: config.concurrency, consumers: config.consumers, slow }
    }

    /// After which time without a sign of life others take its entries over.
    fn pending_idle(&self) -> Duration {
        Duration::from_millis(self.shared.config.pending_idle_ms)
    }

    /// The types it handles, as others are told: a sorted list of `type@version`, or `"*"` for all; a list with `*` in it if
    /// some handlers want all, and some certain versions.
    fn types(&self) -> String {
        let subscribers = self.shared.subscribers.of_group(&self.group);
        let wants_all = subscribers.iter().any(Subscriber::is_wildcard);
        let events = subscribers.iter().flat_map(|subscriber| subscriber.events().descriptors());
        let mut types: BTreeSet<_> =
            events.map(|event| format!("{}@{}", event.event_type, event.schema_version)).collect();
        if wants_all && types.is_empty() {
            return r#""*""#.into();
        }
        types.extend(wants_all.then(|| "*".to_owned()));
        serde_json::Value::from_iter(types).to_string()
    }

    /// What its handlers have been busy with for long, as others are told: JSON, or nothing.
    fn busy(&self) -> String {
        let run = self.shared.subscribers.long_run(&self.group);
        run.and_then(|run| serde_json::to_string(&run).ok()).unwrap_or_default()
    }

    fn has_caught_up(&self) -> bool {
        self.has_caught_up.load(Ordering::Acquire)
    }

    fn left(&self) -> MutexGuard<'_, HashSet<MessageId>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told_absent(&self) -> MutexGuard<'_, HashSet<String>> {
        self.told_absent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn not_ours(&self) -> MutexGuard<'_, Vec<MessageId>> {
        self.not_ours.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
