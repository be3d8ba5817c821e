//! Rebuilding rows that are kept in the store's transaction, under live traffic.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use eventbus::{
    ExpectedVersion, Position, RebuildError, RebuildProgress, StreamId,
    port::{AppendEvents, ReadFeed},
    prelude::*,
    testkit::{Row, TableStore, Tables},
};

use crate::{
    orders::{OrderCreated, OrderStatistics},
    rows_kit::{Mood, OrderRows, app, append, counted, damage, dump, news, save},
    wait::until,
};

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
    assert_eq!((last.name, last.events, last.of), ("order-rows", 2_000, 2_000));
    assert!(last.to_string().starts_with("order-rows [##############] 100 % 2,000 of 2,000 events, "), "{last}");
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
        // as soon as the copies are begun, an event comes and is served live before the rebuild goes on
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
