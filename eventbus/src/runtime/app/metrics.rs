//! The metrics of an app: what its parts have counted, and the status of store, relay, projections and bus.
//!
//! Invariant: a silent store or bus delays the metrics by [`ANSWER_TIMEOUT`] at most; what it does not answer has no sample.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use time::OffsetDateTime;
use tokio::time::{Instant, timeout_at};

use super::{
    inner::AppInner,
    relay_health::{ANSWER_TIMEOUT, read_first_recorded, relay_view},
};
use crate::{
    domain::stream::Position,
    port::{
        health::Health,
        run_meter::RunOutcome,
        stats::{GroupInfo, StreamInfo},
    },
    runtime::{
        metrics::{AppendOutcome, FamilyBuilder, LoadSource, Metrics, catalog},
        projection::{ProjectionError, ProjectionOwner},
    },
};

/// What store and bus answered when they were last polled.
#[derive(Debug, Clone, Default)]
pub(super) struct PolledStatus {
    /// `None` if the app has no store, or the store did not answer.
    store: Option<StoreStatus>,
    /// The bus is not connected if it did not answer.
    stream: StreamInfo,
}

#[derive(Debug, Clone)]
struct StoreStatus {
    head: Position,
    held_for: Duration,
    /// `None` if no process relays to the bus.
    relay: Option<Position>,
    /// When the first event after the position of each reader was recorded; a position that could not be read is left out.
    first_recorded: BTreeMap<Position, Option<OffsetDateTime>>,
    /// The position of each projection, in the order of the app.
    projections: Vec<Position>,
}

impl PolledStatus {
    /// Polls store and bus.
    pub(super) async fn poll(app: &AppInner) -> Self {
        let stream = tokio::time::timeout(ANSWER_TIMEOUT, app.bus.stream_info());
        let (store, stream) = tokio::join!(StoreStatus::poll(app), stream);
        Self { store, stream: stream.unwrap_or_default() }
    }
}

impl StoreStatus {
    async fn poll(app: &AppInner) -> Option<Self> {
        if !app.has_store {
            return None;
        }
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let mut status = timeout_at(deadline, Self::poll_positions(app)).await.ok()??;
        // the store has answered: a slow search for an event makes the time of that event unknown, and no more
        let positions = status.projections.iter().copied().chain(status.relay);
        let _ = timeout_at(deadline, read_first_recorded(app, positions, &mut status.first_recorded)).await;
        Some(status)
    }

    async fn poll_positions(app: &AppInner) -> Option<Self> {
        let relay = match relay_view(app) {
            Some(relay) => Some(relay.load_position().await.ok()?),
            None => None,
        };
        let positions = app.projections.iter().map(|projection| projection.fed().status(Position::START).position);
        let projections = positions.collect();
        let head = app.store.head().await.ok()?;
        let held_for = app.store.held_for().await.ok()?.unwrap_or_default();
        Some(Self { head, held_for, relay, first_recorded: BTreeMap::new(), projections })
    }

    /// Returns the age of the oldest event that a reader has not read, in seconds; the reader was at `polled`, and is at
    /// `position` now. `None` if it could not be read.
    fn lag_seconds(&self, polled: Position, position: Position, now: OffsetDateTime) -> Option<f64> {
        let recorded = self.first_recorded.get(&polled)?;
        if position > polled && position >= self.head {
            return Some(0.0);
        }
        // the clock of the process that recorded it may be ahead
        Some(recorded.map_or(0.0, |recorded| (now - recorded).as_seconds_f64().max(0.0)))
    }

    fn lag_events(&self, position: Position) -> u64 {
        self.head.get().saturating_sub(position.get())
    }
}

/// Returns the metrics: what the app has counted until now, and the polled status.
pub(super) fn collect(app: &AppInner, polled: &PolledStatus) -> Metrics {
    let mut families = FamilyBuilder::new(catalog::ALL);
    families.flag(&catalog::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], true);
    add_appends(&mut families, app);
    add_aggregates(&mut families, app);
    add_store(&mut families, app, polled);
    add_relay(&mut families, app, polled);
    add_handlers(&mut families, app);
    add_bus(&mut families, app, polled);
    add_groups(&mut families, app, polled);
    add_projections(&mut families, app, polled);
    families.build()
}

