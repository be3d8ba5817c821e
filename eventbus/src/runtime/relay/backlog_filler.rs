//! Fills the backlogs of consumer groups with events that only the store still holds: all of them for a new group, or
//! those of one type for a group that skipped them.
//!
//! Invariant: every process with the store fills; the bus accepts each range once. No group gets an event that the
//! relay skips. A fill that fails for one group, such as at a damaged row, delays no other group.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    domain::{
        clock::SharedClock,
        error::{BoxError, ErrorLine},
        name::Name,
        shown::rfc3339,
        stream::Position,
    },
    port::{BacklogFill, Backlogs, EventBus, EventStore, FeedFilter, FillOutcome, ReadError, health::UnfilledGroup},
    support::{BatchEnd, FeedBatch, Outage, read_around, relay_to, skipped_positions},
};

/// Interval at which the filler asks the bus for missing backlogs.
const BACKLOG_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Interval at which the store's id is loaded again: a different store may have taken its place.
const STORE_ID_REFRESH_INTERVAL: Duration = Duration::from_secs(10);
/// Delay after which a group with a full backlog may have room again.
const FULL_BACKLOG_DELAY: Duration = Duration::from_millis(50);
/// Limits of one fill.
const FILL_EVENTS_MAX: usize = 200;
const FILL_BYTES_MAX: usize = 1024 * 1024;
/// Number of fills in a row for one group, while other groups wait.
const MAX_IN_A_ROW: usize = 50;

/// Groups of a bus whose backlog cannot be filled, with the reason and since when. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unfilled(Arc<Mutex<BTreeMap<Name, (Instant, UnfilledGroup)>>>);

impl Unfilled {
    /// Returns the groups as an operator sees them.
    pub(crate) fn groups(&self) -> Vec<UnfilledGroup> {
        self.0.lock().values().map(|(_, group)| group.clone()).collect()
    }

    /// Records the failed fills of a round; the backlogs of all other groups are filled again.
    fn note(&self, failed: BTreeMap<Name, (BacklogFill, BoxError)>, clock: &SharedClock) {
        let mut known = self.0.lock();
        known.retain(|group, (began, _)| {
            let lasts = failed.contains_key(group);
            if !lasts {
                tracing::info!(%group, lasted = ?clock.elapsed(*began), "the backlog of the group is filled again");
            }
            lasts
        });
        for (group, (fill, error)) in failed {
            let (_, unfilled) = known.entry(group).or_insert_with(|| {
                tracing::warn!(
                    group = %fill.group, event_type = fill.event_type.as_ref().map(tracing::field::display),
                    after = %fill.after, error = ErrorLine(&*error).to_string(),
                    "the backlog of the group cannot be filled, trying again"
                );
                let (group, error, since) = (fill.group.to_string(), String::new(), rfc3339(clock.now()));
                (clock.instant(), UnfilledGroup { group, after: fill.after, error, since })
            });
            // without the sources: messages of store and bus may hold values of events
            (unfilled.after, unfilled.error) = (fill.after, error.to_string());
        }
    }
}

/// Fills backlogs until cancelled.
pub(crate) async fn fill_backlogs(
    store: Arc<dyn EventStore>,
    bus: Arc<dyn EventBus>,
    clock: SharedClock,
    unfilled: Unfilled,
    cancel: CancellationToken,
) {
    let Some(backlogs) = bus.backlogs() else {
        return;
    };
    if matches!(store.store_id().await, Err(ReadError::NoStore)) {
        return;
    }
    let (mut outage, mut id) = (Outage::new(clock.clone()), StoreId::new(clock.clone()));
    while !cancel.is_cancelled() {
        let filled = cancel.run_until_cancelled(fill_all(&*store, &mut id, backlogs, bus.destination())).await;
        let pause = match filled {
            None => return,
            Some(Ok(Round { pause, failed })) => {
                if let Some(lasted) = outage.ends() {
                    tracing::info!(destination = %bus.destination(), ?lasted, "backlogs of groups are filled again");
                }
                unfilled.note(failed, &clock);
                pause
            }
            Some(Err(error)) => {
                id = StoreId::new(clock.clone());
                if outage.begins() {
                    let error = ErrorLine(&*error).to_string();
                    tracing::warn!(destination = %bus.destination(), error, "backlogs of groups cannot be filled, trying again");
                }
                BACKLOG_POLL_INTERVAL
            }
        };
        cancel.run_until_cancelled(clock.sleep(pause)).await;
    }
}

