//! Whether a bus is well, for probes and alerts.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::activity::rfc3339;
use crate::domain::{clock::SharedClock, stream::Position};

/// Whether a bus is well. As JSON it is what a health endpoint answers.
///
/// A process that only publishes does not consume, so the `status` of its bus is never healthy: it looks at `connected`.
/// An [`App`](crate::App) without handlers knows that.
///
/// # Examples
/// ```
/// use eventbus::{InMemoryEventBus, port::{EventBus, HealthStatus, HealthThresholds}};
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let health = InMemoryEventBus::new().health().await;
/// assert_eq!(health.status, HealthStatus::Unhealthy);
/// assert_eq!(health.alerts(&HealthThresholds::default()), ["not consuming"]);
/// # });
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// Healthy: connected and consuming, and nothing else stands still.
    pub status: HealthStatus,
    /// Whether the bus could be asked.
    pub connected: bool,
    /// Whether this process consumes.
    pub consuming: bool,
    /// Entries handed over and not acknowledged, over all groups; 0 when not connected.
    pub pending_messages: u64,
    /// Entries in the dead letters; 0 when not connected.
    pub dlq_messages: u64,
    /// Why the bus could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why the store of this process cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// Why the relay of this process does not publish.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
    /// The projections of this process that stopped at an event, each with the event and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub projections: Vec<String>,
    /// Handlers and projections that have been busy with one event for long, the longest of each; of other processes that
    /// of each group, where the bus knows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub in_flight: Vec<RunningHandler>,
    /// Consumers that have an entry and show no life, the one with the oldest entry of each group, where the bus knows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<SilentConsumer>,
    /// The events that groups are not delivered as the store cannot read them, where the bus reads them from there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<UnreadableEvents>,
    /// Groups that are not given what they miss and only the store holds, as this process cannot bring it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unfilled: Vec<UnfilledGroup>,
    /// Handlers and projections of this process that wait for a database with a fault of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<WaitingForServer>,
    /// Groups of which this process reads no more, as too many deliveries wait for a retry.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub crowded: Vec<CrowdedGroup>,
    /// Of each group the delivery that has been unfinished for longest since a handler failed; on Redis also what no live
    /// consumer has in hand.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unfinished: Vec<OldestUnfinished>,
    /// For how many seconds the oldest event has waited that is not published (`relay`), or not included in a projection.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub lag_seconds: BTreeMap<String, u64>,
    #[serde(skip)]
    has_nothing_to_consume: bool,
    #[serde(skip)]
    has_store: bool,
}

/// A handler or projection that has been busy with one event for at least 10 seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunningHandler {
    /// The consumer that says so, if it is of another process.
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
    /// When it began, in RFC 3339.
    pub since: String,
    /// How long that is ago, in whole seconds; time spent waiting for a store that is away is left out.
    pub seconds: u64,
    /// Whether it keeps a thread of the runtime busy, so that no time limit can end it.
    pub blocks_its_thread: bool,
}

impl fmt::Display for RunningHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { consumer, name, group, event_type, event_id, since, seconds, blocks_its_thread } = self;
        let how = if *blocks_its_thread { "blocks its thread with" } else { "is busy with" };
        write!(f, "`{name}` of `{group}` ")?;
        if let Some(consumer) = consumer {
            write!(f, "in `{consumer}` ")?;
        }
        write!(f, "{how} `{event_type}` {event_id} for {seconds} s, since {since}")
    }
}

/// A consumer that has an entry and has shown no life for long: it hangs or has ended, and no consumer has taken over yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SilentConsumer {
    /// The consumer.
    pub consumer: String,
    /// Its group.
    pub group: String,
    /// The entry.
    pub entry_id: String,
    /// For how many seconds it has shown no life.
    pub seconds: u64,
}

impl fmt::Display for SilentConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { consumer, group, entry_id, seconds } = self;
        write!(f, "`{consumer}` of `{group}` has entry {entry_id} and has shown no life for {seconds} s")
    }
}

/// Events that a group is not delivered, as the store cannot read them: their rows are damaged or gone. They are tried again
/// every minute; the group handles all others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnreadableEvents {
    /// The group.
    pub group: String,
    /// How many there are.
    pub count: u64,
    /// Where the first one is in the store.
    pub first: Position,
    /// Since when this process knows of one, in RFC 3339.
    pub since: String,
}

impl fmt::Display for UnreadableEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, count, first, since } = self;
        let events = if *count == 1 { "event" } else { "events" };
        write!(
            f,
            "`{group}` waits for {count} {events} that the store cannot read since {since}, at position {first} first: mend \
             what is there, or skip it with `app.skip_published_event`"
        )
    }
}

/// A group that is not given what it misses and only the store holds: the store cannot read it, or the bus does not take it.
/// It is tried again twice a second; the group is given nothing behind it, and the other groups are not kept by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UnfilledGroup {
    /// The group.
    pub group: String,
    /// It was given everything that it misses up to here.
    pub after: Position,
    /// What keeps it from the rest, without the words of store and bus: the log has these.
    pub error: String,
    /// Since when, in RFC 3339.
    pub since: String,
}

