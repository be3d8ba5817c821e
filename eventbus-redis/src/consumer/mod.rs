//! The consumer of one group: a reader fetches entries, workers handle them, an acknowledger writes their dispositions.
//!
//! Invariant: an entry stays pending until all its handlers have succeeded or it is a dead letter. Only the consumer
//! that it is pending on works on it, and renews that claim often enough. All other state may be lost at any time.

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
mod task_loop;
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
    delivery::{GroupContext, InFlight, Limits, StopSignal, WorkerSlots, run_workers},
    port::{MessageId, RetryPolicy},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use redis::{FromRedisValue, ScriptInvocation};

use blocked_streams::BlockedStreams;
use group_backlog::GroupBacklog;

use crate::{error::CommandError, inner::BusInner, keys, script::consumer::ConsumerScript, trace};

pub(crate) use multi_consumer::consume as consume_all;
pub(crate) use recover::recover;
pub use recover::{Recovery, RecoveryStats};

/// The name on the server of every owner of a partition.
const PARTITION_OWNER: &str = "owner";

/// The consumer of one group.
pub(crate) struct Consumer {
    bus: Arc<BusInner>,
    group: Name,
    /// The consumer's name on the server.
    name: String,
    in_flight: Arc<InFlight>,
    /// Entries that used up their attempts and stay pending.
    kept_pending: Mutex<HashSet<MessageId>>,
    /// Set once the consumer has logged a time without a zone.
    has_logged_naive_time: AtomicBool,
    /// Types already logged as waiting for an absent member.
    logged_absent_types: Mutex<HashSet<String>>,
    /// Entries that this group must not handle; the next batch acknowledges them.
    discarded: Mutex<Vec<MessageId>>,
    /// Set once all entries that were pending on the consumer at its start are in flight. Until then only the reader
    /// adds entries: entries from a second source would break their order.
    has_caught_up: AtomicBool,
    /// Wakes the acknowledger when `has_caught_up` is set.
    caught_up_signal: Notify,
    /// The fencing token: proves that this consumer still owns its partition. `None` if it reads a whole stream.
    fencing_token: Option<FencingToken>,
    /// Set if the previous consumer of this name ended without leaving: then one of its pending entries may have ended
    /// it.
    predecessor_crashed: AtomicBool,
    /// Set once the consumer has announced itself to the group.
    is_announced: AtomicBool,
    /// Set once the consumer has read entries of this group in this run and found no backlog that comes first.
    has_passed_backlog: AtomicBool,
    /// Aggregates whose events wait for the group's backlog.
    blocked_streams: Mutex<BlockedStreams>,
    keys: GroupKeys,
}

/// The ownership of a partition under one epoch.
///
/// | state of the lease | event | next state |
/// |---|---|---|
/// | free | a consumer with less than its share takes the lease | owned, under a higher epoch than any before |
/// | owned | the owner's heartbeat | owned, for the full time |
/// | owned | the owner releases the partition | free |
/// | owned | the lease ends without a heartbeat | free; its next owner counts pending entries as redelivered |
///
/// The server refuses scripts with a stale epoch as `FENCED`, so a late owner writes no disposition.
struct FencingToken {
    lease_key: String,
    /// The instance of the bus that owns the partition.
    owner: String,
    /// The fencing token itself, a decimal: a later owner has a higher one.
    epoch: String,
}

/// The keys of the group beside the stream.
struct GroupKeys {
    retry: String,
    members: String,
    known_types: String,
    floors: String,
    relay: String,
    dead_letters: String,
}

/// Delivers events to the group until `stop`: those of its backlog, and those of the stream.
async fn consume(bus: Arc<BusInner>, group: Name, stop: StopSignal) {
    let worker_slots = WorkerSlots::default();
    let in_flight = new_in_flight(&bus, &worker_slots);
    let mut backlog = GroupBacklog::new(&bus, &group, worker_slots);
    let stream_ready = backlog.stream_ready().clone();
    let stream = async {
        // a stop while the backlog comes first must not wait for its end
        tokio::select! {
            () = stream_ready.cancelled() => consume_stream(bus, group, in_flight, stop.clone()).await,
            () = stop.stopped() => {}
        }
    };
    tokio::join!(stream, backlog.consume(&stop));
}

/// Creates the in-flight entries of one stream of a consumer. They share `worker_slots` with those of its backlog.
fn new_in_flight(bus: &BusInner, worker_slots: &WorkerSlots) -> Arc<InFlight> {
    let config = bus.config();
    let in_flight = InFlight::new(config.in_flight_limit(), config.max_in_flight_bytes, config.clock.clone());
    Arc::new(in_flight.with_max_waiting(config.max_waiting).with_slots(worker_slots))
}

