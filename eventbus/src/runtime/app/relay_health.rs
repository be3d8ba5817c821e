//! The relay as an app shows it, the app's health, and the operator's commands to the relay.

use std::{collections::BTreeMap, time::Duration};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{App, Published, PublishedError, outage_starts::Dependency};
use crate::{
    domain::{name::Name, stream::Position},
    port::{CheckpointError, Health},
    runtime::{
        projection::ProjectionError,
        relay::{self, RelayError, RelayProgress, RelayStatus, RelayView, RepublishError},
    },
};

/// Timeout of store and bus in a health check. Real time: it is the reply of a server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

impl App {
    /// Waits until the relay has published all events up to `position`. If a different process relays, this one sees
    /// its progress about a second later.
    ///
    /// # Errors
    /// [`PublishedError`] if no process relays, the relay stopped, or it did not reach `position` within the builder's
    /// `wait_timeout`.
    pub async fn published(&self, position: impl Into<Option<Position>>) -> Result<Published, PublishedError> {
        let wanted = position.into().unwrap_or(Position::START);
        let mut relay = self.relay().ok_or(PublishedError::NoRelay)?;
        let timeout = self.0.wait_timeout;
        match self.clock().timeout(timeout, relay.wait_for_position(wanted, self.clock())).await {
            Ok(true) => {
                let message_id = relay.read_progress(|now| now.message_id(wanted));
                Ok(Published { position: relay.position().await.max(wanted), message_id })
            }
            Ok(false) => {
                if let Some(stopped) = relay.read_progress(|now| now.stopped.clone()) {
                    return Err(stopped.into());
                }
                let position = relay.read_progress(|now| now.position);
                Err(PublishedError::Stopped { position, wanted, reason: "its app was shut down".into() })
            }
            Err(_) => {
                let problem = match relay.read_progress(|now| now.problem.clone()) {
                    Some(problem) => problem,
                    None => self.describe_missing_position(wanted).await.unwrap_or_else(|| match relay.is_owner() {
                        true => "it is still busy".into(),
                        false => "another process relays, or is to relay".into(),
                    }),
                };
                Err(PublishedError::TimedOut { position: relay.position().await, wanted, timeout, problem })
            }
        }
    }

    /// Returns the relay's status; `None` without a relay: the app only consumes, or its bus lives in the process and
    /// the builder says `.without_relay()`.
    pub async fn relay_status(&self) -> Option<RelayStatus> {
        Some(self.relay()?.status(self.clock()).await)
    }

    /// Returns the health of store, bus, relay and projections of this process, for a health endpoint. It never fails,
    /// and takes two seconds at most: a store or a bus that does not answer by then is not well.
    pub async fn health(&self) -> Health {
        let stopped = self.0.projections.iter().filter_map(|projection| {
            let status = projection.status(Position::START);
            let what = status.stopped.as_ref().map(ProjectionError::to_redacted_string)?;
            Some(with_since(what, status.stopped_since))
        });
        let stopped = stopped.collect();
        let (health, store_problem, lags) = tokio::join!(self.bus_health(), self.store_problem(), self.lags());
        let health = self.with_bus_outage_start(health).with_lags(lags);
        let health = if self.0.groups.is_empty() { health.with_nothing_to_consume() } else { health };
        let health = health.with_stopped_projections(stopped).with_unfilled(self.0.tasks.unfilled.groups());
        let health = if self.0.has_store { health.with_store() } else { health };
        let health = self.0.projections.iter().fold(health, |health, projection| projection.add_to_health(health));
        let health = match store_problem {
            Some(problem) => health.with_store_problem(with_since(problem, self.store_outage_start())),
            None => {
                self.0.outage_starts.record(Dependency::Store, None);
                health
            }
        };
        let Some(relay) = self.relay() else {
            return health;
        };
        let since = relay.read_progress(RelayProgress::since);
        match (relay.read_progress(|now| now.stopped.clone()), relay.read_progress(|now| now.problem.clone())) {
            (Some(stopped), _) => health.with_relay_stopped(with_since(stopped.to_redacted_string(), since)),
            (None, Some(problem)) => health.with_relay_problem(with_since(problem, since)),
            (None, None) => health,
        }
    }