impl fmt::Display for UnfilledGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, after, error, since } = self;
        write!(
            f,
            "`{group}` is not given what it misses after position {after} since {since}: {error}; the log says why. An event \
             that cannot be read or published is to be mended, or skipped with `app.skip_published_event`"
        )
    }
}

/// A handler or projection that waits because the database it writes to has a fault of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WaitingForServer {
    /// The handler or projection.
    pub name: String,
    /// What the database says of itself, such as `SQLSTATE 53100`; never a stored value.
    pub fault: String,
    /// Since when, in RFC 3339.
    pub since: String,
}

impl fmt::Display for WaitingForServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, fault, since } = self;
        write!(f, "`{name}` waits for its database since {since}: {fault}")
    }
}

/// A consumer group of which this process reads no more: too many deliveries wait for a retry, or behind one that does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CrowdedGroup {
    /// The group.
    pub group: String,
    /// How many wait.
    pub waiting: u64,
    /// Since when these are too many, in RFC 3339.
    pub since: String,
}

impl fmt::Display for CrowdedGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, waiting, since } = self;
        write!(f, "`{group}` reads no more events since {since}: {waiting} wait for a retry, or behind one that does")
    }
}

/// The delivery of a group that has been unfinished for longest: it fails again and again, or nobody handles it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OldestUnfinished {
    /// The group.
    pub group: String,
    /// The handler that fails; several are separated by commas. `None` if none has failed, or that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,
    /// Since when, in RFC 3339: when a handler failed first, or when the event was published if that is not known.
    pub since: String,
    /// How long that is ago, in whole seconds.
    pub seconds: u64,
    /// How many deliveries of the group are unfinished, this one included, as far as is known.
    pub unfinished: u64,
}

impl OldestUnfinished {
    /// Describes the oldest of `unfinished` deliveries of a group: `since` is in milliseconds since 1970 by `clock`, and
    /// `handlers` may be empty.
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

    /// Puts what is known of one group from two sides together: the older one counts.
    fn merge(&mut self, other: Self) {
        let unfinished = self.unfinished.max(other.unfinished);
        if other.seconds > self.seconds || (other.seconds == self.seconds && self.handler.is_none()) {
            *self = other;
        }
        self.unfinished = unfinished;
    }
}

impl fmt::Display for OldestUnfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, handler, since, seconds, unfinished } = self;
        match handler {
            Some(handler) => write!(f, "`{handler}` of `{group}` fails with an event since {since}, for {seconds} s")?,
            None => write!(f, "`{group}` has not finished an event since {since}, for {seconds} s")?,
        }
        write!(f, "; unfinished in the group: {unfinished}")
    }
}

/// Whether a bus does its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// It is connected and consumes.
    Healthy,
    /// It does not do both.
    Unhealthy,
}

impl fmt::Display for HealthStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        })
    }
}

