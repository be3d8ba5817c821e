//! The relay as an app shows it, and the app's health.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{error::PublishedError, inner::AppInner, outage_starts::Dependency};
use crate::{
    domain::stream::Position,
    port::{MessageId, health::Health},
    runtime::{
        projection::ProjectionError,
        relay::{self, RelayError, RelayStatus, RelayView, RepublishError},
    },
};

/// Timeout of store and bus in a health check, a status or metrics. Real time: it is the reply of a server.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// An event that the relay has published.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Published {
    /// The relay has published all events up to here.
    pub position: Position,
    /// The bus's id of the event at the wanted position; `None` if it was published too long ago, or by a different
    /// process.
    pub message_id: Option<MessageId>,
}

pub(super) async fn published(app: &AppInner, wanted: Position) -> Result<Published, PublishedError> {
    let mut relay = relay_view(app).ok_or(PublishedError::NoRelay)?;
    let timeout = app.wait_timeout;
    match app.clock().timeout(timeout, relay.wait_for_position(wanted, app.clock())).await {
        Ok(true) => {
            let message_id = relay.read(|now| now.message_id(wanted));
            Ok(Published { position: relay.position().await.max(wanted), message_id })
        }
        Ok(false) => {
            if let Some(stopped) = relay.read(|now| now.stopped.clone()) {
                return Err(stopped.into());
            }
            let position = relay.read(|now| now.position);
            Err(PublishedError::Stopped { position, wanted, reason: "its app was shut down".into() })
        }
        Err(_) => {
            let problem = match relay.read(|now| now.problem.clone()) {
                Some(problem) => problem,
                None => match (app.describe_missing_position(wanted).await, relay.read(|now| now.is_owner)) {
                    (Some(missing), _) => missing,
                    (None, true) => "it is still busy".into(),
                    (None, false) => describe_missing_lease(app).await,
                },
            };
            Err(PublishedError::TimedOut { position: relay.position().await, wanted, timeout, problem })
        }
    }
}

/// Describes why this process does not hold the relay's lease: the relay requests it only once the bus has answered.
async fn describe_missing_lease(app: &AppInner) -> String {
    match bus_health(app).await.error {
        Some(error) => format!("the bus is away: {error}"),
        None => "another process relays, or is to relay".into(),
    }
}

pub(super) async fn relay_status(app: &AppInner) -> Option<RelayStatus> {
    Some(relay_view(app)?.status(app.clock()).await)
}

pub(super) async fn health(app: &AppInner) -> Health {
    let stopped = app.projections.iter().filter_map(|projection| {
        let status = projection.fed().status(Position::START);
        let what = status.stopped.as_ref().map(ProjectionError::to_redacted_string)?;
        Some(with_since(what, status.stopped_since))
    });
    let stopped = stopped.collect();
    let (health, store_problem, lags) = tokio::join!(bus_health(app), store_problem(app), lags(app));
    let health = with_bus_outage_start(app, health);
    let health = if app.groups.is_empty() { health.with_nothing_to_consume() } else { health };
    let mut health = if app.has_store { health.with_store() } else { health };
    health.lag_seconds = lags;
    health.projections = stopped;
    app.projections.iter().for_each(|projection| projection.fed().add_to_health(&mut health));
    let mut health = match store_problem {
        Some(problem) => health.with_store_problem(with_since(problem, store_outage_start(app))),
        None => {
            app.outage_starts.record(Dependency::Store, None);
            health
        }
    };
    let relay = relay_view(app).map(|relay| relay.read(Clone::clone)).unwrap_or_default();
    health.lost_through = relay.lost_through;
    match relay.stopped {
        Some(stopped) => health.with_relay_stopped(with_since(stopped.to_redacted_string(), relay.since)),
        None => {
            health.relay = relay.problem.map(|problem| with_since(problem, relay.since));
            health
        }
    }
}

pub(super) async fn republish(app: &AppInner, from: Option<Position>) -> Result<Position, RepublishError> {
    // a bus that has no position of this store has none to set back either, and its own error would not say why
    let stopped = relay_view(app).and_then(|relay| relay.read(|now| now.stopped.clone()));
    if let Some(error @ RelayError::OtherStore { .. }) = stopped {
        return Err(error.into());
    }
    relay::republish(&*app.store, &**app.transport(), from).await
}