/// Delivers the events of one stream to the group until `stop`; reconnects as often as needed.
async fn consume_stream(bus: Arc<BusInner>, group: Name, in_flight: Arc<InFlight>, stop: StopSignal) {
    if !bus.partitions().is_empty() {
        return partitioned::consume(bus, group, in_flight, stop).await;
    }
    let consumer = Consumer::new(bus, group, in_flight);
    let context = consumer.group_context();
    let ended = CancellationToken::new();
    let work = async {
        tokio::join!(
            run_workers(&consumer.in_flight, &context, &stop),
            consumer.run_reader(&stop),
            consumer.unblock_streams(&stop),
            consumer.trim(&stop, || vec![Arc::clone(&consumer.bus)])
        );
        ended.cancel();
    };
    // the acknowledger ends last: it writes the last dispositions of the workers
    tokio::join!(work, consumer.run_acknowledger(&ended));
}

impl Consumer {
    /// Creates the consumer of a whole stream, under the name of the bus.
    fn new(bus: Arc<BusInner>, group: Name, in_flight: Arc<InFlight>) -> Self {
        let name = bus.consumer_name().to_owned();
        Self::with_name(bus, group, name, in_flight, None)
    }

    fn with_name(
        bus: Arc<BusInner>,
        group: Name,
        name: String,
        in_flight: Arc<InFlight>,
        fence: Option<FencingToken>,
    ) -> Self {
        let config = bus.config();
        let keys = GroupKeys {
            retry: keys::retry(bus.stream(), &config.retry_key_prefix, &group),
            members: keys::members(bus.base_stream(), &group),
            known_types: keys::known_types(bus.bus_stream(), &group),
            floors: keys::floors(bus.stream()),
            relay: keys::relay(bus.stream()),
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

    /// Returns how the workers handle the group's entries.
    fn group_context(&self) -> GroupContext {
        let bus = Arc::clone(&self.bus);
        GroupContext {
            group: self.group.clone(),
            subscribers: bus.subscribers().clone(),
            counters: Arc::clone(bus.counters()),
            retry: self.retry_policy(),
            limits: self.limits(),
            run_lock: bus.run_lock().clone(),
            span: Arc::new(move |delivery, handler| trace::delivery_span(&bus, delivery, handler)),
        }
    }

    /// Creates the consumer of an owned partition. All its owners share one name on the server, so that the next owner
    /// finds the entries that this one leaves pending.
    fn for_partition(part: &Arc<BusInner>, group: &Name, in_flight: &Arc<InFlight>, fence: FencingToken) -> Self {
        Self::with_name(Arc::clone(part), group.clone(), PARTITION_OWNER.into(), Arc::clone(in_flight), Some(fence))
    }

    /// Prepares a script on the consumer's stream.
    fn script(&self, script: &'static ConsumerScript) -> ScriptInvocation<'static> {
        script.select(self.fencing_token.is_some()).key(self.bus.stream())
    }

    /// Runs a script that may run twice. The server refuses it if this consumer no longer owns its partition.
    async fn run_idempotent<T: FromRedisValue>(&self, mut script: ScriptInvocation<'_>) -> Result<T, CommandError> {
        if let Some(FencingToken { lease_key: lease, epoch, .. }) = &self.fencing_token {
            script.key(lease).arg(epoch);
        }
        self.bus.connection().run_idempotent(&script).await
    }

    /// Returns when, and how often, a failed delivery is retried.
    fn retry_policy(&self) -> RetryPolicy {
        let config = self.bus.config();
        RetryPolicy {
            retry_for: Duration::from_secs(config.retry_for_seconds),
            max_retries: config.max_retries,
            first_delay: Duration::from_millis(config.retry_delay_ms),
            max_delay: Duration::from_millis(config.retry_max_delay_ms),
        }
    }

    fn limits(&self) -> Limits {
        let config = self.bus.config();
        let slow = Duration::from_millis(config.slow_handler_ms);
        Limits { concurrency: config.concurrency, consumers: config.consumers, slow }
    }

    /// Returns the idle time after which other consumers reclaim this one's entries.
    fn pending_idle(&self) -> Duration {
        Duration::from_millis(self.bus.config().pending_idle_ms)
    }

    /// Returns the handled types as announced to the group: a sorted list of `type@version`, or `"*"` for all; a list
    /// with `*` in it if some handlers want all types and some want certain versions.
    fn announced_types(&self) -> String {
        let subscribers = self.bus.subscribers().of_group(&self.group);
        let wants_all = subscribers.iter().any(|subscriber| subscriber.is_wildcard());
        let events = subscribers.iter().flat_map(|subscriber| subscriber.events().descriptors());
        let mut types: BTreeSet<_> =
            events.map(|event| format!("{}@{}", event.event_type, event.schema_version)).collect();
        if wants_all && types.is_empty() {
            return r#""*""#.into();
        }
        types.extend(wants_all.then(|| "*".to_owned()));
        serde_json::Value::from_iter(types).to_string()
    }

    /// Returns the longest running handler as announced to the group: JSON, or an empty string if none runs for long.
    fn long_run_json(&self) -> String {
        let run = self.bus.subscribers().long_run(&self.group);
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
