//! Projections that keep their rows in the store's transaction: live, failing, fenced, standing by.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use eventbus::{
    ExpectedVersion, Name, NewEvent, Position, StreamId,
    clock::Clock as _,
    health::HealthThresholds,
    port::{AppendEvents, Checkpoints, Leases, ReadFeed},
    prelude::*,
    projection::{NotedStop, Projection, ProjectionError, ProjectionOwner},
    testkit::{Fault, ManualClock, TableStore, Tables},
};
use tokio::sync::Semaphore;

use crate::{
    gated::GatedStore,
    orders::{OrderCreated, OrderShipped, OrderStatistics, created},
    wait::until,
};

pub const ROLE: Name = Name::from_static("projection:order-rows");

/// The behavior of the methods; shared by all instances of a test.
#[derive(Clone)]
pub struct Mood {
    /// The number of refusals left for `bad`.
    pub refusals: Arc<AtomicU32>,
    /// The number of attempts of `bad`.
    pub tries: Arc<AtomicU32>,
    /// The gate of `slow`.
    pub gate: Arc<Semaphore>,
    pub waiting: Arc<AtomicU32>,
}

impl Default for Mood {
    fn default() -> Self {
        Self {
            refusals: Arc::default(),
            tries: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
            waiting: Arc::default(),
        }
    }
}

impl Mood {
    pub fn refusing(times: u32) -> Self {
        let mood = Self::default();
        mood.refusals.store(times, Ordering::SeqCst);
        mood
    }

    fn is_refused(&self) -> bool {
        let refuse = |left: u32| left.checked_sub(1);
        self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, refuse).is_ok()
    }

    pub async fn until_waiting(&self) {
        until("the method waits", async || self.waiting.load(Ordering::SeqCst) > 0).await;
    }
}

/// A row per order; not idempotent on purpose.
#[derive(Default)]
pub struct OrderRows;

#[projection(name = "order-rows", tables("order_rows"), key = "order_id")]
impl OrderRows {
    async fn created(
        &self,
        event: &OrderCreated,
        meta: &Metadata,
        tables: &mut Tables,
        State(mood): State<Mood>,
    ) -> Result<(), HandlerError> {
        let id = meta.aggregate_id().to_string();
        let row = tables.row("order_rows", &id);
        row.insert("order_id".into(), id);
        row.insert("customer".into(), event.customer_id.clone());
        add(row, "events");
        match event.customer_id.as_str() {
            "bad" => {
                mood.tries.fetch_add(1, Ordering::SeqCst);
                if mood.is_refused() {
                    return Err("no such customer".into());
                }
            }
            "slow" => {
                mood.waiting.fetch_add(1, Ordering::SeqCst);
                mood.gate.acquire().await?.forget();
            }
            "doomed" => {
                mood.waiting.fetch_add(1, Ordering::SeqCst);
                mood.gate.acquire().await?.forget();
                if mood.is_refused() {
                    return Err(HandlerError::permanent("the connection is gone"));
                }
            }
            "lengthy" => tokio::time::sleep(Duration::from_millis(200)).await,
            _ => {}
        }
        Ok(())
    }

    fn shipped(&self, _event: &OrderShipped, meta: &Metadata, tables: &mut Tables) {
        add(tables.row("order_rows", meta.aggregate_id().as_str()), "events");
    }
}

fn add(row: &mut eventbus::testkit::Row, column: &str) {
    let before: u64 = row.get(column).map_or(0, |number| number.parse().unwrap());
    row.insert(column.into(), (before + 1).to_string());
}

pub async fn save(store: &TableStore, customer: &str, shipments: usize) -> Position {
    let stream = StreamId::new(Name::from_static("Order"), AggregateId::new());
    let mut news = vec![NewEvent::from_event(&created(customer, 1.5)).unwrap()];
    news.extend((0..shipments).map(|_| NewEvent::from_event(&OrderShipped { tracking_number: "T".into() }).unwrap()));
    append(store, &stream, news).await
}

pub async fn append(store: &TableStore, stream: &StreamId, news: Vec<NewEvent>) -> Position {
    let records = store.append(stream, ExpectedVersion::Any, news).await.unwrap();
    records.last().unwrap().position().unwrap()
}