async fn bus_health(app: &AppInner) -> Health {
    let bus = &app.bus;
    let health = tokio::time::timeout(ANSWER_TIMEOUT, bus.health()).await;
    health.unwrap_or_else(|_| {
        let health = Health::disconnected(bus.is_consuming(), no_answer());
        bus.report(health)
    })
}

/// Adds the start of the bus's outage, if it is away: when this check or the relay first noticed.
fn with_bus_outage_start(app: &AppInner, mut health: Health) -> Health {
    if health.connected {
        app.outage_starts.record(Dependency::Bus, None);
    } else {
        let since = relay_outage_start(app).unwrap_or_else(|| app.clock().now());
        let since = app.outage_starts.record(Dependency::Bus, Some(since));
        health.error = health.error.map(|error| with_since(error, since));
    }
    health
}

/// Returns the start of the store's outage: when this check, the relay or a projection first noticed.
fn store_outage_start(app: &AppInner) -> Option<OffsetDateTime> {
    let projections =
        app.projections.iter().filter_map(|projection| projection.fed().status(Position::START).trouble_since);
    let since = projections.chain(relay_outage_start(app)).min().unwrap_or_else(|| app.clock().now());
    app.outage_starts.record(Dependency::Store, Some(since))
}

/// Returns when the relay first noticed that it cannot use store or bus. A relay that has stopped did so for an earlier
/// reason.
fn relay_outage_start(app: &AppInner) -> Option<OffsetDateTime> {
    relay_view(app)?.read(|now| now.since.filter(|_| now.stopped.is_none()))
}

/// Returns the error of the store, if the app has one and it cannot be read.
async fn store_problem(app: &AppInner) -> Option<String> {
    if !app.has_store {
        return None;
    }
    match tokio::time::timeout(ANSWER_TIMEOUT, app.store.head()).await {
        Ok(answer) => answer.err().map(|error| error.to_string()),
        Err(_) => Some(no_answer()),
    }
}

/// Returns for how many seconds the oldest event has waited for the relay and for each projection, as far as the
/// store answers.
async fn lags(app: &AppInner) -> BTreeMap<String, u64> {
    if !app.has_store {
        return BTreeMap::new();
    }
    let (mut readers, mut first_recorded) = (Vec::new(), BTreeMap::new());
    let read = async {
        if let Some(relay) = relay_view(app) {
            readers.push(("relay".to_owned(), relay.position().await));
        }
        let projections = app.projections.iter().map(|projection| projection.fed().status(Position::START));
        readers.extend(projections.map(|status| (format!("projection `{}`", status.name), status.position)));
        read_first_recorded(app, readers.iter().map(|(_, position)| *position), &mut first_recorded).await;
    };
    // what was read in time is kept
    let _ = tokio::time::timeout(ANSWER_TIMEOUT, read).await;
    let now = app.clock().now();
    let lag_of = |(reader, position)| {
        let since = (*first_recorded.get(&position)?)?;
        let lag = u64::try_from((now - since).whole_seconds()).ok()?;
        (lag > 0).then_some((reader, lag))
    };
    readers.into_iter().filter_map(lag_of).collect()
}

/// Reads when the first event after each position was recorded, the lowest position first; leaves out those that cannot be
/// read.
pub(super) async fn read_first_recorded(
    app: &AppInner,
    positions: impl Iterator<Item = Position>,
    first_recorded: &mut BTreeMap<Position, Option<OffsetDateTime>>,
) {
    // most readers are at the end: one request for each position, not for each reader
    for position in positions.collect::<BTreeSet<_>>() {
        if let Ok(recorded) = app.store.first_recorded_after(position).await {
            first_recorded.insert(position, recorded);
        }
    }
}

pub(super) fn relay_view(app: &AppInner) -> Option<RelayView> {
    let other = || app.relayed.as_ref().map(|bus| RelayView::for_bus(&app.store, &**bus));
    app.tasks.relay().cloned().or_else(other)
}

/// Appends the start time to a problem, if it is known.
fn with_since(what: String, since: Option<OffsetDateTime>) -> String {
    match since.and_then(|since| since.format(&Rfc3339).ok()) {
        Some(since) => format!("{what} (since {since})"),
        None => what,
    }
}

fn no_answer() -> String {
    format!("it does not answer within {ANSWER_TIMEOUT:?}")
}
