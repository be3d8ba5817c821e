//! Following a store that fails, and one that is damaged.

use std::{sync::atomic::Ordering, time::Duration};

use eventbus::{
    App, Follow, Name, NewEvent, Position, StreamId,
    port::{AppendEvents as _, FeedFilter},
};
use futures_util::TryStreamExt as _;

use crate::{gated::GatedStore, wait::until};

async fn append(store: &GatedStore, count: usize) {
    let stream = StreamId::parse("Order", "1").unwrap();
    let events = vec![(); count].into_iter().map(|()| NewEvent::new(Name::from_static("Noted"), 1, "{}")).collect();
    store.append(&stream, eventbus::ExpectedVersion::Any, events).await.unwrap();
}

#[tokio::test]
async fn a_damaged_event_ends_it_and_says_where() {
    let store = GatedStore::open();
    append(&store, 1).await;
    let mut following = Follow::new(store.clone()).start();
    following.try_next().await.unwrap().unwrap();
    store.is_damaged.store(true, Ordering::SeqCst);
    append(&store, 1).await;
    let error = following.try_next().await.unwrap_err();
    assert_eq!(error.to_string(), "event store holds corrupt data at position 3");
    assert_eq!(following.try_next().await.unwrap(), None);
}

#[tokio::test]
async fn an_event_that_comes_just_after_the_end_was_reached_is_not_skipped() {
    let store = GatedStore::open();
    append(&store, 3).await;
    store.comes_at.store(2, Ordering::SeqCst);
    let late = FeedFilter::all().event_types([Name::from_static("Late")]);
    let mut following = Follow::new(store.clone()).filter(late).start();
    let event = tokio::time::timeout(Duration::from_secs(10), following.try_next()).await.unwrap().unwrap().unwrap();
    assert_eq!(event.position(), Some(Position::new(4)));
}

#[tokio::test]
async fn a_store_that_is_away_is_waited_for() {
    let store = GatedStore::open();
    append(&store, 2).await;
    store.is_away.store(true, Ordering::SeqCst);
    let mut following = Follow::new(store.clone()).after(Position::new(1)).start();
    let control = following.control();
    let first = tokio::spawn(async move { following.try_next().await });
    until("the trouble is told", async || control.status().trouble.is_some()).await;
    assert_eq!(control.status().trouble.as_deref(), Some("away"));
    store.is_away.store(false, Ordering::SeqCst);
    let event = first.await.unwrap().unwrap().unwrap();
    assert_eq!(event.position(), Some(Position::new(2)));
    assert_eq!(control.status().trouble, None);
}

#[tokio::test(start_paused = true)]
async fn who_follows_an_app_is_told_when_it_is_live() {
    let store = GatedStore::open();
    append(&store, 3).await;
    let app = App::builder().store(store).start().await.unwrap();
    let following = app.follow().start();
    let control = following.control();
    assert!(!control.wait_until_live(Duration::from_millis(20)).await, "no task takes the events");
    let taking = tokio::spawn(following.try_for_each(async |_| Ok(())));
    assert!(control.wait_until_live(Duration::from_secs(10)).await);
    assert_eq!(control.status().position, Position::new(3));
    control.stop();
    taking.await.unwrap().unwrap();
}
