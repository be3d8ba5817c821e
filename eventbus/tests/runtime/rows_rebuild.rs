//! Rebuilding rows that are kept in the store's transaction, under live traffic.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use eventbus::{
    ExpectedVersion, Name, NewEvent, Position, StreamId,
    port::{AppendEvents, CheckpointError, Checkpoints, EventStore, Leases, Notes, ReadFeed, Transactions},
    prelude::*,
    projection::{RebuildError, RebuildProgress},
    testkit::{Fault, Row, TableStore, Tables, delegate},
};

use futures_util::FutureExt;

use crate::{
    lines::Lines,
    orders::{OrderCreated, OrderShipped, OrderStatistics, created},
    rows::{Mood, OrderRows, ROLE, app, append, counted, save},
    wait::until,
};

const REBUILD: Name = Name::from_static("rebuild:order-rows");

async fn dump(store: &TableStore) -> Vec<(String, Row)> {
    store.tables().await.rows("order_rows")
}

/// Damages the live rows, as a bug that is now fixed would have.
async fn damage(store: &TableStore) {
    let mut transaction = store.begin().await.unwrap();
    let tables: &mut Tables =
        eventbus::port::FromTransaction::<TableStore>::take(Some(transaction.as_any_mut())).unwrap();
    for (key, _) in tables.rows("order_rows") {
        tables.row("order_rows", &key).insert("events".into(), "0".into());
    }
    tables.row("order_rows", "no such order").insert("events".into(), "7".into());
    tables.row("other_rows", "kept").insert("events".into(), "1".into());
    transaction.commit().await.unwrap();
}

