//! The consumer of one group: a reader that fetches entries, workers that handle them, and a keeper that writes down
//! what came of them.
//!
//! Keep: an entry stays pending until all its handlers have succeeded or it is a dead letter; whoever it is pending on
//! is the only one who works on it, and shows life often enough. Everything else may be lost at any time.

mod ack_batch;
mod acknowledger;
mod blocked_streams;
mod group_backlog;
mod handoff;
mod membership;
mod multi_consumer;
mod outage_log;
mod partitioned;
mod read;
mod receive;
mod recover;
mod trim;

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
    port::{GroupContext, InFlight, Limits, MessageId, RetryPolicy, StopSignal, Subscriber, WorkerSlots},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use redis::{FromRedisValue, ScriptInvocation};

use blocked_streams::BlockedStreams;
use group_backlog::GroupBacklog;

use crate::{bus::BusInner, connection::CommandError, keys, script::ConsumerScript, trace};

pub(crate) use multi_consumer::consume as consume_all;
pub use recover::{Recovery, RecoveryStats};

/// What the server calls the consumer of a partition, whoever that is.
const PARTITION_OWNER: &str = "owner";

/// The consumer of one group.
pub(crate) struct Consumer {
    bus: Arc<BusInner>,
    group: Name,
    /// What the server calls it.
    name: String,
    in_flight: Arc<InFlight>,
    /// Entries that used up their attempts and are to stay pending.
    kept_pending: Mutex<HashSet<MessageId>>,
    /// Whether it has told of a time without a zone.
    has_logged_naive_time: AtomicBool,
    /// The types of which it was told that their events wait for absent members.
    logged_absent_types: Mutex<HashSet<String>>,
    /// Entries that are none of this group's business.
    discarded: Mutex<Vec<MessageId>>,
    /// Whether what was pending on it when it began is in hand; until then nobody but the reader takes entries in, as
    /// that would mix up their order.
    has_caught_up: AtomicBool,
    /// Tells the keeper that this has happened.
    caught_up_signal: Notify,
    /// What shows that it still owns its partition, if that is what it reads.
    fencing_token: Option<FencingToken>,
    /// Whether the consumer before it of its name ended without leaving: then it may have ended of what is pending on it.
    predecessor_crashed: AtomicBool,
    /// Whether it has shown itself to the group.
    is_announced: AtomicBool,
    /// Whether it has read entries of this group since this was made, and no backlog came before them.
    has_passed_backlog: AtomicBool,
    /// What waits for the group's backlog.
    blocked_streams: Mutex<BlockedStreams>,
    keys: GroupKeys,
}

/// The ownership of a partition.
struct FencingToken {
    lease_key: String,
    /// What tells the owner from others.
    owner: String,
    /// A decimal.
    epoch: String,
}

/// The keys beside the stream that a group has.
struct GroupKeys {
    retry: String,
    members: String,
    known_types: String,
    floors: String,
    relay: String,
    dead_letters: String,
}

/// Hands the group its events until it is stopped: those of its backlog, and those of the stream.
async fn consume(bus: Arc<BusInner>, group: Name, stop: StopSignal) {
    let worker_slots = WorkerSlots::default();
    let hand = bus.new_in_flight(&worker_slots);
    let mut backlog = GroupBacklog::new(&bus, &group, worker_slots);
    let stream_ready = backlog.stream_ready().clone();
    let stream = async {
        tokio::select! {
            () = stream_ready.cancelled() => consume_stream(bus, group, hand, stop.clone()).await,
            () = stop.stopped() => {}
        }
    };
    tokio::join!(stream, backlog.consume(&stop));
}

impl BusInner {
    /// What a consumer of it has in hand. It shares its places with others of the same consumer and group.
    fn new_in_flight(&self, worker_slots: &WorkerSlots) -> Arc<InFlight> {
        let config = &self.config;
        let in_flight = InFlight::new(config.in_flight_limit(), config.max_in_flight_bytes, config.clock.clone());
        Arc::new(in_flight.with_max_waiting(config.max_waiting).with_slots(worker_slots))
    }
}

/// Hands the group the events of a stream until it is stopped; connects anew as often as it must.
async fn consume_stream(bus: Arc<BusInner>, group: Name, in_flight: Arc<InFlight>, stop: StopSignal) {
    if !bus.partitions.is_empty() {
        return partitioned::consume(bus, group, in_flight, stop).await;
    }
    let consumer = Consumer::new(bus, group, in_flight);
    let context = consumer.group_context();
    let ended = CancellationToken::new();
    let work = async {
        tokio::join!(
            consumer.in_flight.work(&context, &stop),
            consumer.run_reader(&stop),
            consumer.unblock_streams(&stop),
            consumer.trim(&stop, || vec![Arc::clone(&consumer.bus)])
        );
        ended.cancel();
    };
    tokio::join!(work, consumer.run_acknowledger(&ended));
}

