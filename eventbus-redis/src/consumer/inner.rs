//! The state that the parts of one consumer share: its stream, its names and keys, and its pending entries.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use eventbus::{
    Name,
    delivery::{GroupContext, InFlight, Limits, RetryPolicy},
    event::EventDescriptor,
    port::MessageId,
};
use redis::{FromRedisValue, Script, ScriptInvocation};

use super::pending_entries::PendingEntries;
use crate::{error::CommandError, inner::BusInner, keys, script::consumer::ConsumerScript, trace};

/// The consumer name that all owners of a partition have on the server.
pub(super) const PARTITION_OWNER: &str = "owner";

/// Start of a range before the first entry.
pub(super) const RANGE_START: &str = "-";

/// Shortest interval of heartbeats and searches.
pub(super) const MAINTENANCE_INTERVAL_MIN: Duration = Duration::from_millis(20);

/// The state that the parts of one consumer share.
pub(super) struct ConsumerInner {
    bus: Arc<BusInner>,
    group: Name,
    /// The consumer's name on the server.
    name: String,
    entries: PendingEntries,
    /// The fencing token: proves that this consumer still owns its partition. `None` if it reads a whole stream.
    fencing_token: Option<FencingToken>,
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
pub(super) struct FencingToken {
    pub(super) lease_key: String,
    /// The instance of the bus that owns the partition.
    pub(super) owner: String,
    /// The fencing token itself, a decimal: a later owner has a higher one.
    pub(super) epoch: String,
}

/// The keys of the group beside the stream.
pub(super) struct GroupKeys {
    pub(super) retry: String,
    pub(super) members: String,
    pub(super) known_types: String,
    pub(super) floors: String,
    pub(super) relay: String,
    pub(super) dead_letters: String,
}

impl ConsumerInner {
    /// Creates the consumer of a whole stream, under the name of the bus.
    pub(super) fn new(bus: Arc<BusInner>, group: Name, in_flight: Arc<InFlight>) -> Self {
        let name = bus.consumer_name().to_owned();
        Self::with_name(bus, group, name, in_flight, None)
    }

    /// Creates the consumer of an owned partition. All its owners share one name on the server, so that the next owner
    /// finds the entries that this one leaves pending.
    pub(super) fn for_partition(
        part: &Arc<BusInner>,
        group: &Name,
        in_flight: &Arc<InFlight>,
        fence: FencingToken,
    ) -> Self {
        Self::with_name(Arc::clone(part), group.clone(), PARTITION_OWNER.into(), Arc::clone(in_flight), Some(fence))
    }

    pub(super) fn with_name(
        bus: Arc<BusInner>,
        group: Name,
        name: String,
        in_flight: Arc<InFlight>,
        fencing_token: Option<FencingToken>,
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
        Self { bus, group, name, entries: PendingEntries::new(in_flight), fencing_token, keys }
    }

    pub(super) const fn bus(&self) -> &Arc<BusInner> {
        &self.bus
    }

    pub(super) const fn group(&self) -> &Name {
        &self.group
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the consumer's name among the members of the group.
    pub(super) fn member_name(&self) -> &str {
        if self.fencing_token.is_some() { self.bus.consumer_name() } else { &self.name }
    }

    pub(super) const fn keys(&self) -> &GroupKeys {
        &self.keys
    }

    pub(super) const fn fencing_token(&self) -> Option<&FencingToken> {
        self.fencing_token.as_ref()
    }

    pub(super) const fn entries(&self) -> &PendingEntries {
        &self.entries
    }

    pub(super) const fn in_flight(&self) -> &Arc<InFlight> {
        self.entries.in_flight()
    }

    /// Prepares a script: its first key is the stream, its first arguments are the group and the consumer's name.
    pub(super) fn script<'a>(&self, script: &'a Script) -> ScriptInvocation<'a> {
        let mut script = script.key(self.bus.stream());
        script.arg(self.group.as_str()).arg(&self.name);
        script
    }

    /// Prepares a script that the server refuses if this consumer no longer owns its partition.
    pub(super) fn fenced_script(&self, script: &'static ConsumerScript) -> ScriptInvocation<'static> {
        self.script(script.select(self.fencing_token.is_some()))
    }

    /// Runs a script that may run twice. The server refuses it if this consumer no longer owns its partition.
    ///
    /// Invariant: key and epoch of the lease are the last key and argument.
    pub(super) async fn run_idempotent<T: FromRedisValue>(
        &self,
        mut script: ScriptInvocation<'_>,
    ) -> Result<T, CommandError> {
        if let Some(FencingToken { lease_key, epoch, .. }) = &self.fencing_token {
            script.key(lease_key).arg(epoch);
        }
        self.bus.connection().run_idempotent(&script).await
    }

    /// Releases entries that are no longer pending on this consumer.
    pub(super) fn release_lost(&self, ids: &[MessageId]) {
        if ids.is_empty() {
            return;
        }
        let count = ids.len();
        tracing::warn!(group = %self.group, count, "another consumer has claimed entries that were in flight here");
        self.in_flight().release(ids);
    }

    /// Returns how the workers handle the group's entries.
    pub(super) fn group_context(&self) -> GroupContext {
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

    /// Returns the policy for retries of failed deliveries.
    pub(super) fn retry_policy(&self) -> RetryPolicy {
        let config = self.bus.config();
        RetryPolicy {
            retry_for: Duration::from_secs(config.retry_for_seconds),
            max_retries: config.max_retries,
            first_delay: Duration::from_millis(config.retry_delay_ms),
            max_delay: Duration::from_millis(config.retry_max_delay_ms),
        }
    }

    pub(super) fn limits(&self) -> Limits {
        let config = self.bus.config();
        let slow = Duration::from_millis(config.slow_handler_ms);
        Limits { concurrency: config.concurrency, consumers: config.consumers, slow }
    }

    /// Returns the idle time after which other consumers reclaim this one's entries.
    pub(super) fn pending_idle(&self) -> Duration {
        Duration::from_millis(self.bus.config().pending_idle_ms)
    }

    /// Returns the handled types as announced to the group: a sorted list of `type@version`, or `"*"` for all; a list
    /// with `*` in it if some handlers want all types and some want certain versions.
    pub(super) fn announced_types(&self) -> String {
        let subscribers = self.bus.subscribers().of_group(&self.group);
        let wants_all = subscribers.iter().any(|subscriber| subscriber.is_wildcard());
        let events = subscribers.iter().flat_map(|subscriber| subscriber.events().descriptors());
        let named = |event: &EventDescriptor| {
            let version = event.schema_version;
            event.event_types().map(move |event_type| format!("{event_type}@{version}"))
        };
        let mut types: BTreeSet<_> = events.flat_map(named).collect();
        if wants_all && types.is_empty() {
            return r#""*""#.into();
        }
        types.extend(wants_all.then(|| "*".to_owned()));
        serde_json::Value::from_iter(types).to_string()
    }

    /// Returns the longest running handler as announced to the group: JSON, or an empty string if none runs for long.
    pub(super) fn long_run_json(&self) -> String {
        let run = self.bus.subscribers().long_run(&self.group);
        run.and_then(|run| serde_json::to_string(&run).ok()).unwrap_or_default()
    }
}

/// Adds ids to the arguments of a script.
pub(super) fn add_ids(script: &mut ScriptInvocation<'_>, ids: &[MessageId]) {
    for id in ids {
        script.arg(id.as_str());
    }
}