/// An event that the projection does not ask for.
async fn save_other(store: &TableStore) -> Position {
    let stream = StreamId::parse("Parcel", "1").unwrap();
    append(store, &stream, vec![NewEvent::new(Name::from_static("ParcelSent"), 1, "{}")]).await
}

pub async fn app(store: &TableStore, mood: &Mood) -> App {
    let app = App::builder().store(store.clone()).state(mood.clone()).projection(OrderRows);
    app.lease(Duration::from_secs(1)).without_relay().start().await.unwrap()
}

/// The number of events that all rows count together, and the number of rows.
pub async fn counted(store: &TableStore) -> (usize, u64) {
    let rows = store.tables().await.rows("order_rows");
    (rows.len(), rows.iter().map(|(_, row)| row["events"].parse::<u64>().unwrap()).sum())
}

async fn checkpoint(store: &TableStore) -> Position {
    store.load_checkpoint(&ROLE).await.unwrap().unwrap_or(Position::START)
}

async fn stopped(app: &App, position: Position) -> ProjectionError {
    app.projected::<OrderRows>(position).await.map(drop).unwrap_err()
}

#[tokio::test]
async fn rows_and_checkpoint_are_committed_together_and_resumed_after() {
    let (store, mood) = (TableStore::new(), Mood::default());
    for round in 1..=3 {
        for _ in 0..200 {
            save(&store, "ada", 3).await;
        }
        let app = app(&store, &mood).await;
        let position = save_other(&store).await;
        app.projected::<OrderRows>(position).await.unwrap();
        app.shutdown(Duration::from_secs(5)).await.unwrap();
        assert_eq!(counted(&store).await, (round * 200, 800 * round as u64));
        assert_eq!(checkpoint(&store).await, position, "events of other types count too");
    }
}