/// The id of a store, loaded again at [`STORE_ID_REFRESH_INTERVAL`].
struct StoreId {
    loaded: Option<(Instant, Uuid)>,
    clock: SharedClock,
}

impl StoreId {
    const fn new(clock: SharedClock) -> Self {
        Self { loaded: None, clock }
    }

    /// Returns the id; loads it if that is due.
    async fn of(&mut self, store: &dyn EventStore) -> Result<Uuid, ReadError> {
        match self.loaded {
            Some((at, id)) if self.clock.elapsed(at) < STORE_ID_REFRESH_INTERVAL => Ok(id),
            _ => self.load(store).await,
        }
    }

    async fn load(&mut self, store: &dyn EventStore) -> Result<Uuid, ReadError> {
        let id = store.store_id().await?;
        self.loaded = Some((self.clock.instant(), id));
        Ok(id)
    }
}

/// Outcome of one round: a part of each group's backlog.
struct Round {
    /// Delay until there may be more to fill.
    pause: Duration,
    /// The first failed fill of each group, and its error; it delays no other group.
    failed: BTreeMap<Name, (BacklogFill, BoxError)>,
}

/// Fills a part of each group's backlog.
async fn fill_all(
    store: &dyn EventStore,
    id: &mut StoreId,
    backlogs: &dyn Backlogs,
    destination: &Name,
) -> Result<Round, BoxError> {
    let known = id.of(store).await?;
    let mut fills = backlogs.fills(known).await?;
    let mut round = Round { pause: BACKLOG_POLL_INTERVAL, failed: BTreeMap::new() };
    if fills.is_empty() {
        return Ok(round);
    }
    // another store may be at the address since the id was loaded: its events are not those of these fills
    let current = id.load(store).await?;
    if current != known {
        fills = backlogs.fills(current).await?;
    }
    let mut skips = None;
    for mut fill in fills {
        match fill_group(store, backlogs, destination, &mut fill, &mut skips).await {
            Ok(pause) => round.pause = round.pause.min(pause),
            Err(error) => {
                round.failed.entry(fill.group.clone()).or_insert((fill, error));
            }
        }
    }
    Ok(round)
}

