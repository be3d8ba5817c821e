//! Rebuilding rows under live traffic, killed and resumed.

use std::time::Duration;

use eventbus::{StreamId, projection::RebuildProgress};

use crate::{
    kinds::{Kind, LONG_LEASE},
    orders::{Pace, expected, pay},
    play::{self, Part},
};

/// Damages the rows, as a bug that is now fixed could have done.
async fn damage<K: Kind>(kind: &K) {
    kind.tell("UPDATE order_rows SET cents = -1").await;
    kind.tell("DELETE FROM order_lines WHERE version % 2 = 0").await;
}

async fn reached<K: Kind>(app: &eventbus::App, kind: &K) {
    let head = kind.store().head().await.unwrap();
    app.projected::<K::Rows>(head).await.map(drop).unwrap();
}

/// Rebuilds; the lease of a killed process has to expire first.
async fn rebuild<K: Kind>(app: &eventbus::App) -> (eventbus::projection::Rebuilt, Vec<RebuildProgress>) {
    let mut seen = Vec::new();
    let rebuilt = app.rebuild::<K::Rows>().on_progress(|now| seen.push(now)).await;
    (rebuilt.unwrap(), seen)
}

pub(crate) async fn a_rebuild_under_live_traffic_equals_the_live_rows<K: Kind>() {
    let (_place, kind) = K::fresh().await;
    let store = kind.store();
    pay(&*store, 50, 1_500).await;
    let app = kind.app(Pace::FAST, LONG_LEASE).await;
    reached(&app, &kind).await;
    damage(&kind).await;
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for _ in 0..40 {
                pay(&*store, 50, 20).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    let mut rebuilds = 0;
    while !writer.is_finished() || rebuilds < 2 {
        rebuild::<K>(&app).await;
        rebuilds += 1;
    }
    writer.await.unwrap();
    reached(&app, &kind).await;
    let live = kind.dump().await;
    assert_eq!(live, expected(&store).await, "after {rebuilds} rebuilds");
    let (rebuilt, seen) = rebuild::<K>(&app).await;
    assert_eq!(kind.dump().await, live, "byte for byte");
    assert_eq!((rebuilt.events, rebuilt.position), (seen.last().unwrap().events, seen.last().unwrap().position));
    pay(&*store, 50, 20).await;
    reached(&app, &kind).await;
    assert_eq!(kind.dump().await, expected(&store).await, "it goes on live");
}

pub(crate) async fn a_killed_rebuild_leaves_the_old_rows_and_is_resumed<K: Kind>() {
    let (place, kind) = K::fresh().await;
    let store = kind.store();
    pay(&*store, 50, 2_500).await;
    {
        let app = kind.app(Pace::FAST, LONG_LEASE).await;
        reached(&app, &kind).await;
        app.shutdown(Duration::from_secs(10)).await.unwrap();
    }
    damage(&kind).await;
    let damaged = kind.dump().await;
    let mut at = 0;
    for _ in 0..2 {
        let process = play::spawn::<K>(&place, Part::Rebuild, Duration::from_micros(500));
        let before = at;
        while at <= before {
            at = process.until(&["at "]).parse().unwrap();
        }
        drop(process);
        assert_eq!(kind.dump().await, damaged, "the old rows still serve");
    }
    let app = kind.app(Pace::FAST, LONG_LEASE).await;
    pay(&*store, 50, 20).await;
    let (rebuilt, seen) = rebuild::<K>(&app).await;
    assert!(seen[0].events >= at, "{:?} after {at}", seen[0]);
    assert_eq!(rebuilt.events, 2_520);
    reached(&app, &kind).await;
    assert_eq!(kind.dump().await, expected(&store).await);
}

pub(crate) async fn rows_are_replaced_all_or_none<K: Kind>() {
    let (place, kind) = K::fresh().await;
    let store = kind.store();
    pay(&*store, 400, 1_000).await;
    let app = kind.app(Pace::FAST, LONG_LEASE).await;
    reached(&app, &kind).await;
    app.shutdown(Duration::from_secs(10)).await.unwrap();
    let right = kind.dump().await;
    let (mut replaced, mut was_replaced) = (0, false);
    for round in 0..9 {
        damage(&kind).await;
        let damaged = kind.dump().await;
        let process = play::spawn::<K>(&place, Part::Rebuild, Duration::ZERO);
        let mut at = process.until(&["at "]);
        assert!(at == "0" || !was_replaced, "it goes on with copies that have served");
        while at != "1000" {
            at = process.until(&["at "]);
        }
        // the copies are filled: next the rebuild acquires the lease and replaces the rows
        tokio::time::sleep(Duration::from_millis(1 << round)).await;
        drop(process);
        let now = kind.dump().await;
        assert!(now == right || now == damaged, "{now}");
        was_replaced = now == right;
        replaced += usize::from(was_replaced);
    }
    println!("replaced {replaced} times of 9");
    let app = kind.app(Pace::FAST, LONG_LEASE).await;
    rebuild::<K>(&app).await;
    assert_eq!(kind.dump().await, right);
}

pub(crate) async fn the_rows_of_one_aggregate_are_made_anew<K: Kind>() {
    let (_place, kind) = K::fresh().await;
    let store = kind.store();
    pay(&*store, 5, 300).await;
    let app = kind.app(Pace::FAST, LONG_LEASE).await;
    reached(&app, &kind).await;
    let right = kind.dump().await;
    damage(&kind).await;
    let damaged = kind.dump().await;
    let order = |dump: &str, n: usize| dump.split("; ").nth(n).unwrap().to_owned();
    app.rebuild_aggregate::<K::Rows>(&StreamId::parse("Order", "order-2").unwrap()).await.unwrap();
    let mended = kind.dump().await;
    for n in 0..5 {
        assert_eq!(order(&mended, n), order(if n == 2 { &right } else { &damaged }, n));
    }
    let writer = tokio::spawn({
        let store = store.clone();
        async move { pay(&*store, 5, 400).await }
    });
    let mut rebuilds = 0;
    while !writer.is_finished() || rebuilds < 10 {
        for n in 0..5 {
            let stream = StreamId::parse("Order", &format!("order-{n}")).unwrap();
            app.rebuild_aggregate::<K::Rows>(&stream).await.unwrap();
            rebuilds += 1;
        }
    }
    writer.await.unwrap();
    reached(&app, &kind).await;
    assert_eq!(kind.dump().await, expected(&store).await, "after {rebuilds} rebuilds under live traffic");
}