impl Consumer {
    /// That of a whole stream, under the name of the bus.
    fn new(bus: Arc<BusInner>, group: Name, in_flight: Arc<InFlight>) -> Self {
        let name = bus.consumer_name.clone();
        Self::with_name(bus, group, name, in_flight, None)
    }

    fn with_name(
        bus: Arc<BusInner>,
        group: Name,
        name: String,
        in_flight: Arc<InFlight>,
        fence: Option<FencingToken>,
    ) -> Self {
        let config = &bus.config;
        let keys = GroupKeys {
            retry: keys::retry(&bus.stream, &config.retry_key_prefix, &group),
            members: keys::members(&bus.base_stream, &group),
            known_types: keys::known_types(&bus.bus_stream, &group),
            floors: keys::floors(&bus.stream),
            relay: keys::relay(&bus.stream),
            dead_letters: config.dlq_stream_name(),
        };
        Self {
            bus,
            group,
            name,
            in_flight,
            kept_pending: Mutex::default(),
            has_logged_naive_time: AtomicBool::new(false),
            logged_absent_types: Mutex::default(),
            discarded: Mutex::default(),
            has_caught_up: AtomicBool::new(false),
            caught_up_signal: Notify::new(),
            fencing_token: fence,
            predecessor_crashed: AtomicBool::new(true),
            is_announced: AtomicBool::new(false),
            has_passed_backlog: AtomicBool::new(false),
            blocked_streams: Mutex::default(),
            keys,
        }
    }

    /// How the entries of the group are handled.
    fn group_context(&self) -> GroupContext {
        let bus = Arc::clone(&self.bus);
        GroupContext {
            group: self.group.clone(),
            subscribers: bus.subscribers.clone(),
            counters: Arc::clone(&bus.counters),
            retry: self.retry_policy(),
            limits: self.limits(),
            run_lock: bus.run_lock.clone(),
            span: Arc::new(move |delivery, handler| trace::delivery_span(&bus, delivery, handler)),
        }
    }

    /// That of a partition which it owns. Its name there is that of all owners, so that the next one goes on with what
    /// this one leaves.
    fn for_partition(part: &Arc<BusInner>, group: &Name, in_flight: &Arc<InFlight>, fence: FencingToken) -> Self {
        Self::with_name(Arc::clone(part), group.clone(), PARTITION_OWNER.into(), Arc::clone(in_flight), Some(fence))
    }

    /// A script on its stream.
    fn script(&self, script: &'static ConsumerScript) -> ScriptInvocation<'static> {
        script.select(self.fencing_token.is_some()).key(&self.bus.stream)
    }

    /// Runs a script that may run twice, unless its partition is somebody else's by now.
    async fn run_idempotent<T: FromRedisValue>(&self, mut script: ScriptInvocation<'_>) -> Result<T, CommandError> {
        if let Some(FencingToken { lease_key: lease, epoch, .. }) = &self.fencing_token {
            script.key(lease).arg(epoch);
        }
        self.bus.connection.run_idempotent(&script).await
    }

    /// How often and when a failed delivery is tried again.
    fn retry_policy(&self) -> RetryPolicy {
        let config = &self.bus.config;
        RetryPolicy {
            retry_for: Duration::from_secs(config.retry_for_seconds),
            max_retries: config.max_retries,
            first_delay: Duration::from_millis(config.retry_delay_ms),
            max_delay: Duration::from_millis(config.retry_max_delay_ms),
        }
    }

    fn limits(&self) -> Limits {
        let config = &self.bus.config;
        let slow = Duration::from_millis(config.slow_handler_ms);
        Limits { concurrency: config.concurrency, consumers: config.consumers, slow }
    }

    /// After which time without a sign of life others take its entries over.
    fn pending_idle(&self) -> Duration {
        Duration::from_millis(self.bus.config.pending_idle_ms)
    }

    /// The types it handles, as others are told: a sorted list of `type@version`, or `"*"` for all; a list with `*` in it if
    /// some handlers want all, and some certain versions.
    fn announced_types(&self) -> String {
        let subscribers = self.bus.subscribers.of_group(&self.group);
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
    fn long_run_json(&self) -> String {
        let run = self.bus.subscribers.long_run(&self.group);
        run.and_then(|run| serde_json::to_string(&run).ok()).unwrap_or_default()
    }

    fn has_caught_up(&self) -> bool {
        self.has_caught_up.load(Ordering::Acquire)
    }

    fn kept_pending(&self) -> MutexGuard<'_, HashSet<MessageId>> {
        self.kept_pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn logged_absent_types(&self) -> MutexGuard<'_, HashSet<String>> {
        self.logged_absent_types.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn discarded(&self) -> MutexGuard<'_, Vec<MessageId>> {
        self.discarded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