/// From where on numbers are worth an alert: a plain struct with defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthThresholds {
    /// More pending entries than this are too many. Default 1000.
    pub pending_messages: u64,
    /// More dead letters than this are too many. Default 10.
    pub dlq_messages: u64,
    /// A handler that is busy with one event for longer than this takes too long, and a consumer that has an entry must not
    /// be silent for longer. What takes less than 10 s is not known here. Default 30 s.
    pub in_flight_age: Duration,
    /// A delivery that has been unfinished for longer than this since a handler failed is an alert, however often it is
    /// to be tried again. Default 5 min.
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
    /// Of a bus that answered.
    #[must_use]
    pub const fn connected(consuming: bool, pending_messages: u64, dlq_messages: u64) -> Self {
        let status = if consuming { HealthStatus::Healthy } else { HealthStatus::Unhealthy };
        Self {
            status,
            connected: true,
            consuming,
            pending_messages,
            dlq_messages,
            error: None,
            store: None,
            relay: None,
            projections: Vec::new(),
            in_flight: Vec::new(),
            silent: Vec::new(),
            unreadable: Vec::new(),
            unfilled: Vec::new(),
            waiting: Vec::new(),
            crowded: Vec::new(),
            unfinished: Vec::new(),
            lag_seconds: BTreeMap::new(),
            has_nothing_to_consume: false,
            has_store: false,
        }
    }

    /// Of a bus that could not be asked.
    #[must_use]
    pub fn disconnected(consuming: bool, error: impl Into<String>) -> Self {
        Self {
            status: HealthStatus::Unhealthy,
            connected: false,
            consuming,
            pending_messages: 0,
            dlq_messages: 0,
            error: Some(error.into()),
            store: None,
            relay: None,
            projections: Vec::new(),
            in_flight: Vec::new(),
            silent: Vec::new(),
            unreadable: Vec::new(),
            unfilled: Vec::new(),
            waiting: Vec::new(),
            crowded: Vec::new(),
            unfinished: Vec::new(),
            lag_seconds: BTreeMap::new(),
            has_nothing_to_consume: false,
            has_store: false,
        }
    }

    /// Of a process without handlers: that it does not consume is as it should be.
    #[must_use]
    pub fn with_nothing_to_consume(self) -> Self {
        let status = if self.connected { HealthStatus::Healthy } else { HealthStatus::Unhealthy };
        Self { status, has_nothing_to_consume: true, ..self }
    }

    /// Of a process with a store: it is ready while that can be read.
    #[must_use]
    pub fn with_store(self) -> Self {
        Self { has_store: true, ..self }
    }

    /// With why the store cannot be read: unhealthy.
    #[must_use]
    pub fn with_store_problem(self, problem: String) -> Self {
        Self { status: HealthStatus::Unhealthy, store: Some(problem), has_store: true, ..self }
    }

    /// With what keeps the relay from publishing for now: an alert.
    #[must_use]
    pub fn with_relay_problem(mut self, problem: String) -> Self {
        self.relay = Some(problem);
        self
    }

    /// With what keeps the relay from publishing until somebody decides: unhealthy.
    #[must_use]
    pub fn with_relay_stopped(self, reason: String) -> Self {
        Self { status: HealthStatus::Unhealthy, ..self.with_relay_problem(reason) }
    }

    /// With how long the oldest event has waited that is not published or projected: an alert each that is too long.
    #[must_use]
    pub fn with_lags(mut self, lag_seconds: BTreeMap<String, u64>) -> Self {
        self.lag_seconds = lag_seconds;
        self
    }

    /// With the projections that stopped at an event: an alert each. The status stays: the rest goes on.
    #[must_use]
    pub fn with_stopped_projections(mut self, stopped: Vec<String>) -> Self {
        self.projections = stopped;
        self
    }

    /// With handlers and projections that are busy with one event for long, beside those that are known.
    #[must_use]
    pub fn with_running_handlers(mut self, in_flight: Vec<RunningHandler>) -> Self {
        self.in_flight.extend(in_flight);
        self
    }

    /// With consumers that have an entry and show no life, beside those that are known.
    #[must_use]
    pub fn with_silent_consumers(mut self, silent: Vec<SilentConsumer>) -> Self {
        self.silent.extend(silent);
        self
    }

    /// With the events that groups wait for and the store cannot read: an alert for each group.
    #[must_use]
    pub fn with_unreadable(mut self, unreadable: Vec<UnreadableEvents>) -> Self {
        self.unreadable = unreadable;
        self
    }

    /// With the groups that are not given what they miss: an alert each.
    #[must_use]
    pub fn with_unfilled(mut self, unfilled: Vec<UnfilledGroup>) -> Self {
        self.unfilled = unfilled;
        self
    }

    /// With handlers and projections that wait for a database, beside those that are known: an alert each.
    #[must_use]
    pub fn with_waiting(mut self, waiting: Vec<WaitingForServer>) -> Self {
        self.waiting.extend(waiting);
        self
    }

    /// With groups of which no more is read, beside those that are known: an alert each.
    #[must_use]
    pub fn with_crowded_groups(mut self, crowded: Vec<CrowdedGroup>) -> Self {
        self.crowded.extend(crowded);
        self
    }

    /// With the oldest unfinished deliveries of groups, beside those that are known: of each group the oldest one counts,
    /// and is an alert if it is old.
    #[must_use]
    pub fn with_oldest_unfinished(mut self, oldest: Vec<OldestUnfinished>) -> Self {
        for other in oldest {
            match self.unfinished.iter_mut().find(|known| known.group == other.group) {
                Some(known) => known.merge(other),
                None => self.unfinished.push(other),
            }
        }
        self
    }

    /// Whether the bus is connected and consumes.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.status == HealthStatus::Healthy
    }

    /// Whether the process can do what it is asked: its store can be read; without a store, its bus is connected and
    /// consumed. While only the bus is away saves work, and their events are published when it is back.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        match self.has_store {
            true => self.store.is_none(),
            false => self.connected && (self.consuming || self.has_nothing_to_consume),
        }
    }

    /// What is wrong, in words; nothing if all is well.
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
        alerts.extend(self.projections.iter().cloned());
        alerts.extend(self.unreadable.iter().map(ToString::to_string));
        alerts.extend(self.unfilled.iter().map(ToString::to_string));
        alerts.extend(self.waiting.iter().map(ToString::to_string));
        alerts.extend(self.crowded.iter().map(ToString::to_string));
        let is_old = |seconds: u64| Duration::from_secs(seconds) > thresholds.in_flight_age;
        alerts.extend(self.in_flight.iter().filter(|run| is_old(run.seconds)).map(ToString::to_string));
        alerts.extend(self.silent.iter().filter(|silent| is_old(silent.seconds)).map(ToString::to_string));
        let is_old = |oldest: &&OldestUnfinished| Duration::from_secs(oldest.seconds) > thresholds.unfinished_age;
        alerts.extend(self.unfinished.iter().filter(is_old).map(ToString::to_string));
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