fn news(customer: &str, shipments: usize) -> Vec<NewEvent> {
    let shipped = || NewEvent::from_event(&OrderShipped { tracking_number: "T".into() }).unwrap();
    std::iter::once(NewEvent::from_event(&created(customer, 1.5)).unwrap())
        .chain((0..shipments).map(|_| shipped()))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn the_rows_are_made_anew_and_other_tables_are_left_alone() {
    let (store, mood) = (TableStore::new(), Mood::default());
    for _ in 0..500 {
        save(&store, "ada", 3).await;
    }
    let app = app(&store, &mood).await;
    app.projected::<OrderRows>(Position::new(2_000)).await.unwrap();
    let before = dump(&store).await;
    damage(&store).await;
    let seen = Mutex::new(Vec::new());
    let rebuilt = app.rebuild::<OrderRows>().on_progress(|now| seen.lock().unwrap().push(now)).await.unwrap();
    assert_eq!((rebuilt.events, rebuilt.position), (2_000, Position::new(2_000)));
    assert_eq!(dump(&store).await, before);
    assert_eq!(store.tables().await.rows("other_rows").len(), 1);
    assert!(store.shadows().await.is_empty());
    let seen: Vec<RebuildProgress> = seen.into_inner().unwrap();
    assert!(seen.len() >= 8 && seen.is_sorted_by_key(|now| now.events), "{seen:?}");
    let last = seen.last().unwrap();
    assert_eq!((last.name, last.events, last.share()), ("order-rows", 2_000, 1.0));
    assert!(last.to_string().starts_with("order-rows [##############] 100 % 2,000 events, "), "{last}");
    let next = save(&store, "ada", 0).await;
    app.projected::<OrderRows>(next).await.unwrap();
    assert_eq!(counted(&store).await, (501, 2_001), "it goes on live");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_live_traffic_nothing_is_missing_and_nothing_is_counted_twice() {
    let (store, mood) = (TableStore::new(), Mood::default());
    let app = app(&store, &mood).await;
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            let streams: Vec<_> = (0..20).map(|n| StreamId::parse("Order", &n.to_string()).unwrap()).collect();
            for round in 0..150 {
                for stream in &streams {
                    store.append(stream, ExpectedVersion::Any, news("ada", round % 3)).await.unwrap();
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let mut rebuilds = 0;
    while !writer.is_finished() || rebuilds < 3 {
        app.rebuild::<OrderRows>().await.unwrap();
        rebuilds += 1;
    }
    writer.await.unwrap();
    let head = store.head().await.unwrap();
    app.projected::<OrderRows>(head).await.unwrap();
    let live = dump(&store).await;
    assert_eq!(counted(&store).await, (20, head.get()), "after {rebuilds} rebuilds");
    app.rebuild::<OrderRows>().await.unwrap();
    assert_eq!(dump(&store).await, live);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_live_rows_serve_and_go_on_until_they_are_replaced() {
    let (store, mood) = (TableStore::new(), Mood::default());
    let app = app(&store, &mood).await;
    let slow = save(&store, "ada", 0).await;
    app.projected::<OrderRows>(slow).await.unwrap();
    let rebuilding = Arc::new(Mutex::new(false));
    let saw = Arc::clone(&rebuilding);
    let app_of_rebuild = app.clone();
    let store_of_rebuild = store.clone();
    let rebuild = tokio::spawn(async move {
        // as soon as the copies exist, an event arrives and is served live before the rebuild continues
        let begun = move |_| *saw.lock().unwrap() = true;
        for _ in 0..200 {
            save(&store_of_rebuild, "ada", 3).await;
        }
        app_of_rebuild.rebuild::<OrderRows>().on_progress(begun).await
    });
    until("the rebuild began", async || *rebuilding.lock().unwrap()).await;
    let next = save(&store, "bob", 0).await;
    app.projected::<OrderRows>(next).await.unwrap();
    assert!(dump(&store).await.iter().any(|(_, row)| row.get("customer").is_some_and(|name| name == "bob")));
    rebuild.await.unwrap().unwrap();
    assert_eq!(counted(&store).await.1, store.head().await.unwrap().get());
}

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
    // it waits until the lease of the interrupted rebuild has expired
    let rebuild = app.rebuild::<OrderRows>().on_progress(|now| {
        first.get_or_insert(now);
    });
    let rebuilt = rebuild.await.unwrap();
    let first = first.unwrap();
    assert_eq!((first.events, first.target, first.position), (at.get(), next, at), "{first}");
    assert_eq!(rebuilt.events, 602);
    let after = dump(&store).await;
    assert_eq!(after.len(), 302);
    assert!(before.iter().all(|row| after.contains(row)));
}

#[tokio::test(start_paused = true)]
async fn a_resumed_rebuild_counts_what_was_skipped_before_it() {
    let (store, mood) = (TableStore::new(), Mood::default());
    let last = save(&store, "ada", 9).await;
    let app = app(&store, &mood).await;
    drop(app.projected::<OrderRows>(last).await.unwrap());
    app.skip_event::<OrderRows>(Position::new(2), "a test").await.unwrap();
    // the copies are complete, and the store is unavailable when they are to replace the rows
    let mut is_filling = true;
    let rebuild = app.rebuild::<OrderRows>().on_progress(|now| {
        if now.position == last && std::mem::take(&mut is_filling) {
            store.commits.fail_next(Fault::Unavailable, 6);
        }
    });
    let refused = rebuild.await.unwrap_err();
    assert!(matches!(refused, RebuildError::Store { .. }), "{refused:?}");
    assert_eq!(store.load_checkpoint(&REBUILD).await.unwrap(), Some(last));
    let mut last_report = None;
    let rebuilt = app.rebuild::<OrderRows>().on_progress(|now| last_report = Some(now.events)).await.unwrap();
    assert_eq!((rebuilt.events, rebuilt.skipped), (9, 1));
    assert_eq!(last_report, Some(9), "a skipped event is not one to handle");
    assert_eq!(counted(&store).await, (1, 9));
}

/// Fails if the rebuild goes on with those copies, which lack the event.
#[tokio::test(start_paused = true)]
async fn copies_without_an_event_that_is_no_longer_skipped_are_made_anew() {
    let (store, mood) = (TableStore::new(), Mood::default());
    let last = save(&store, "ada", 9).await;
    let app = app(&store, &mood).await;
    drop(app.projected::<OrderRows>(last).await.unwrap());
    app.skip_event::<OrderRows>(Position::new(2), "a test").await.unwrap();
    let rebuild = app.rebuild::<OrderRows>().on_progress(|now| {
        if now.position == last {
            store.commits.fail_next(Fault::Unavailable, 6);
        }
    });
    rebuild.await.unwrap_err();
    app.unskip_event::<OrderRows>(Position::new(2)).await.unwrap();
    store.commits.clear();
    let rebuilt = app.rebuild::<OrderRows>().await.unwrap();
    assert_eq!((rebuilt.events, rebuilt.skipped), (10, 0));
    assert_eq!(counted(&store).await, (1, 10));
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_that_somebody_else_is_at_is_not_begun() {
    let (store, app) = half_slow(&Mood::default()).await;
    let somebody = Name::from_static("somebody");
    store.acquire_lease(&REBUILD, &somebody, Duration::from_secs(3_600)).await.unwrap();
    let error = app.rebuild::<OrderRows>().await.unwrap_err();
    assert_eq!(error.to_string(), "projection `order-rows` is rebuilt or fed by somebody");
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
    assert_eq!(refused.to_string(), format!("projection `order-rows` is rebuilt or fed by {owner}"));
    let rebuilding = second.projections().await.unwrap().remove(0).rebuilding.unwrap();
    assert_eq!(rebuilding.owner, owner);
    assert!(rebuilding.since.is_some_and(|since| (time::OffsetDateTime::now_utc() - since).whole_hours() == 0));
    let shown = serde_json::to_value(&rebuilding).unwrap();
    assert_eq!(shown["owner"], owner.as_str());
    assert!(shown["since"].is_string(), "{shown}");
    mood.gate.add_permits(1);
    let rebuilt = serde_json::to_value(rebuild.await.unwrap().unwrap()).unwrap();
    assert!(rebuilt["events"] == 1 && rebuilt["took"].is_number(), "{rebuilt}");
    assert_eq!(second.projections().await.unwrap().remove(0).rebuilding, None);
}

#[tokio::test(start_paused = true)]
async fn rows_are_replaced_all_or_none() {
    for (fault, times, replaced) in [(Fault::Unavailable, 6, false), (Fault::LostReply, 1, true)] {
        let (store, mood) = (TableStore::new(), Mood::default());
        for _ in 0..10 {
            save(&store, "ada", 1).await;
        }
        let app = app(&store, &mood).await;
        app.projected::<OrderRows>(Position::new(20)).await.unwrap();
        let (before, checkpoint) = (dump(&store).await, store.load_checkpoint(&ROLE).await.unwrap());
        damage(&store).await;
        let damaged = dump(&store).await;
        // the first commit fills the copies, the remaining ones replace the rows
        let mut filled = false;
        let rebuild = app.rebuild::<OrderRows>().on_progress(|now| {
            if now.events == 20 && !std::mem::replace(&mut filled, true) {
                store.commits.fail_next(fault, times);
            }
        });
        match rebuild.await {
            Ok(_) => assert!(replaced),
            Err(refused) => assert!(!replaced && matches!(refused, RebuildError::Store { .. }), "{refused:?}"),
        }
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
            1 => store.commits.fail_next(Fault::LostReply, 1),
            2 => store.commits.fail_next(Fault::Unavailable, 1),
            3 => store.begins.fail_next(Fault::Unavailable, 2),
            _ => {}
        }
    });
    assert_eq!(rebuild.await.unwrap().position, 600);
    assert_eq!(dump(&store).await, before);
}

/// Fails if each attempt has a log line, or the end of an outage has none.
#[tokio::test(start_paused = true)]
async fn of_a_store_that_fails_while_rows_are_rebuilt_and_replaced_it_is_told_once_and_when_it_works() {
    let lines = Lines::default();
    let _here = lines.capture("eventbus=info");
    let (store, mood) = (TableStore::new(), Mood::default());
    let last = save(&store, "ada", 9).await;
    let app = app(&store, &mood).await;
    drop(app.projected::<OrderRows>(last).await.unwrap());
    let (mut begins, mut ends) = (true, true);
    let rebuild = app.rebuild::<OrderRows>().on_progress(|now| {
        if std::mem::take(&mut begins) {
            store.begins.fail_next(Fault::Unavailable, 3);
        }
        if now.events == 10 && std::mem::take(&mut ends) {
            store.commits.fail_next(Fault::Unavailable, 3);
        }
    });
    rebuild.await.unwrap();
    let log = lines.text();
    for (began, over) in [
        ("rebuild cannot go on, trying again", "rebuild goes on"),
        ("rows could not be replaced, trying again", "rows were replaced"),
    ] {
        let told = |text: &str| log.lines().filter(|line| line.contains(text)).map(Into::into).collect::<Vec<String>>();
        assert_eq!((told(began).len(), told(over).len()), (1, 1), "{log}");
        assert!(told(over)[0].contains("lasted="), "{log}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_that_ended_before_its_copies_were_removed_is_not_gone_on_with() {
    let (store, mood) = (TableStore::new(), Mood::default());
    let last = save(&store, "ada", 9).await;
    let app = app(&store, &mood).await;
    drop(app.projected::<OrderRows>(last).await.unwrap());
    for _ in 0..2 {
        store.drops.fail_next(Fault::Unavailable, 6);
        let mut seen = Vec::new();
        let rebuilt = app.rebuild::<OrderRows>().on_progress(|now| seen.push(now.events)).await.unwrap();
        assert_eq!((seen[0], rebuilt.events, store.drops.remaining()), (0, 10, 0));
        assert_eq!(counted(&store).await, (1, 10));
    }
}

#[tokio::test(start_paused = true)]
async fn a_switch_whose_outcome_is_unknown_is_made_once() {
    let (store, mood) = (TableStore::new(), Mood::default());
    let last = save(&store, "bad", 9).await;
    let app = app(&store, &mood).await;
    drop(app.projected::<OrderRows>(last).await.unwrap());
    let before = dump(&store).await;
    for (fault, tries) in [(Fault::LostReply, 2), (Fault::Unavailable, 3)] {
        damage(&store).await;
        let mut is_filling = true;
        let rebuild = app.rebuild::<OrderRows>().on_progress(|now| {
            if now.events == 10 && std::mem::take(&mut is_filling) {
                store.commits.fail_next(fault, 1);
            }
        });
        assert_eq!(rebuild.await.unwrap().position, last);
        assert_eq!(dump(&store).await, before);
        assert_eq!(store.commits.remaining(), 0);
        assert_eq!(mood.tries.load(Ordering::SeqCst), tries, "the copies are not filled again");
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

/// A method that failed may be mended in the next process, and make other rows of earlier events, too.
#[tokio::test(start_paused = true)]
async fn after_a_failed_method_the_next_process_begins_anew_unless_the_event_is_skipped() {
    for is_skipped in [false, true] {
        let (store, mood) = (TableStore::new(), Mood::default());
        save(&store, "ada", 1).await;
        let last = save(&store, "bad", 1).await;
        let failing = app(&store, &mood).await;
        drop(failing.projected::<OrderRows>(last).await.unwrap());
        mood.refusals.store(u32::MAX, Ordering::SeqCst);
        let refused = failing.rebuild::<OrderRows>().await.unwrap_err();
        assert!(matches!(refused, RebuildError::Failed { position, .. } if position == 3), "{refused}");
        mood.refusals.store(0, Ordering::SeqCst);
        // a second attempt in this process, which ends before that event, keeps the note of the failure
        store.commits.fail_next(Fault::Unavailable, 6);
        let refused = failing.rebuild::<OrderRows>().await.unwrap_err();
        assert!(matches!(refused, RebuildError::Store { .. }), "{refused}");
        store.commits.clear();
        if is_skipped {
            failing.skip_event::<OrderRows>(Position::new(3), "a test").await.unwrap();
        }
        failing.shutdown(Duration::from_secs(5)).await.unwrap();

        let mended = app(&store, &mood).await;
        let mut first = None;
        let rebuild = mended.rebuild::<OrderRows>().on_progress(|now| {
            first.get_or_insert(now.events);
        });
        let rebuilt = rebuild.await.unwrap();
        let (begins_at, skipped) = if is_skipped { (2, 1) } else { (0, 0) };
        assert_eq!((first, rebuilt.skipped), (Some(begins_at), skipped));
    }
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_frees_a_projection_that_stopped() {
    let (store, mood) = (TableStore::new(), Mood::refusing(4));
    store.create_table("order_rows").await;
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
    let second = second.lease(Duration::from_millis(200)).start().await.unwrap();
    let refused = tokio::time::timeout(Duration::from_secs(5), second.rebuild::<Later>().into_future()).await;
    assert!(matches!(refused, Ok(Err(RebuildError::Elsewhere { owner: Some(_), .. }))), "{refused:?}");
    mood.gate.add_permits(1);
    assert_eq!(rebuild.await.unwrap().unwrap().events, 601);
    assert!(second.rebuild::<Later>().await.is_ok(), "its turn");
}

#[tokio::test(start_paused = true)]
async fn the_rows_of_one_aggregate_are_made_anew() {
    let (store, mood) = (TableStore::new(), Mood::default());
    let stream = StreamId::parse("Order", "one").unwrap();
    append(&store, &stream, news("ada", 5)).await;
    let other = save(&store, "bob", 2).await;
    let app = app(&store, &mood).await;
    app.projected::<OrderRows>(other).await.unwrap();
    let before = dump(&store).await;
    damage(&store).await;
    let rebuilt = app.rebuild_aggregate::<OrderRows>(&stream).await.unwrap();
    assert_eq!((rebuilt.events, rebuilt.position), (6, other));
    let rows = dump(&store).await;
    let row = |rows: &[(String, Row)], key: &str| rows.iter().find(|(k, _)| k == key).map(|(_, row)| row.clone());
    assert_eq!(row(&rows, "one"), row(&before, "one"));
    let others = rows.iter().filter(|(key, _)| key != "one");
    assert!(others.clone().count() == 2 && others.clone().all(|(_, row)| row["events"] != "3"), "only those: {rows:?}");
    let next = append(&store, &stream, news("ada", 0)).await;
    app.projected::<OrderRows>(next).await.unwrap();
    assert_eq!(row(&dump(&store).await, "one").unwrap()["events"], "7");
    // the rebuild leaves out and counts skipped events
    app.skip_event::<OrderRows>(Position::new(2), "a test").await.unwrap();
    let rebuilt = app.rebuild_aggregate::<OrderRows>(&stream).await.unwrap();
    assert_eq!((rebuilt.events, rebuilt.skipped), (6, 1));
}

/// A store that records the owner of a projection's lease when its note was saved.
struct Witness {
    store: TableStore,
    owners: Arc<Mutex<Vec<Option<Name>>>>,
}

delegate!(Witness, self => self.store; AppendEvents, ReadStream, ReadFeed, Checkpoints, Leases);

impl EventStore for Witness {
    fn transactions(&self) -> Option<Arc<dyn Transactions>> {
        self.store.transactions()
    }

    fn notes(&self) -> Option<&dyn Notes> {
        Some(self)
    }
}

#[async_trait::async_trait]
impl Notes for Witness {
    async fn load_note(&self, name: &Name) -> Result<Option<String>, CheckpointError> {
        self.store.notes().unwrap().load_note(name).await
    }

    async fn save_note(&self, name: &Name, text: &str) -> Result<(), CheckpointError> {
        if *name == ROLE {
            let lease = self.store.lease_of(&ROLE).await.unwrap();
            self.owners.lock().unwrap().push(lease.map(|lease| lease.owner));
        }
        self.store.notes().unwrap().save_note(name, text).await
    }

    async fn delete_note(&self, name: &Name) -> Result<(), CheckpointError> {
        self.store.notes().unwrap().delete_note(name).await
    }

    async fn list_note_names(
        &self,
        prefix: &Name,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<Name>, CheckpointError> {
        self.store.notes().unwrap().list_note_names(prefix, after, limit).await
    }
}

#[tokio::test(start_paused = true)]
async fn that_rows_were_rebuilt_is_noted_under_the_lease() {
    let (store, owners) = (TableStore::new(), Arc::<Mutex<Vec<Option<Name>>>>::default());
    let last = save(&store, "ada", 3).await;
    let witness = Witness { store: store.clone(), owners: Arc::clone(&owners) };
    let app = App::builder().store(witness).state(Mood::default()).projection(OrderRows).without_relay();
    let app = app.start().await.unwrap();
    app.projected::<OrderRows>(last).await.unwrap();
    owners.lock().unwrap().clear();
    app.rebuild::<OrderRows>().await.unwrap();
    let owners = owners.lock().unwrap().clone();
    let by_the_rebuild = |owner: &Option<Name>| owner.as_ref().is_some_and(|owner| owner.contains("/rebuild-"));
    assert!(owners.first().is_some_and(by_the_rebuild), "{owners:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rows_of_one_aggregate_are_made_anew_under_live_traffic() {
    let (store, mood) = (TableStore::new(), Mood::default());
    let app = app(&store, &mood).await;
    let stream = StreamId::parse("Order", "one").unwrap();
    let writer = tokio::spawn({
        let (store, stream) = (store.clone(), stream.clone());
        async move {
            for _ in 0..300 {
                append(&store, &stream, news("ada", 1)).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let mut rebuilds = 0;
    while !writer.is_finished() || rebuilds < 3 {
        app.rebuild_aggregate::<OrderRows>(&stream).await.unwrap();
        rebuilds += 1;
    }
    writer.await.unwrap();
    app.projected::<OrderRows>(Position::new(600)).await.unwrap();
    assert_eq!(counted(&store).await, (1, 600), "after {rebuilds} rebuilds");
}

#[derive(Default)]
struct Bare;

#[projection(name = "bare")]
impl Bare {
    fn created(&self, _event: &OrderCreated, _tables: &mut Tables) {}
}

#[tokio::test(start_paused = true)]
async fn a_projection_that_does_not_say_where_its_rows_are_is_told_what_to_write() {
    let app = App::builder().store(TableStore::new()).projection(Bare).projection_with(OrderStatistics::default);
    let app = app.without_relay().start().await.unwrap();
    let refused = app.rebuild::<Bare>().await.unwrap_err();
    assert!(matches!(refused, RebuildError::NoTables { name: "bare" }));
    let text = "projection `bare` does not say in which tables its rows are: write \
                `#[projection(name = \"bare\", tables(\"..\"))]`";
    assert_eq!(refused.to_string(), text);
    let stream = StreamId::parse("Order", "1").unwrap();
    let refused = app.rebuild_aggregate::<Bare>(&stream).await.unwrap_err();
    assert!(matches!(refused, RebuildError::NoTables { name: "bare" }), "{refused}");
    let refused = app.rebuild_aggregate::<OrderStatistics>(&stream).await.unwrap_err();
    assert!(matches!(refused, RebuildError::NoKey { name: "order-statistics" }), "{refused}");
}
