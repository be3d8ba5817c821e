//! Rebuilds of rows that are interrupted, refused, fenced, or fail.

use std::{sync::atomic::Ordering, time::Duration};

use eventbus::{
    Name, Position, RebuildError,
    port::{Checkpoints, Leases},
    prelude::*,
    testkit::{Fault, TableStore, Tables},
};
use futures_util::FutureExt;

use crate::{
    orders::OrderCreated,
    rows_kit::{Mood, OrderRows, REBUILD, ROLE, app, counted, damage, dump, save},
    wait::until,
};

/// 600 events, and one in the middle for which a rebuild waits.
async fn half_slow(mood: &Mood) -> (TableStore, App) {
    let store = TableStore::new();
    for half in ["slow", ""] {
        for _ in 0..150 {
            save(&store, "ada", 1).await;
        }
        if !half.is_empty() {
            save(&store, half, 0).await;
        }
    }
    let app = app(&store, mood).await;
    mood.gate.add_permits(1);
    app.projected::<OrderRows>(Position::new(601)).await.unwrap();
    mood.waiting.store(0, Ordering::SeqCst);
    (store, app)
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_rebuild_is_resumed() {
    let mood = Mood::default();
    let (store, app) = half_slow(&mood).await;
    let before = dump(&store).await;
    damage(&store).await;
    let damaged = dump(&store).await;
    tokio::select! {
        biased;
        rebuilt = app.rebuild::<OrderRows>().into_future() => panic!("not interrupted: {rebuilt:?}"),
        () = mood.until_waiting() => {}
    }
    assert_eq!(dump(&store).await, damaged, "the old rows still serve");
    let at = store.load_checkpoint(&REBUILD).await.unwrap().unwrap();
    assert_eq!(at, 256, "one batch was committed");
    mood.gate.add_permits(1);
    let next = save(&store, "bob", 0).await;
    app.projected::<OrderRows>(next).await.unwrap();

    let mut first = None;
    // it waits until the lease of the interrupted one has run out
    let rebuild = app.rebuild::<OrderRows>().on_progress(|now| {
        first.get_or_insert(now);
    });
    let rebuilt = rebuild.await.unwrap();
    let first = first.unwrap();
    assert_eq!((first.events, first.of, first.position), (at.get(), 602, at), "{first}");
    assert_eq!(rebuilt.events, 602);
    let after = dump(&store).await;
    assert_eq!(after.len(), 302);
    assert!(before.iter().all(|row| after.contains(row)));
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_that_somebody_else_is_at_is_not_begun() {
    let (store, app) = half_slow(&Mood::default()).await;
    let somebody = Name::from_static("somebody");
    store.acquire_lease(&REBUILD, &somebody, Duration::from_secs(3_600)).await.unwrap();
    let error = app.rebuild::<OrderRows>().await.unwrap_err();
    assert_eq!(error.to_string(), "projection `order-rows` is in the hands of somebody");
}

#[tokio::test(start_paused = true)]
async fn one_process_rebuilds_and_the_others_are_told_who() {
    let (store, mood) = (TableStore::new(), Mood::default());
    save(&store, "slow", 0).await;
    let (first, second) = (app(&store, &mood).await, app(&store, &mood).await);
    mood.gate.add_permits(1);
    first.projected::<OrderRows>(Position::new(1)).await.unwrap();
    let rebuild = tokio::spawn(async move { first.rebuild::<OrderRows>().await });
    until("it rebuilds", async || store.lease_of(&REBUILD).await.unwrap().is_some()).await;
    let owner = store.lease_of(&REBUILD).await.unwrap().unwrap().owner;
    let refused = second.rebuild::<OrderRows>().await.unwrap_err();
    assert_eq!(refused.to_string(), format!("projection `order-rows` is in the hands of {owner}"));
    mood.gate.add_permits(1);
    rebuild.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn rows_are_replaced_all_or_none() {
    for (fault, replaced) in [(Fault::Unavailable, false), (Fault::LostReply, true)] {
        let (store, mood) = (TableStore::new(), Mood::default());
        for _ in 0..10 {
            save(&store, "ada", 1).await;
        }
        let app = app(&store, &mood).await;
        app.projected::<OrderRows>(Position::new(20)).await.unwrap();
        let (before, checkpoint) = (dump(&store).await, store.load_checkpoint(&ROLE).await.unwrap());
        damage(&store).await;
        let damaged = dump(&store).await;
        // the first commit fills the copies, the others replace the rows
        let mut filled = false;
        let refused = app.rebuild::<OrderRows>().on_progress(|now| {
            if now.events == 20 && !std::mem::replace(&mut filled, true) {
                store.commits.next(fault, 6);
            }
        });
        let refused = refused.await.unwrap_err();
        assert!(matches!(refused, RebuildError::Store { name: "order-rows", .. }), "{refused:?}");
        assert_eq!(dump(&store).await, if replaced { before.clone() } else { damaged }, "{fault:?}");
        assert_eq!(store.load_checkpoint(&ROLE).await.unwrap(), checkpoint);
        app.rebuild::<OrderRows>().await.unwrap();
        assert_eq!(dump(&store).await, before);
        let next = save(&store, "ada", 0).await;
        app.projected::<OrderRows>(next).await.unwrap();
        assert_eq!(counted(&store).await, (11, 21));
    }
}

#[tokio::test(start_paused = true)]
async fn who_lost_the_role_of_rebuilding_replaces_nothing() {
    let (store, mood) = (TableStore::new(), Mood::default());
    let last = save(&store, "ada", 9).await;
    let app = app(&store, &mood).await;
    drop(app.projected::<OrderRows>(last).await.unwrap());
    damage(&store).await;
    let damaged = dump(&store).await;
    let (other, ttl) = (Name::from_static("other"), Duration::from_secs(3_600));
    let rebuild = app.rebuild::<OrderRows>().on_progress(|now| {
        if now.events == 10 {
            store.seize_lease(&REBUILD, &other, ttl).now_or_never().unwrap().unwrap();
        }
    });
    let lost = rebuild.await.unwrap_err();
    assert!(matches!(lost, RebuildError::Lost { name: "order-rows" }), "{lost}");
    assert_eq!(dump(&store).await, damaged);
    assert!(store.shadows().await.contains(&REBUILD), "somebody else fills the copies");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_for_a_moment_does_not_end_a_rebuild() {
    let (store, mood) = (TableStore::new(), Mood::default());
    for _ in 0..300 {
        save(&store, "ada", 1).await;
    }
    let app = app(&store, &mood).await;
    app.projected::<OrderRows>(Position::new(600)).await.unwrap();
    let before = dump(&store).await;
    damage(&store).await;
    let mut reports = 0;
    let rebuild = app.rebuild::<OrderRows>().on_progress(|_| {
        reports += 1;
        match reports {
            1 => store.commits.next(Fault::LostReply, 1),
            2 => store.commits.next(Fault::Unavailable, 1),
            3 => store.begins.next(Fault::Unavailable, 2),
            _ => {}
        }
    });
    assert_eq!(rebuild.await.unwrap().position, 600);
    assert_eq!(dump(&store).await, before);
}

#[tokio::test(start_paused = true)]
async fn copies_that_cannot_be_removed_are_told_of_since_the_next_rebuild_begins_with_them() {
    let (store, mood) = (TableStore::new(), Mood::default());
    let last = save(&store, "ada", 9).await;
    let app = app(&store, &mood).await;
    drop(app.projected::<OrderRows>(last).await.unwrap());
    for (faults, is_told) in [(5, false), (6, true)] {
        store.drops.next(Fault::Unavailable, faults);
        let rebuilt = app.rebuild::<OrderRows>().await;
        assert_eq!(matches!(rebuilt, Err(RebuildError::Store { .. })), is_told, "{rebuilt:?}");
        assert_eq!((store.drops.left(), store.shadows().await.is_empty()), (0, !is_told));
        assert_eq!(counted(&store).await, (1, 10));
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_keeps_failing_ends_the_rebuild_before_it_and_the_next_one_goes_on_there() {
    let (store, mood) = (TableStore::new(), Mood::default());
    save(&store, "ada", 1).await;
    save(&store, "bad", 1).await;
    let app = app(&store, &mood).await;
    app.projected::<OrderRows>(Position::new(4)).await.unwrap();
    mood.refusals.store(4, Ordering::SeqCst);
    let refused = app.rebuild::<OrderRows>().await.unwrap_err();
    assert!(matches!(refused, RebuildError::Failed { position, .. } if position == 3), "{refused}");
    assert_eq!(counted(&store).await, (2, 4));
    assert_eq!(store.load_checkpoint(&REBUILD).await.unwrap(), Some(Position::new(2)));
    assert_eq!(app.rebuild::<OrderRows>().await.unwrap().events, 4);
    assert_eq!(counted(&store).await, (2, 4));
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_frees_a_projection_that_stopped() {
    let (store, mood) = (TableStore::new(), Mood::refusing(4));
    let app = app(&store, &mood).await;
    let bad = save(&store, "bad", 1).await;
    app.projected::<OrderRows>(bad).await.map(drop).unwrap_err();
    app.rebuild::<OrderRows>().await.unwrap();
    let next = save(&store, "ada", 0).await;
    app.projected::<OrderRows>(next).await.unwrap();
    assert_eq!(counted(&store).await, (2, 3));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_a_rebuild_and_the_old_rows_stay() {
    let mood = Mood::default();
    let (store, app) = half_slow(&mood).await;
    damage(&store).await;
    let damaged = dump(&store).await;
    let rebuild = tokio::spawn({
        let app = app.clone();
        async move { app.rebuild::<OrderRows>().await }
    });
    mood.until_waiting().await;
    app.shutdown(Duration::from_secs(5)).await.unwrap();
    mood.gate.add_permits(1);
    let ended = rebuild.await.unwrap().unwrap_err();
    assert!(matches!(ended, RebuildError::NotRunning(_)), "{ended:?}");
    assert_eq!(dump(&store).await, damaged);
    assert!(store.lease_of(&REBUILD).await.unwrap().is_none(), "the next one need not wait");
}

#[derive(Default)]
struct Later;

#[projection(name = "order-rows", tables("order_rows"), version = 3)]
impl Later {
    fn created(&self, _event: &OrderCreated, meta: &Metadata, tables: &mut Tables) {
        tables.row("order_rows", meta.aggregate_id().as_str()).insert("version".into(), "3".into());
    }
}

#[tokio::test(start_paused = true)]
async fn another_version_begins_at_zero_and_removes_what_the_former_left() {
    let (store, mood) = (TableStore::new(), Mood::default());
    save(&store, "ada", 1).await;
    let last = save(&store, "bad", 1).await;
    let first = app(&store, &mood).await;
    first.projected::<OrderRows>(last).await.unwrap();
    mood.refusals.store(4, Ordering::SeqCst);
    first.rebuild::<OrderRows>().await.unwrap_err();
    assert!(store.shadows().await.contains(&REBUILD));
    first.shutdown(Duration::from_secs(5)).await.unwrap();

    let second = App::builder().store(store.clone()).projection(Later).without_relay().start().await.unwrap();
    assert_eq!(second.rebuild::<Later>().await.unwrap().events, 2);
    assert!(store.shadows().await.is_empty());
    assert!(dump(&store).await.iter().all(|(_, row)| row.len() == 1 && row["version"] == "3"));
}

#[tokio::test(start_paused = true)]
async fn two_versions_are_not_rebuilt_at_once() {
    let mood = Mood::default();
    let (store, first) = half_slow(&mood).await;
    let rebuild = tokio::spawn(async move { first.rebuild::<OrderRows>().await });
    mood.until_waiting().await;
    let second = App::builder().store(store.clone()).projection(Later).without_relay();
    let second = second.projection_lease(Duration::from_millis(200)).start().await.unwrap();
    let refused = tokio::time::timeout(Duration::from_secs(5), second.rebuild::<Later>().into_future()).await;
    assert!(matches!(refused, Ok(Err(RebuildError::Elsewhere { owner: Some(_), .. }))), "{refused:?}");
    mood.gate.add_permits(1);
    assert_eq!(rebuild.await.unwrap().unwrap().events, 601);
    assert!(second.rebuild::<Later>().await.is_ok(), "its turn");
}
