//! The health of a bus, for probes and alerts.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::domain::{clock::SharedClock, shown::rfc3339, stream::Position};

/// The health of a bus; as JSON, the body for a health endpoint.
///
/// A process that only publishes does not consume, so the `status` of its bus is never healthy: check `connected`
/// there. An [`App`](crate::App) without handlers does not have to consume to be healthy.
///
/// # Examples
/// ```
/// use eventbus::{InMemoryEventBus, bus::EventBus, health::{HealthStatus, HealthThresholds}};
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let health = InMemoryEventBus::new().health().await;
/// assert_eq!(health.status, HealthStatus::Unhealthy);
/// assert_eq!(health.alerts(&HealthThresholds::default()), ["not consuming"]);
/// # });
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
#[must_use]
pub struct Health {
    /// Healthy: connected and consuming, the store can be read, and the relay has not stopped. A projection that
    /// stopped at an event does not change the status: it is in `projections` and the [alerts](Self::alerts) only.
    pub status: HealthStatus,
    /// Set if the bus answered.
    pub connected: bool,
    /// Set if this process consumes.
    pub consuming: bool,
    /// Pending entries, delivered and not acknowledged, over all groups; 0 when not connected.
    pub pending_messages: u64,
    /// Dead letters; 0 when not connected. With the bus in the process, up to 500 are counted.
    pub dlq_messages: u64,
    /// Why the bus did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why the store of this process cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// Why the relay of this process does not publish.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
    /// The projections in memory that have yet to include the events that were stored when this process started: until
    /// then the process is not ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub catching_up: Vec<CatchingUp>,
    /// The projections of this process that stopped at an event, each with the event and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub projections: Vec<String>,
    /// What keeps handlers of this process from their events, as far as it concerns no single event.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub handlers: Vec<String>,
    /// The groups of this process that an operator has [paused](crate::App::pause_group), which is no problem.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub paused: BTreeSet<String>,
    /// Handlers and projections that have been busy with one event for long: the longest run of each. Of other
    /// processes the longest run of each group, if the bus knows it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub in_flight: Vec<RunningHandler>,
    /// Consumers with a pending entry that send no heartbeat: in each group the one with the oldest entry, if the bus
    /// knows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<SilentConsumer>,
    /// The bus has lost its data, and holds no event up to this position of the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_through: Option<Position>,
    /// Handlers and projections of this process that wait for a database with a fault of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<WaitingForServer>,
    /// Groups for which this process reads no more, as too many deliveries wait for a retry.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub crowded: Vec<CrowdedGroup>,
    /// For each group the delivery that has been unfinished for longest since a handler failed; on Redis also one that
    /// no live consumer has in flight.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unfinished: Vec<OldestUnfinished>,
    /// For how long the oldest event has waited to be published (`relay`) or to be included in a projection, in
    /// seconds.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub lag_seconds: BTreeMap<String, u64>,
    #[serde(skip)]
    has_nothing_to_consume: bool,
    #[serde(skip)]
    has_store: bool,
}

/// A projection in memory that has yet to include the events that were stored when its process started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, derive_more::Display)]
#[display(
    "projection `{name}` has yet to include the events that were stored when this process started: it is at position \
     {position}"
)]
pub struct CatchingUp {
    /// The projection.
    pub name: String,
    /// The position up to which it includes all events.
    pub position: Position,
}

/// A handler or projection that has been busy with one event for at least 10 seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, derive_more::Display)]
#[display(
    "`{name}` of `{group}` {}{} `{event_type}` {event_id} for {seconds} s, since {since}",
    consumer.as_ref().map(|consumer| format!("in `{consumer}` ")).unwrap_or_default(),
    if *blocks_its_thread { "blocks its thread with" } else { "is busy with" }
)]
#[non_exhaustive]
pub struct RunningHandler {
    /// The consumer that reports the run, if it belongs to a different process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer: Option<String>,
    /// The handler or projection.
    pub name: String,
    /// Its consumer group; a projection is its own.
    pub group: String,
    /// The type of the event.
    pub event_type: String,
    /// The id of the event.
    pub event_id: String,
    /// When the run began, in RFC 3339.
    pub since: String,
    /// The duration of the run so far, in whole seconds, without the time spent waiting for an unreachable store.
    pub seconds: u64,
    /// Set if the run keeps a thread of the runtime busy, so that no time limit can end it.
    pub blocks_its_thread: bool,
}