#[tokio::test]
async fn a_commit_whose_outcome_is_unknown_repeats_and_loses_nothing() {
    for fault in [Fault::LostReply, Fault::Unavailable] {
        let (store, mood) = (TableStore::new(), Mood::default());
        store.commits.fail_next(fault, 2);
        let app = app(&store, &mood).await;
        for _ in 0..300 {
            save(&store, "ada", 1).await;
        }
        app.projected::<OrderRows>(Position::new(600)).await.unwrap();
        assert_eq!(counted(&store).await, (300, 600), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_before_a_failing_event_is_committed_and_it_alone_is_tried_again() {
    let (store, mood) = (TableStore::new(), Mood::refusing(2));
    save(&store, "ada", 4).await;
    save(&store, "bad", 0).await;
    let last = save(&store, "bob", 4).await;
    let app = app(&store, &mood).await;
    app.projected::<OrderRows>(last).await.unwrap();
    assert_eq!(counted(&store).await, (3, 11), "nothing is left of the tries that failed");
    assert_eq!(mood.tries.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_keeps_failing_stops_the_projection_before_it() {
    let (store, mood) = (TableStore::new(), Mood::refusing(u32::MAX));
    let before = save(&store, "ada", 4).await;
    let bad = save(&store, "bad", 0).await;
    let last = save(&store, "bob", 0).await;
    let app = app(&store, &mood).await;
    let error = stopped(&app, last).await;
    assert_eq!(error.to_string(), format!("projection `order-rows` stopped at position {bad}: no such customer"));
    assert_eq!((checkpoint(&store).await, counted(&store).await), (before, (1, 5)));
    assert_eq!(mood.tries.load(Ordering::SeqCst), 4);

    let status = app.projections().await.unwrap().remove(0);
    assert_eq!((status.name, status.position, status.lag), ("order-rows", before, 2));
    assert_eq!(status.owner, ProjectionOwner::Stopped, "nobody feeds it");
    assert!(matches!(status.stopped, Some(ProjectionError::Stopped { position, .. }) if position == bad), "{status:?}");
    let health = app.health().await;
    let alert = format!("projection `order-rows` stopped at position {bad}: the log says why (since ");
    assert!(health.projections[0].starts_with(&alert), "no words of the method: {health:?}");
    assert!(health.alerts(&HealthThresholds::default()).contains(&health.projections[0]));
    until("the lease is given back", async || store.lease_of(&ROLE).await.unwrap().is_none()).await;

    mood.refusals.store(0, Ordering::SeqCst);
    assert!(app.resume_projection::<OrderRows>().unwrap());
    app.projected::<OrderRows>(last).await.unwrap();
    assert_eq!(counted(&store).await, (3, 7));
    assert!(app.health().await.projections.is_empty());
    assert_eq!(app.projections().await.unwrap()[0].owner, ProjectionOwner::Here);
    assert!(!app.resume_projection::<OrderRows>().unwrap());
}

/// Fails if damage that is read ahead stops the projection before the events whose rows are not written.
#[tokio::test(start_paused = true)]
async fn a_failure_to_write_comes_before_damage_that_was_read_ahead() {
    let (store, mood) = (TableStore::new(), Mood::refusing(u32::MAX));
    store.create_table("order_rows").await;
    let bad = save(&store, "bad", 0).await;
    // the damaged event is the first of the second batch
    let damaged = save(&store, "ada", 255).await;
    let gated = GatedStore::over(store);
    gated.damaged_at.store(damaged.get(), Ordering::SeqCst);
    let app = App::builder().store(gated.clone()).state(mood).projection(OrderRows).without_relay();
    let error = stopped(&app.start().await.unwrap(), damaged).await;
    assert!(gated.damage_met.load(Ordering::SeqCst) > 0, "the second batch was read");
    assert!(matches!(error, ProjectionError::Stopped { position, .. } if position == bad), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_projection_that_stopped_tries_again_every_minute_and_says_since_when() {
    let (store, mood) = (TableStore::new(), Mood::refusing(u32::MAX));
    store.create_table("order_rows").await;
    let bad = save(&store, "bad", 0).await;
    let app = app(&store, &mood).await;
    stopped(&app, bad).await;
    let status = app.projections().await.unwrap().remove(0);
    let alerts = app.health().await.projections;
    tokio::time::sleep(Duration::from_secs(601)).await;
    let tries = mood.tries.load(Ordering::SeqCst);
    assert!((4 * 9..=4 * 11).contains(&tries), "four times in each of eleven minutes, and it was tried {tries} times");
    let later = app.projections().await.unwrap().remove(0);
    assert_eq!((later.owner, later.stopped_since), (ProjectionOwner::Stopped, status.stopped_since));
    assert_eq!(app.health().await.projections, alerts, "since the first time");
    stopped(&app, bad).await;

    mood.refusals.store(0, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(62)).await;
    app.projected::<OrderRows>(bad).await.unwrap();
    let status = app.projections().await.unwrap().remove(0);
    assert_eq!((status.owner, status.stopped_since), (ProjectionOwner::Here, None));
    assert!(app.health().await.projections.is_empty());
}

async fn noted_stop(store: &TableStore) -> Option<NotedStop> {
    NotedStop::load(store, &ROLE).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_noted_in_the_store_until_the_projection_passes_the_event() {
    let (store, mood) = (TableStore::new(), Mood::refusing(u32::MAX));
    store.create_table("order_rows").await;
    let bad = save(&store, "bad", 0).await;
    let last = save(&store, "bob", 0).await;
    let strict = app(&store, &mood).await;
    stopped(&strict, last).await;
    let stop = noted_stop(&store).await.unwrap();
    let event = (stop.position, &*stop.event_type, &*stop.error);
    assert_eq!(event, (bad, "OrderCreated", "no such customer"));
    assert!(stop.owner.contains(&std::process::id().to_string()), "{stop:?}");
    tokio::time::sleep(Duration::from_secs(122)).await;
    assert!(mood.tries.load(Ordering::SeqCst) >= 8, "it was tried again, and stopped again");
    assert_eq!(noted_stop(&store).await, Some(stop), "since the first time");

    // a different process passes the event
    let mild = app(&store, &Mood::default()).await;
    mild.projected::<OrderRows>(last).await.unwrap();
    until("the note is deleted", async || noted_stop(&store).await.is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_ends_the_noted_stop() {
    let (store, mood) = (TableStore::new(), Mood::refusing(u32::MAX));
    store.create_table("order_rows").await;
    let bad = save(&store, "bad", 0).await;
    let strict = app(&store, &mood).await;
    stopped(&strict, bad).await;
    strict.shutdown(Duration::from_secs(5)).await.unwrap();
    assert_eq!(noted_stop(&store).await.unwrap().position, bad, "the process has ended, and the reason stays");

    let builder = App::builder().store(store.clone()).state(Mood::default()).projection(OrderRows).without_relay();
    assert_eq!(builder.rebuild("order-rows", drop).await.unwrap().position, bad);
    assert_eq!(noted_stop(&store).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_projection_goes_on_where_another_process_can_handle_the_event() {
    let (store, strict, mild) = (TableStore::new(), Mood::refusing(u32::MAX), Mood::default());
    store.create_table("order_rows").await;
    let old = app(&store, &strict).await;
    let bad = save(&store, "bad", 0).await;
    stopped(&old, bad).await;
    let new = app(&store, &mild).await;
    new.projected::<OrderRows>(bad).await.unwrap();
    until("the old one knows", async || old.projected::<OrderRows>(bad).await.is_ok()).await;
    assert_eq!(old.projections().await.unwrap()[0].owner, ProjectionOwner::Elsewhere);
    let next = save(&store, "ada", 0).await;
    old.projected::<OrderRows>(next).await.unwrap();
    assert_eq!(counted(&store).await, (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_does_not_stop_the_projection() {
    let (store, mood) = (TableStore::new(), Mood::refusing(1));
    save(&store, "bad", 0).await;
    store.begins.fail_next(Fault::Unavailable, 1);
    let app = app(&store, &mood).await;
    until("it tried", async || mood.tries.load(Ordering::SeqCst) == 1).await;
    // the method failed, and so does every check of the store
    store.begins.fail_next(Fault::Unavailable, 20);
    app.projected::<OrderRows>(Position::new(1)).await.unwrap();
    assert_eq!(counted(&store).await, (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_is_over_is_not_shown_beside_the_event_that_stops_the_projection() {
    let (store, mood) = (TableStore::new(), Mood::refusing(u32::MAX));
    store.create_table("order_rows").await;
    let bad = save(&store, "bad", 0).await;
    store.begins.fail_next(Fault::Unavailable, 1);
    let app = app(&store, &mood).await;
    stopped(&app, bad).await;
    assert_eq!(store.begins.remaining(), 0, "the outage was met");
    let status = app.projections().await.unwrap().remove(0);
    assert_eq!((status.owner, status.trouble, status.trouble_since), (ProjectionOwner::Stopped, None, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_whose_lease_has_passed_on_writes_nothing() {
    let (store, mood) = (TableStore::new(), Mood::default());
    let app = app(&store, &mood).await;
    let position = save(&store, "slow", 0).await;
    mood.until_waiting().await;
    // the owner is paused in its transaction while a second process takes the lease
    let other = store.seize_lease(&ROLE, &Name::from_static("other"), Duration::from_secs(60)).await.unwrap();
    mood.gate.add_permits(10);
    until("it has stepped down", async || app.projections().await.unwrap()[0].owner == ProjectionOwner::Elsewhere)
        .await;
    assert_eq!((counted(&store).await, checkpoint(&store).await), ((0, 0), Position::START));
    store.release_lease(&other).await.unwrap();
    app.projected::<OrderRows>(position).await.unwrap();
    assert_eq!(counted(&store).await, (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_method_that_fails_when_the_role_has_passed_says_nothing_about_the_event() {
    let (store, mood) = (TableStore::new(), Mood::refusing(1));
    let app = app(&store, &mood).await;
    let position = save(&store, "doomed", 0).await;
    mood.until_waiting().await;
    let other = store.seize_lease(&ROLE, &Name::from_static("other"), Duration::from_secs(60)).await.unwrap();
    mood.gate.add_permits(10);
    until("it is not the owner", async || app.projections().await.unwrap()[0].owner != ProjectionOwner::Here).await;
    let status = app.projections().await.unwrap().remove(0);
    assert_eq!((status.owner, mood.refusals.load(Ordering::SeqCst)), (ProjectionOwner::Elsewhere, 0), "{status:?}");
    store.release_lease(&other).await.unwrap();
    app.projected::<OrderRows>(position).await.unwrap();
    assert_eq!(counted(&store).await, (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_several_processes_writes_and_all_know_how_far() {
    let (store, mood) = (TableStore::new(), Mood::default());
    let mut apps = Vec::new();
    for _ in 0..3 {
        apps.push(app(&store, &mood).await);
    }
    let mut saved = 0;
    while !apps.is_empty() {
        for _ in 0..50 {
            let position = save(&store, "ada", 2).await;
            saved += 1;
            if saved % 25 == 0 {
                for app in &apps {
                    app.projected::<OrderRows>(position).await.unwrap();
                }
                assert_eq!(counted(&store).await, (saved, 3 * saved as u64));
            }
        }
        let mut owner = None;
        for (index, app) in apps.iter().enumerate() {
            if app.projections().await.unwrap()[0].owner == ProjectionOwner::Here {
                assert_eq!(owner.replace(index), None, "one owner");
            }
        }
        // the owner shuts down, and a second app takes over
        apps.remove(owner.expect("an owner")).shutdown(Duration::from_secs(5)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_vanishes_is_replaced_when_its_lease_runs_out() {
    let (store, mood) = (TableStore::new(), Mood::default());
    let gone = store.seize_lease(&ROLE, &Name::from_static("gone"), Duration::from_secs(20)).await.unwrap();
    let app = app(&store, &mood).await;
    let position = save(&store, "ada", 0).await;
    app.projected::<OrderRows>(position).await.unwrap();
    assert_ne!(store.lease_of(&ROLE).await.unwrap().unwrap().owner, gone.owner);
}

#[tokio::test(start_paused = true)]
async fn events_of_other_types_cost_few_transactions() {
    let (store, mood) = (TableStore::new(), Mood::default());
    let app = app(&store, &mood).await;
    let mut checkpoints = std::collections::BTreeSet::new();
    for _ in 0..1_000 {
        let position = save_other(&store).await;
        app.projected::<OrderRows>(position).await.unwrap();
        checkpoints.insert(checkpoint(&store).await);
    }
    assert!(checkpoints.len() < 50, "{} checkpoints", checkpoints.len());
    let head = store.head().await.unwrap();
    until("the checkpoint follows", async || checkpoint(&store).await == head).await;
}

#[tokio::test(start_paused = true)]
async fn a_transaction_takes_a_small_part_of_the_lease() {
    let (store, mood) = (TableStore::new(), Mood::default());
    let mut saved = std::collections::BTreeSet::new();
    for _ in 0..4 {
        saved.insert(save(&store, "lengthy", 0).await);
    }
    let _app = app(&store, &mood).await;
    let (mut checkpoints, head) = (std::collections::BTreeSet::new(), store.head().await.unwrap());
    until("all is written", async || {
        let checkpoint = checkpoint(&store).await;
        checkpoints.insert(checkpoint);
        checkpoint == head
    })
    .await;
    checkpoints.remove(&Position::START);
    assert_eq!(checkpoints, saved, "one that was about to end with the lease would be lost as a whole");
}

#[derive(Default)]
struct WrongTable;

#[projection(name = "wrong-table", tables("order_row"), key = "order_id")]
impl WrongTable {
    fn created(&self, _event: &OrderCreated, meta: &Metadata, tables: &mut Tables) {
        tables.row("order_rows", meta.aggregate_id().as_str()).insert("order_id".into(), "1".into());
    }
}

#[derive(Default)]
struct WrongKey;

#[projection(name = "wrong-key", tables("order_rows"), key = "order")]
impl WrongKey {
    fn created(&self, _event: &OrderCreated, meta: &Metadata, tables: &mut Tables) {
        tables.row("order_rows", meta.aggregate_id().as_str()).insert("order_id".into(), "1".into());
    }
}

#[derive(Default)]
struct FailsWithoutTable;

#[projection(name = "fails-without-table", tables("order_row"))]
impl FailsWithoutTable {
    fn created(&self, _event: &OrderCreated, tables: &mut Tables) -> Result<(), &'static str> {
        if tables.rows("order_row").is_empty() { Err("there is no such table") } else { Ok(()) }
    }
}

async fn is_refused<P: Projection + Default>(expected: &str) {
    let store = TableStore::new();
    let app = App::builder().store(store.clone()).projection_with(P::default).without_relay().start().await.unwrap();
    let position = save(&store, "ada", 0).await;
    for _ in 0..2 {
        let error = app.projected::<P>(position).await.map(drop).unwrap_err();
        assert_eq!(error.to_string(), expected);
        let status = app.projections().await.unwrap().remove(0);
        assert_eq!((status.owner, status.position), (ProjectionOwner::Stopped, Position::START));
        assert!(app.health().await.projections[0].starts_with(expected), "and since when");
        assert!(store.tables().await.rows("order_rows").is_empty(), "nothing is committed");
        assert!(app.resume_projection::<P>().unwrap(), "it may have been made by now");
    }
}

#[tokio::test(start_paused = true)]
async fn tables_and_keys_that_are_not_there_are_told_of_before_anything_is_written() {
    is_refused::<WrongTable>(
        "projection `wrong-table` names `tables(\"order_row\")`, but the store has no such table: name those that its \
         methods write, and create them before the app starts",
    )
    .await;
    is_refused::<FailsWithoutTable>(
        "projection `fails-without-table` names `tables(\"order_row\")`, but the store has no such table: name those that \
         its methods write, and create them before the app starts",
    )
    .await;
    is_refused::<WrongKey>(
        "projection `wrong-key` names `key = \"order\"`, but its table `order_rows` has no such column",
    )
    .await;
}

#[tokio::test]
async fn state_in_memory_is_not_resumed_but_rebuilt() {
    let app = App::builder().projection_with(crate::orders::OrderStatistics::default).start().await.unwrap();
    let refused = app.resume_projection::<crate::orders::OrderStatistics>().unwrap_err();
    assert!(matches!(refused, ProjectionError::InMemory { name: "order-statistics" }), "{refused}");
    let status = app.projections().await.unwrap().remove(0);
    assert_eq!((status.owner, status.lag), (ProjectionOwner::Here, 0));
}

/// Fails if a method has no time limit, or a different one than reported.
#[tokio::test]
async fn a_method_that_hangs_is_shown_then_ended_after_a_minute_and_tried_again_and_others_go_on() {
    let (store, mood, clock) = (TableStore::new(), Mood::default(), ManualClock::default());
    let app = App::builder().clock(clock.clone()).store(store.clone()).state(mood.clone()).projection(OrderRows);
    // so that the app keeps its lease while the clock advances
    let app = app.projection_with(OrderStatistics::default).lease(Duration::from_secs(86_400));
    let app = app.without_relay().start().await.unwrap();
    save(&store, "slow", 0).await;
    mood.until_waiting().await;
    let began = clock.instant();
    let last = save(&store, "ada", 1).await;
    until("another projection goes on", async || {
        clock.advance(Duration::from_millis(10));
        let statuses = app.projections().await.unwrap();
        statuses.iter().any(|status| status.name == "order-statistics" && status.position == last)
    })
    .await;
    until("an alert names what hangs", async || {
        clock.advance(Duration::from_millis(200));
        let alerts = app.health().await.alerts(&HealthThresholds::default());
        alerts.iter().any(|alert| alert.contains("`order-rows`") && alert.contains("is busy with `OrderCreated`"))
    })
    .await;
    assert_eq!(mood.waiting.load(Ordering::SeqCst), 1, "it hangs still");
    until("it is tried again", async || {
        clock.advance(Duration::from_millis(200));
        mood.waiting.load(Ordering::SeqCst) == 2
    })
    .await;
    let took = clock.instant() - began;
    assert!((60..75).contains(&took.as_secs()), "tried again after {took:?}");
    mood.gate.add_permits(1);
    until("it goes on", async || {
        clock.advance(Duration::from_millis(10));
        app.projections().await.unwrap().iter().all(|status| status.position == last)
    })
    .await;
    assert_eq!(counted(&store).await, (2, 3), "what the first try wrote is rolled back");
}

#[derive(Default)]
struct SqlRows;

#[projection(name = "sql-rows", set_up = "CREATE TABLE sql_rows (id text)", manual)]
impl SqlRows {
    fn created(&self, _event: &OrderCreated, _tables: &mut Tables) {}
}

#[tokio::test]
async fn a_store_without_sql_refuses_a_set_up() {
    let error = App::builder().store(TableStore::new()).projection(SqlRows).start().await.unwrap_err();
    assert!(
        error.to_string().contains("projection `sql-rows`") && error.to_string().contains("remove `set_up`"),
        "{error}"
    );
}