/// Fills the backlog of a group until it is full, or other groups have waited for [`MAX_IN_A_ROW`] fills.
async fn fill_group(
    store: &dyn EventStore,
    backlogs: &dyn Backlogs,
    destination: &Name,
    fill: &mut BacklogFill,
    skips: &mut Option<Vec<Position>>,
) -> Result<Duration, BoxError> {
    let filter = match &fill.event_type {
        Some(event_type) => FeedFilter::all().event_types([event_type.clone()]),
        None => FeedFilter::all(),
    };
    // asks first: while the backlog is full, no event is read for the group
    if backlogs.fill(fill, fill.after, &[]).await? != FillOutcome::Done {
        return Ok(FULL_BACKLOG_DELAY);
    }
    let skips = match skips {
        Some(skips) => skips,
        None => skips.insert(skipped_positions(store, &relay_to(destination)).await?),
    };
    let mut feed = read_around(store, fill.after, fill.through, &filter, skips);
    for _ in 0..MAX_IN_A_ROW {
        let batch = FeedBatch::read(&mut feed, FILL_EVENTS_MAX, FILL_BYTES_MAX).await?;
        let through = batch.through(fill.through);
        let filled = backlogs.fill(fill, through, &batch.events).await?;
        if filled == FillOutcome::Done && fill.after == Position::START {
            tracing::info!(
                group = %fill.group, event_type = fill.event_type.as_ref().map(tracing::field::display),
                through = %fill.through, "the store fills the backlog of the group"
            );
        }
        match filled {
            FillOutcome::Full | FillOutcome::Moved => return Ok(FULL_BACKLOG_DELAY),
            FillOutcome::Done => fill.after = through,
        }
        if let BatchEnd::Failed(error) = batch.end {
            return Err(error.into());
        }
        if through == fill.through {
            break;
        }
    }
    Ok(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;

    use super::*;
    use crate::{
        domain::{
            record::{NewEvent, RecordedEvent},
            stream::{ExpectedVersion, StreamId},
        },
        memory::InMemoryEventStore,
        port::{AppendEvents as _, PublishError},
        runtime::skip::SkipEditor,
    };

    /// Groups that miss the first positions of a store, and the positions that the filler gave them.
    struct Missing {
        groups: &'static [&'static str],
        through: Position,
        /// Set if the bus refuses every fill of the first group.
        is_refused: AtomicBool,
        /// Set if each group's backlog is full.
        is_full: AtomicBool,
        /// The store of each fill.
        stores: Mutex<Vec<Uuid>>,
        given: Mutex<Vec<(String, u64)>>,
    }

    impl Missing {
        fn new(groups: &'static [&'static str], through: u64) -> Self {
            let (is_refused, is_full, stores, given) = Default::default();
            Self { groups, through: Position::new(through), is_refused, is_full, stores, given }
        }
    }

    #[async_trait]
    impl Backlogs for Missing {
        async fn fills(&self, store: Uuid) -> Result<Vec<BacklogFill>, PublishError> {
            let fill = |group: &&'static str| BacklogFill {
                store,
                group: Name::from_static(group),
                event_type: None,
                after: Position::START,
                through: self.through,
                part: 0,
            };
            Ok(self.groups.iter().map(fill).collect())
        }

        async fn fill(
            &self,
            fill: &BacklogFill,
            _: Position,
            events: &[RecordedEvent],
        ) -> Result<FillOutcome, PublishError> {
            self.stores.lock().push(fill.store);
            if fill.group.as_str() == self.groups[0] && self.is_refused.load(Ordering::SeqCst) {
                let (destination, source) = (Name::from_static("bus"), "a secret value".into());
                return Err(PublishError::Refused { destination, event_id: None, source });
            }
            let positions = events.iter().filter_map(RecordedEvent::position).map(Position::get);
            self.given.lock().extend(positions.map(|position| (fill.group.to_string(), position)));
            Ok(if self.is_full.load(Ordering::SeqCst) { FillOutcome::Full } else { FillOutcome::Done })
        }
    }

    async fn store_of(events: usize) -> Arc<dyn EventStore> {
        let store: Arc<dyn EventStore> = Arc::new(InMemoryEventStore::new());
        let stream = StreamId::parse("Order", "1").unwrap();
        let events = (0..events).map(|_| NewEvent::new(Name::from_static("Noted"), 1, "{}")).collect();
        store.append(&stream, ExpectedVersion::Any, events).await.unwrap();
        store
    }

    fn unloaded() -> StoreId {
        StoreId::new(SharedClock::SYSTEM)
    }

    #[tokio::test(start_paused = true)]
    async fn the_id_of_the_store_is_loaded_again_after_a_while() {
        let (former, later, mut id) = (store_of(1).await, store_of(1).await, unloaded());
        let ids = [former.store_id().await.unwrap(), later.store_id().await.unwrap()];
        assert_eq!(id.of(&*former).await.unwrap(), ids[0]);
        assert_eq!(id.of(&*later).await.unwrap(), ids[0], "not at each round");
        tokio::time::sleep(STORE_ID_REFRESH_INTERVAL).await;
        assert_eq!(id.of(&*later).await.unwrap(), ids[1]);
    }

    #[tokio::test]
    async fn a_store_in_the_place_of_a_former_one_fills_for_itself() {
        let (former, store) = (store_of(2).await, store_of(2).await);
        let mut id = unloaded();
        let ids = [id.of(&*former).await.unwrap(), store.store_id().await.unwrap()];
        let missing = Missing::new(&["new"], 2);
        fill_all(&*store, &mut id, &missing, &Name::from_static("bus")).await.unwrap();
        assert_eq!(*missing.given.lock(), [1, 2].map(|position| ("new".to_owned(), position)));
        assert!(missing.stores.lock().iter().all(|store| *store == ids[1]), "{:?} of {ids:?}", missing.stores);
    }

    #[tokio::test]
    async fn what_one_group_cannot_be_given_keeps_nothing_from_the_others() {
        let (store, bus, clock) = (store_of(2).await, Name::from_static("bus"), SharedClock::SYSTEM);
        let missing = Missing::new(&["billing", "shipping"], 2);
        missing.is_refused.store(true, Ordering::SeqCst);
        let unfilled = Unfilled::default();
        for _ in 0..2 {
            let round = fill_all(&*store, &mut unloaded(), &missing, &bus).await.unwrap();
            assert_eq!(round.pause, Duration::ZERO, "there may be more for `shipping`");
            unfilled.note(round.failed, &clock);
        }
        let of_shipping = |position| ("shipping".to_owned(), position);
        assert_eq!(*missing.given.lock(), [1, 2, 1, 2].map(of_shipping));
        let groups = unfilled.groups();
        assert_eq!(groups.len(), 1, "{groups:?}");
        assert_eq!((&*groups[0].group, groups[0].after), ("billing", Position::START));
        assert!(!groups[0].to_string().contains("secret"), "{}", groups[0]);
        missing.is_refused.store(false, Ordering::SeqCst);
        unfilled.note(fill_all(&*store, &mut unloaded(), &missing, &bus).await.unwrap().failed, &clock);
        assert!(unfilled.groups().is_empty());
    }

    #[tokio::test]
    async fn a_group_is_not_given_what_an_operator_has_the_relay_skip() {
        let store = store_of(4).await;
        let (bus, operator) = (Name::from_static("bus"), SkipEditor::new(Arc::clone(&store)));
        operator.skip(&relay_to(&bus), Position::new(2), "too large for the bus").await.unwrap();
        let missing = Missing::new(&["new"], 3);
        fill_all(&*store, &mut unloaded(), &missing, &bus).await.unwrap();
        assert_eq!(*missing.given.lock(), [1, 3].map(|position| ("new".to_owned(), position)));
    }

    #[tokio::test]
    async fn a_group_that_misses_much_lets_others_have_their_turn() {
        let most = MAX_IN_A_ROW * FILL_EVENTS_MAX;
        let (store, bus) = (store_of(most + 1).await, Name::from_static("bus"));
        let missing = Missing::new(&["new"], most as u64 + 1);
        assert_eq!(fill_all(&*store, &mut unloaded(), &missing, &bus).await.unwrap().pause, Duration::ZERO);
        assert_eq!(missing.given.lock().len(), most);
    }

    #[tokio::test]
    async fn a_group_that_has_enough_to_do_is_sent_nothing() {
        let (store, bus) = (store_of(2).await, Name::from_static("bus"));
        let missing = Missing::new(&["slow"], 2);
        missing.is_full.store(true, Ordering::SeqCst);
        assert_eq!(fill_all(&*store, &mut unloaded(), &missing, &bus).await.unwrap().pause, FULL_BACKLOG_DELAY);
        assert!(missing.given.lock().is_empty());
        missing.is_full.store(false, Ordering::SeqCst);
        assert_eq!(fill_all(&*store, &mut unloaded(), &missing, &bus).await.unwrap().pause, Duration::ZERO);
        assert_eq!(missing.given.lock().len(), 2);
    }
}
