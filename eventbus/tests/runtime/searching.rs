//! Projections whose events are rare: they stop the search for the next one when it has no use.

use std::{sync::atomic::Ordering, time::Duration};

use eventbus::{
    Name, Position,
    port::{Checkpoints, Leases},
    prelude::*,
    projection::{Projection, ProjectionOwner, RebuildError},
    testkit::TableStore,
};

use crate::{
    gated::GatedStore,
    lines::Lines,
    orders::{OrderCreated, OrderStatistics},
    rows::{Mood, OrderRows, ROLE, save},
    wait::until,
};

#[derive(Default)]
struct Mails;

#[projection(name = "mails")]
impl Mails {
    fn created(&self, _event: &OrderCreated) {}
}

/// As many events as one transaction holds, and one behind them.
async fn many() -> TableStore {
    let store = TableStore::new();
    for _ in 0..257 {
        save(&store, "ada", 0).await;
    }
    store
}

async fn searching<P: Projection + Default>(store: &GatedStore, finds: usize) -> App {
    store.finds.store(finds, Ordering::SeqCst);
    let app = App::builder().store(store.clone()).state(Mood::default()).projection_with(P::default);
    let app = app.lease(Duration::from_secs(1)).without_relay().start().await.unwrap();
    store.until_searching().await;
    app
}

async fn ends_at_once<P: Projection + Default>(finds: usize) {
    let store = GatedStore::over(many().await);
    let app = searching::<P>(&store, finds).await;
    app.shutdown(Duration::from_secs(5)).await.unwrap();
    assert_eq!(store.searching.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_the_next_event() {
    for finds in [0, 3, 256] {
        ends_at_once::<OrderRows>(finds).await;
        ends_at_once::<Mails>(finds).await;
        ends_at_once::<OrderStatistics>(finds).await;
    }
}

async fn steps_down<P: Projection + Default>(role: &Name) {
    let store = GatedStore::over(many().await);
    let app = searching::<P>(&store, 0).await;
    store.seize_lease(role, &Name::from_static("other"), Duration::from_secs(3_600)).await.unwrap();
    until("it has stepped down", async || app.projections().await.unwrap()[0].owner == ProjectionOwner::Elsewhere)
        .await;
    assert_eq!(store.searching.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn who_lost_the_role_does_not_wait_for_the_next_event() {
    steps_down::<OrderRows>(&ROLE).await;
    steps_down::<Mails>(&Name::from_static("projection:mails")).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_handled_before_a_long_search_is_kept() {
    let store = GatedStore::over(many().await);
    let app = searching::<Mails>(&store, 3).await;
    app.shutdown(Duration::from_secs(5)).await.unwrap();
    let kept = store.load_checkpoint(&Name::from_static("projection:mails")).await.unwrap();
    assert_eq!(kept, Some(Position::new(3)));
}

/// Expects that a shutdown ends a rebuild, for which the store searches as `begin_search` has told it.
async fn rebuild_ends<P: Projection + Default>(begin_search: impl FnOnce(&GatedStore)) {
    let store = GatedStore::over(many().await);
    let app = App::builder().store(store.clone()).state(Mood::default()).projection_with(P::default);
    let app = app.without_relay().start().await.unwrap();
    drop(app.projected::<P>(Position::new(257)).await.unwrap());
    begin_search(&store);
    let rebuild = tokio::spawn({
        let app = app.clone();
        async move { app.rebuild::<P>().await }
    });
    store.until_searching().await;
    app.shutdown(Duration::from_secs(5)).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), rebuild).await.unwrap().unwrap();
    assert!(matches!(ended, Err(RebuildError::NotRunning(_))), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_a_rebuild_that_waits_for_the_next_event() {
    let finds_none = |store: &GatedStore| store.finds.store(0, Ordering::SeqCst);
    rebuild_ends::<OrderRows>(finds_none).await;
    rebuild_ends::<OrderStatistics>(finds_none).await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_a_rebuild_that_searches_for_a_missing_event() {
    let searches_missing = |store: &GatedStore| store.searches_missing.store(true, Ordering::SeqCst);
    rebuild_ends::<OrderRows>(searches_missing).await;
    rebuild_ends::<Mails>(searches_missing).await;
    rebuild_ends::<OrderStatistics>(searches_missing).await;
}

#[derive(Default)]
struct Refusing;

#[projection(name = "refusing", manual)]
impl Refusing {
    fn created(&mut self, _event: &OrderCreated) -> Result<(), &'static str> {
        Err("refused")
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_beside_a_retry_of_a_state_in_memory_is_no_failure_of_it() {
    let lines = Lines::default();
    let _here = lines.capture("eventbus=warn");
    let tables = TableStore::new();
    let last = save(&tables, "ada", 0).await;
    let store = GatedStore::over(tables);
    let app = App::builder().store(store.clone()).projection_with(Refusing::default).without_relay();
    let app = app.start().await.unwrap();
    app.projected::<Refusing>(last).await.map(drop).unwrap_err();
    store.searches_missing.store(true, Ordering::SeqCst);
    store.until_searching().await;
    app.shutdown(Duration::from_secs(5)).await.unwrap();
    let log = lines.text();
    assert!(!log.contains("still cannot be rebuilt"), "{log}");
}

/// As by a bug of a driver, while a different process takes the lease.
#[tokio::test(start_paused = true)]
async fn a_projection_that_panicked_and_stands_by_is_not_the_owner() {
    let tables = TableStore::new();
    let store = GatedStore::over(tables.clone()).silent();
    let app = App::builder().store(store.clone()).projection(Mails).without_relay().start().await.unwrap();
    let owner = async || app.projections().await.unwrap()[0].owner;
    until("it is fed here", async || owner().await == ProjectionOwner::Here).await;
    store.panics.store(1, Ordering::SeqCst);
    save(&tables, "ada", 0).await;
    until("it panicked", async || store.panics.load(Ordering::SeqCst) == 0).await;
    let role = Name::from_static("projection:mails");
    store.seize_lease(&role, &Name::from_static("other"), Duration::from_secs(3_600)).await.unwrap();
    until("it stands by", async || owner().await == ProjectionOwner::Elsewhere).await;
}