/// A consumer with a pending entry that has sent no heartbeat for long: it hangs or has ended, and no consumer has
/// reclaimed the entry yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, derive_more::Display)]
#[display("`{consumer}` of `{group}` has entry {entry_id} and has sent no heartbeat for {seconds} s")]
pub struct SilentConsumer {
    /// The consumer.
    pub consumer: String,
    /// Its group.
    pub group: String,
    /// The entry.
    pub entry_id: String,
    /// The time without a heartbeat, in seconds.
    pub seconds: u64,
}

/// A handler or projection that waits because the database it writes to has a fault of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, derive_more::Display)]
#[display("`{name}` waits for its database since {since}: {fault}")]
#[non_exhaustive]
pub struct WaitingForServer {
    /// The handler or projection.
    pub name: String,
    /// The fault that the database reports, such as `SQLSTATE 53100`; never a stored value.
    pub fault: String,
    /// Since when, in RFC 3339.
    pub since: String,
}

/// A consumer group for which this process reads no more: too many deliveries wait for a retry, or behind one that
/// does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, derive_more::Display)]
#[display("`{group}` reads no more events since {since}: {waiting} wait for a retry, or behind one that does")]
#[non_exhaustive]
pub struct CrowdedGroup {
    /// The group.
    pub group: String,
    /// The number of deliveries that wait.
    pub waiting: u64,
    /// Since when these are too many, in RFC 3339.
    pub since: String,
}

/// The delivery of a group that has been unfinished for longest: it fails again and again, or no consumer handles it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, derive_more::Display)]
#[display(
    "{} an event since {since}, for {seconds} s; unfinished in the group: {unfinished}",
    match handler {
        Some(handler) => format!("`{handler}` of `{group}` fails with"),
        None => format!("`{group}` has not finished"),
    }
)]
#[non_exhaustive]
pub struct OldestUnfinished {
    /// The group.
    pub group: String,
    /// The handler that fails; several are separated by commas. `None` if none has failed, or the bus does not know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,
    /// Since when, in RFC 3339: the first failure of a handler, or else the publishing of the event.
    pub since: String,
    /// The time since then, in whole seconds.
    pub seconds: u64,
    /// The number of known unfinished deliveries of the group, this one included.
    pub unfinished: u64,
}

impl OldestUnfinished {
    /// Describes the oldest of `unfinished` deliveries of a group: `since` is in milliseconds since 1970 by `clock`,
    /// and `handlers` may be empty.
    #[must_use]
    pub fn new(group: impl Into<String>, handlers: &str, since: u64, unfinished: u64, clock: &SharedClock) -> Self {
        let age = Duration::from_millis(clock.unix_millis().saturating_sub(since));
        Self {
            group: group.into(),
            handler: Some(handlers).filter(|handlers| !handlers.is_empty()).map(Into::into),
            since: rfc3339(clock.now() - age),
            seconds: age.as_secs(),
            unfinished,
        }
    }

    /// Merges two reports of one group: the older delivery counts.
    fn merge(&mut self, other: Self) {
        let unfinished = self.unfinished.max(other.unfinished);
        if other.seconds > self.seconds || (other.seconds == self.seconds && self.handler.is_none()) {
            *self = other;
        }
        self.unfinished = unfinished;
    }
}

/// The status of a bus.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, derive_more::Display)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// The bus works: see [`Health::status`].
    #[display("healthy")]
    Healthy,
    /// The bus does not work.
    #[default]
    #[display("unhealthy")]
    Unhealthy,
}

/// The thresholds for alerts: a plain struct with defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthThresholds {
    /// More pending entries than this are too many. Default 1000.
    pub pending_messages: u64,
    /// More dead letters than this are too many. Default 10.
    pub dlq_messages: u64,
    /// A handler that is busy with one event for longer than this takes too long, and a consumer with a pending entry
    /// must not be silent for longer. Health reports no runs of less than 10 s. Default 30 s.
    pub in_flight_age: Duration,
    /// A delivery that has been unfinished for longer than this since a handler failed is an alert, however many
    /// retries are left. Default 5 min.
    pub unfinished_age: Duration,
    /// An event that waits longer than this to be published or projected waits too long, in seconds. Default 60.
    pub lag_seconds: u64,
}

impl Default for HealthThresholds {
    fn default() -> Self {
        Self {
            pending_messages: 1_000,
            dlq_messages: 10,
            in_flight_age: Duration::from_secs(30),
            unfinished_age: Duration::from_secs(300),
            lag_seconds: 60,
        }
    }
}

impl Health {
    /// Creates the report of a bus that answered.
    pub fn connected(consuming: bool, pending_messages: u64, dlq_messages: u64) -> Self {
        let status = if consuming { HealthStatus::Healthy } else { HealthStatus::Unhealthy };
        Self { status, connected: true, consuming, pending_messages, dlq_messages, ..Self::default() }
    }