fn add_appends(families: &mut FamilyBuilder, app: &AppInner) {
    if let Some(appends) = app.repositories.meters.appends().filter(|_| app.has_store) {
        for outcome in AppendOutcome::ALL {
            let durations = appends.durations(outcome);
            let is_usual = matches!(outcome, AppendOutcome::Appended | AppendOutcome::Conflict);
            if is_usual || durations.count() > 0 {
                families.histogram(&catalog::APPEND_SECONDS, &[outcome.label()], &durations);
            }
        }
        families.histogram(&catalog::APPEND_EVENTS, &[], &appends.events().snapshot());
        families.count(&catalog::BOUNDARY_CONFLICTS, &[], appends.boundary_conflicts());
    }
    if let Some(batches) = app.store.append_batches() {
        families.histogram(&catalog::COMMIT_APPENDS, &[], &batches.histogram().snapshot());
    }
}

fn add_aggregates(families: &mut FamilyBuilder, app: &AppInner) {
    if !app.has_store {
        return;
    }
    for (aggregate, meter) in app.repositories.meters.aggregates() {
        families.count(&catalog::APPEND_CONFLICTS, &[aggregate], meter.conflicts());
        for source in LoadSource::ALL {
            families.count(&catalog::LOADS, &[aggregate, source.label()], meter.loads(source));
        }
        for (outcome, is_taken) in [("taken", true), ("failed", false)] {
            families.count(&catalog::SNAPSHOTS, &[aggregate, outcome], meter.snapshots(is_taken));
        }
    }
}

fn add_store(families: &mut FamilyBuilder, app: &AppInner, polled: &PolledStatus) {
    if app.has_store {
        families.flag(&catalog::STORE_UP, &[], polled.store.is_some());
    }
    if let Some(store) = &polled.store {
        families.count(&catalog::FEED_HEAD, &[], store.head.get());
        families.number(&catalog::FEED_HELD, &[], store.held_for.as_secs_f64());
    }
}

fn add_relay(families: &mut FamilyBuilder, app: &AppInner, polled: &PolledStatus) {
    let own = app.tasks.relay();
    if let Some(relay) = own {
        relay.read(|now| {
            families.flag(&catalog::RELAY_LEADER, &[], now.is_owner);
            families.flag(&catalog::RELAY_STOPPED, &[], now.stopped.is_some());
            families.flag(&catalog::RELAY_FAILING, &[], now.stopped.is_none() && now.problem.is_some());
            families.count(&catalog::RELAY_PUBLISHED, &[], now.published);
        });
    }
    if let Some(store) = &polled.store
        && let Some(saved) = store.relay
    {
        let position =
            own.map_or(saved, |relay| relay.read(|now| if now.is_owner { now.position.max(saved) } else { saved }));
        families.count(&catalog::RELAY_LAG_EVENTS, &[], store.lag_events(position));
        if let Some(seconds) = store.lag_seconds(saved, position, app.clock().now()) {
            families.number(&catalog::RELAY_LAG_SECONDS, &[], seconds);
        }
    }
}

fn add_handlers(families: &mut FamilyBuilder, app: &AppInner) {
    for status in app.tasks.subscribers() {
        let (subscriber, group) = (status.subscriber(), status.group().as_str());
        let (meter, labels) = (subscriber.meter(), [group, subscriber.name().as_str()]);
        for outcome in RunOutcome::ALL {
            let durations = meter.durations(outcome);
            if matches!(outcome, RunOutcome::Succeeded | RunOutcome::Failed) || durations.count() > 0 {
                let labels = [labels[0], labels[1], outcome.label()];
                families.histogram(&catalog::HANDLER_SECONDS, &labels, &durations);
            }
        }
        families.count(&catalog::HANDLER_RETRIES, &labels, meter.retries());
        families.count(&catalog::HANDLER_RUNNING, &labels, meter.running());
    }
}

