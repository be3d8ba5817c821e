//! The state that the parts of one consumer share: its stream, its names and keys, and its pending entries.

use std::{sync::Arc, time::Duration};

use eventbus::{
    Name,
    delivery::{GroupContext, InFlight, Limits, RetryPolicy},
    port::MessageId,
};
use redis::{FromRedisValue, Script, ScriptInvocation};

use super::pending_entries::PendingEntries;
use crate::{error::CommandError, group, inner::BusInner, keys, trace};

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
    keys: GroupKeys,
}

/// The keys of the group beside the stream.
pub(super) struct GroupKeys {
    pub(super) retry: String,
    pub(super) members: String,
    pub(super) dead_letters: String,
}

impl ConsumerInner {
    /// Creates the consumer of a stream, under the name of the bus.
    pub(super) fn new(bus: Arc<BusInner>, group: Name, in_flight: Arc<InFlight>) -> Self {
        let name = bus.consumer_name().to_owned();
        Self::with_name(bus, group, name, in_flight)
    }

    pub(super) fn with_name(bus: Arc<BusInner>, group: Name, name: String, in_flight: Arc<InFlight>) -> Self {
        let config = bus.config();
        let keys = GroupKeys {
            retry: keys::retry(bus.stream(), &config.retry_key_prefix, &group),
            members: keys::members(bus.stream(), &group),
            dead_letters: config.dlq_stream_name(),
        };
        Self { bus, group, name, entries: PendingEntries::new(in_flight), keys }
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

    pub(super) const fn keys(&self) -> &GroupKeys {
        &self.keys
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

    /// Runs a script that may run twice.
    pub(super) async fn run_idempotent<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, CommandError> {
        self.bus.connection().run_idempotent(script).await
    }

    /// Creates the group if it is missing.
    pub(super) async fn create_group(&self) -> Result<(), CommandError> {
        if self.run_idempotent(&group::create_joined_group_script(&self.bus, &self.group)).await? {
            self.log_created();
        }
        Ok(())
    }

    pub(super) fn log_created(&self) {
        tracing::info!(group = %self.group, stream = self.bus.stream(), "group created");
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
            suspect_lock: bus.suspect_lock().clone(),
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
        Limits { concurrency: self.bus.config().concurrency, ..Limits::default() }
    }

    /// Returns the idle time after which other consumers reclaim this one's entries.
    pub(super) fn pending_idle(&self) -> Duration {
        Duration::from_millis(self.bus.config().pending_idle_ms)
    }

    /// Returns the longest running handler, for the heartbeat: JSON, or an empty string if none runs for long.
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