    /// Creates the report of a bus that did not answer.
    pub fn disconnected(consuming: bool, error: impl Into<String>) -> Self {
        Self { status: HealthStatus::Unhealthy, consuming, error: Some(error.into()), ..Self::default() }
    }

    /// Adapts the report to a process without handlers, which has nothing to consume.
    pub fn with_nothing_to_consume(self) -> Self {
        let status = if self.connected { HealthStatus::Healthy } else { HealthStatus::Unhealthy };
        Self { status, has_nothing_to_consume: true, ..self }
    }

    /// Adapts the report to a process with a store: it is ready while the store can be read, once its projections in
    /// memory have caught up.
    pub fn with_store(self) -> Self {
        Self { has_store: true, ..self }
    }

    /// Adds the reason why the store cannot be read, which makes the report unhealthy.
    pub fn with_store_problem(self, problem: String) -> Self {
        Self { status: HealthStatus::Unhealthy, store: Some(problem), has_store: true, ..self }
    }

    /// Adds the reason why the relay does not publish until an operator decides, which makes the report unhealthy.
    pub fn with_relay_stopped(self, reason: String) -> Self {
        Self { status: HealthStatus::Unhealthy, relay: Some(reason), ..self }
    }

    /// Adds the oldest unfinished deliveries of groups. For each group the oldest one counts; it is an alert if it is
    /// too old.
    pub fn with_oldest_unfinished(mut self, oldest: impl IntoIterator<Item = OldestUnfinished>) -> Self {
        for other in oldest {
            match self.unfinished.iter_mut().find(|known| known.group == other.group) {
                Some(known) => known.merge(other),
                None => self.unfinished.push(other),
            }
        }
        self
    }

    /// Returns `true` if [`status`](Self::status) is healthy.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.status == HealthStatus::Healthy
    }

    /// Returns `true` if the process can serve requests: its store can be read, and its projections in memory have caught
    /// up since the start; or, without a store, its bus is connected and consumed. While only the bus is down, saves work,
    /// and the relay publishes their events afterwards.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        match self.has_store {
            true => self.store.is_none() && self.catching_up.is_empty(),
            false => self.connected && (self.consuming || self.has_nothing_to_consume),
        }
    }

    /// Returns one text per problem; none if all is well.
    #[must_use]
    pub fn alerts(&self, thresholds: &HealthThresholds) -> Vec<String> {
        let mut alerts = Vec::new();
        if !self.connected {
            alerts.push(match &self.error {
                Some(error) => format!("not connected: {error}"),
                None => "not connected".into(),
            });
        }
        if !self.consuming && !self.has_nothing_to_consume {
            alerts.push("not consuming".into());
        }
        alerts.extend(self.store.iter().map(|why| format!("the store cannot be read: {why}")));
        alerts.extend(self.relay.iter().map(|why| format!("the relay does not publish: {why}")));
        alerts.extend(self.catching_up.iter().map(ToString::to_string));
        alerts.extend(self.projections.iter().chain(&self.handlers).cloned());
        alerts.extend(self.lost_through.map(|position| {
            format!(
                "the bus has lost its data: it holds no event up to position {position}; to publish earlier events again, run \
                 `eventbus relay republish --after <position>`"
            )
        }));
        alerts.extend(self.waiting.iter().map(ToString::to_string));
        alerts.extend(self.crowded.iter().map(ToString::to_string));
        let is_old = |seconds: u64| Duration::from_secs(seconds) > thresholds.in_flight_age;
        alerts.extend(self.in_flight.iter().filter(|run| is_old(run.seconds)).map(ToString::to_string));
        alerts.extend(self.silent.iter().filter(|silent| is_old(silent.seconds)).map(ToString::to_string));
        let is_old = |oldest: &&OldestUnfinished| Duration::from_secs(oldest.seconds) > thresholds.unfinished_age;
        let runs = |oldest: &&OldestUnfinished| !self.paused.contains(&oldest.group);
        alerts.extend(self.unfinished.iter().filter(is_old).filter(runs).map(ToString::to_string));
        for (what, lag) in self.lag_seconds.iter().filter(|(_, lag)| **lag > thresholds.lag_seconds) {
            alerts.push(format!(
                "{what} lags: its next event has waited for {lag} s, longer than {} s",
                thresholds.lag_seconds
            ));
        }
        let mut count = |what, is: u64, most: u64| {
            if is > most {
                alerts.push(format!("{is} {what}, more than {most}"));
            }
        };
        count("pending messages", self.pending_messages, thresholds.pending_messages);
        count("dead letters", self.dlq_messages, thresholds.dlq_messages);
        alerts
    }
}