fn add_bus(families: &mut FamilyBuilder, app: &AppInner, polled: &PolledStatus) {
    let stats = app.bus_share.report(&*app.bus);
    let outcomes = [
        ("succeeded", stats.events_processed_success),
        ("failed", stats.events_processed_failed),
        ("skipped", stats.events_skipped),
    ];
    for (outcome, deliveries) in outcomes {
        families.count(&catalog::DELIVERIES, &[outcome], deliveries);
    }
    families.count(&catalog::RECLAIMED, &[], stats.messages_recovered);
    families.count(&catalog::RECONNECTIONS, &[], stats.reconnections);
    families.count(&catalog::DEAD_LETTERS_TOTAL, &[], stats.messages_sent_to_dlq);
    families.flag(&catalog::BUS_UP, &[], polled.stream.connected);
    if polled.stream.connected && !polled.stream.is_dlq_unknown {
        families.count(&catalog::DEAD_LETTERS, &[], polled.stream.dlq_messages);
    }
}

fn add_groups(families: &mut FamilyBuilder, app: &AppInner, polled: &PolledStatus) {
    let in_flight = app.bus.in_flight();
    let infos = &polled.stream.consumer_groups;
    let unfinished = infos.iter().filter_map(|info| info.oldest_unfinished.clone());
    let Health { unfinished, paused, .. } = app.bus.report(Health::default()).with_oldest_unfinished(unfinished);
    // the bus may hold groups that no application declares: their names are not bounded
    for group in app.groups.iter().collect::<BTreeSet<_>>() {
        let labels = [group.as_str()];
        let counts = in_flight.get(group).copied().unwrap_or_default();
        families.count(&catalog::GROUP_IN_FLIGHT, &labels, counts.entries);
        families.count(&catalog::GROUP_WAITING, &labels, counts.waiting);
        families.count(&catalog::GROUP_BLOCKED, &labels, counts.blocked_streams);
        let seconds = unfinished.iter().find(|oldest| oldest.group == labels[0]).map_or(0, |oldest| oldest.seconds);
        families.count(&catalog::GROUP_UNFINISHED, &labels, seconds);
        families.flag(&catalog::GROUP_PAUSED, &labels, paused.contains(labels[0]));
        if polled.stream.connected {
            let none = GroupInfo::default();
            let info = infos.iter().find(|info| info.name == labels[0]).unwrap_or(&none);
            families.count(&catalog::GROUP_PENDING, &labels, info.pending);
            if let Some(age) = info.oldest_pending_age_ms.or((info.pending == 0).then_some(0)) {
                families.number(&catalog::GROUP_PENDING_SECONDS, &labels, age as f64 / 1_000.0);
            }
            families.count(&catalog::GROUP_CONSUMERS, &labels, info.active_consumers);
            if let Some(unread) = info.lag {
                families.count(&catalog::GROUP_UNREAD, &labels, unread);
            }
            if let Some(age) = info.oldest_unread_age_ms {
                families.number(&catalog::GROUP_UNREAD_SECONDS, &labels, age as f64 / 1_000.0);
            }
        }
    }
}

fn add_projections(families: &mut FamilyBuilder, app: &AppInner, polled: &PolledStatus) {
    for (index, projection) in app.projections.iter().enumerate() {
        let (status, meter) = (projection.fed().status(Position::START), projection.fed().meter());
        let labels = [status.name];
        if let Some(store) = &polled.store {
            families.count(&catalog::PROJECTION_LAG_EVENTS, &labels, store.lag_events(status.position));
            let position = store.projections.get(index).copied().unwrap_or(status.position);
            if let Some(seconds) = store.lag_seconds(position, status.position, app.clock().now()) {
                families.number(&catalog::PROJECTION_LAG_SECONDS, &labels, seconds);
            }
        }
        families.count(&catalog::PROJECTION_EVENTS, &labels, meter.events());
        families.flag(&catalog::PROJECTION_OWNER, &labels, status.owner == ProjectionOwner::Here);
        let is_stopped =
            status.stopped.as_ref().is_some_and(|stopped| !matches!(stopped, ProjectionError::ShutDown { .. }));
        families.flag(&catalog::PROJECTION_STOPPED, &labels, is_stopped);
        families.flag(&catalog::PROJECTION_FAILING, &labels, status.trouble.is_some());
        families.number(&catalog::REBUILD_DONE, &labels, meter.rebuilt_share());
        families.count(&catalog::REBUILD_EVENTS, &labels, meter.rebuild_events());
        for (outcome, is_done) in [("done", true), ("failed", false)] {
            families.count(&catalog::REBUILDS, &[status.name, outcome], meter.rebuilds(is_done));
        }
    }
}