    /// Has the relay publish all events after `from` again, with the same event ids and positions, in whichever process
    /// it runs: for operators. Returns the position after which it publishes: `from`, or lower if the relay is not that
    /// far.
    ///
    /// It resolves [`RelayError::StoreBehindBus`](crate::RelayError::StoreBehindBus): give the position where the
    /// backup ended from which the store was restored, or any position before it; [`Position::START`] is always right.
    /// Handlers get the republished events again.
    ///
    /// It returns before the relay publishes: the relay notices within a second, and until then
    /// [`published`](Self::published) does not wait for it; [`settled`](Self::settled) does.
    ///
    /// # Errors
    /// [`RepublishError`]; a bus in the process keeps no position to set back.
    pub async fn republish(&self, from: Position) -> Result<Position, RepublishError> {
        // a bus that has no position of this store has none to set back either, and its own error would not say why
        let stopped = self.relay().and_then(|relay| relay.read_progress(|now| now.stopped.clone()));
        if let Some(error @ RelayError::OtherStore { .. }) = stopped {
            return Err(error.into());
        }
        relay::republish(&*self.0.store, &*self.0.bus, from).await
    }

    /// Deletes the floor of a consumer group of the bus, so that events are neither kept nor republished for it: for
    /// operators. The relay soon adds a group again that is still on the bus, so retire it there first.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store cannot be reached.
    pub async fn forget_group(&self, group: &Name) -> Result<(), CheckpointError> {
        self.0.store.forget_floor(self.0.bus.destination(), group).await
    }

    async fn bus_health(&self) -> Health {
        let bus = &self.0.bus;
        let health = tokio::time::timeout(ANSWER_TIMEOUT, bus.health()).await;
        health.unwrap_or_else(|_| {
            let health = Health::disconnected(bus.is_consuming(), no_answer());
            bus.report(health)
        })
    }

    /// Adds the start of the bus's outage, if it is away: when this check or the relay first noticed.
    fn with_bus_outage_start(&self, mut health: Health) -> Health {
        if health.connected {
            self.0.outage_starts.record(Dependency::Bus, None);
        } else {
            let since = self.relay().and_then(|relay| relay.read_progress(RelayProgress::since));
            let since = self.0.outage_starts.record(Dependency::Bus, Some(since.unwrap_or_else(|| self.clock().now())));
            health.error = health.error.map(|error| with_since(error, since));
        }
        health
    }

    /// Returns the start of the store's outage: when this check, the relay or a projection first noticed.
    fn store_outage_start(&self) -> Option<OffsetDateTime> {
        let relay = self.relay().and_then(|relay| relay.read_progress(RelayProgress::since));
        let projections =
            self.0.projections.iter().filter_map(|projection| projection.status(Position::START).trouble_since);
        let since = projections.chain(relay).min().unwrap_or_else(|| self.clock().now());
        self.0.outage_starts.record(Dependency::Store, Some(since))
    }

    /// Returns the error of the store, if the app has one and it cannot be read.
    async fn store_problem(&self) -> Option<String> {
        if !self.0.has_store {
            return None;
        }
        match tokio::time::timeout(ANSWER_TIMEOUT, self.0.store.head()).await {
            Ok(answer) => answer.err().map(|error| error.to_string()),
            Err(_) => Some(no_answer()),
        }
    }

    /// Returns for how many seconds the oldest event has waited for the relay and for each projection, as far as the
    /// store answers.
    async fn lags(&self) -> BTreeMap<String, u64> {
        if !self.0.has_store {
            return BTreeMap::new();
        }
        let load_lags = async {
            let mut places = Vec::new();
            if let Some(relay) = self.relay() {
                places.push(("relay".to_owned(), relay.position().await));
            }
            let projections = self.0.projections.iter().map(|projection| projection.status(Position::START));
            places.extend(projections.map(|status| (format!("projection `{}`", status.name), status.position)));
            let mut lags = BTreeMap::new();
            for (what, position) in places {
                if let Ok(Some(since)) = self.0.store.first_recorded_after(position).await {
                    let lag = (self.clock().now() - since).whole_seconds();
                    let lag = u64::try_from(lag).unwrap_or_default();
                    if lag > 0 {
                        lags.insert(what, lag);
                    }
                }
            }
            lags
        };
        tokio::time::timeout(ANSWER_TIMEOUT, load_lags).await.unwrap_or_default()
    }

    fn relay(&self) -> Option<RelayView> {
        let running = &*self.0;
        let has_relay = running.tasks.relay.is_some() || running.has_store;
        has_relay.then(|| RelayView::for_bus(&running.store, &*running.bus, running.tasks.relay.as_ref())).flatten()
    }
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
