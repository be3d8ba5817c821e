//! How often the readers of a feed ask the store for its head.
//!
//! The clock of tokio is paused: it moves on when all tasks wait.

use std::{sync::atomic::Ordering, time::Duration};

use eventbus::{
    App, ExpectedVersion, Follow, Name, NewEvent, Position, StreamId,
    follow::{FollowControl, Following},
    port::{AppendEvents as _, Leases as _, ReadFeed as _},
    prelude::*,
    relay::RelayError,
    testkit::LossyBus,
};
use futures_util::TryStreamExt as _;

use crate::gated::GatedStore;

const MINUTES: Duration = Duration::from_secs(100);

/// The polls of 100 seconds: each 250 ms, or each 5 s.
const OFTEN: std::ops::RangeInclusive<usize> = 390..=410;
const SELDOM: std::ops::RangeInclusive<usize> = 19..=30;

/// Reads the events of a follower in a task.
fn follow(following: Following) -> FollowControl {
    let control = following.control();
    tokio::spawn(following.try_for_each(async |_| Ok(())));
    control
}

async fn append(store: &GatedStore) -> Position {
    let stream = StreamId::parse("Order", "1").unwrap();
    let event = NewEvent::new(Name::from_static("Noted"), 1, "{}");
    store.append(&stream, ExpectedVersion::Any, vec![event]).await.unwrap()[0].position().unwrap()
}

/// A store that hears the appends of all processes, and has no open append.
fn announcing() -> GatedStore {
    let store = GatedStore::open();
    store.has_no_open_append.store(true, Ordering::SeqCst);
    store.appended().set_hears_all(true);
    store
}

/// Returns the number of polls in [`MINUTES`].
async fn polls(store: &GatedStore) -> usize {
    let before = store.polls.load(Ordering::SeqCst);
    tokio::time::sleep(MINUTES).await;
    store.polls.load(Ordering::SeqCst) - before
}

/// Starts an app without a relay, and a follower of its feed; waits until both are at rest.
async fn followed(store: &GatedStore) -> (App, FollowControl) {
    let app = App::builder().store(store.clone()).without_relay().start().await.unwrap();
    let control = follow(app.follow().start());
    tokio::time::sleep(MINUTES).await;
    (app, control)
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hears_all_appends_is_polled_seldom_while_none_is_open() {
    let store = announcing();
    let control = follow(Follow::new(store.clone()).start());
    tokio::time::sleep(MINUTES).await;
    assert!(SELDOM.contains(&polls(&store).await));
    // the connection to the server is lost
    store.appended().set_hears_all(false);
    assert!(OFTEN.contains(&polls(&store).await));
    // and is back, while an append is open: its roll-back would not be announced
    store.has_no_open_append.store(false, Ordering::SeqCst);
    store.appended().set_hears_all(true);
    assert!(OFTEN.contains(&polls(&store).await));
    store.has_no_open_append.store(true, Ordering::SeqCst);
    tokio::time::sleep(MINUTES).await;
    assert!(SELDOM.contains(&polls(&store).await));
    // an append is found at once
    let position = append(&store).await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(control.status().position, position);
}

#[tokio::test(start_paused = true)]
async fn a_store_with_appends_that_nothing_announces_is_polled_often_for_a_minute() {
    let store = announcing();
    let control = follow(Follow::new(store.clone()).start());
    tokio::time::sleep(MINUTES).await;
    let appended = async |longest| {
        let position = store.gap.fetch_add(1, Ordering::SeqCst) + 1;
        tokio::time::sleep(Duration::from_millis(longest)).await;
        assert_eq!(control.status().position, Position::new(position));
    };
    for _ in 0..3 {
        appended(5_010).await;
        for _ in 0..5 {
            appended(260).await;
        }
        tokio::time::sleep(MINUTES).await;
        assert!(SELDOM.contains(&polls(&store).await));
    }
}

/// Of a reader that polls by itself, and of those that share their polls.
#[tokio::test(start_paused = true)]
async fn an_append_that_is_announced_during_a_poll_is_found_at_once() {
    for is_shared in [false, true] {
        let store = announcing();
        let app = App::builder().store(store.clone()).without_relay().start().await.unwrap();
        let follower = if is_shared { app.follow() } else { Follow::new(store.clone()) };
        let control = follow(follower.start());
        tokio::time::sleep(MINUTES).await;
        let before = control.status().position;
        store.comes_after.store(true, Ordering::SeqCst);
        while store.comes_after.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert_eq!(control.status().position, Position::new(before.get() + 1));
    }
}

#[derive(Default)]
struct Noted(u64);

#[projection(name = "noted while idle", manual)]
impl Noted {
    fn any(&mut self, _event: &RecordedEvent) {
        self.0 += 1;
    }
}

/// Also the relay, and a projection.
#[tokio::test(start_paused = true)]
async fn readers_of_an_app_share_their_polls() {
    for (store, expected) in [(GatedStore::open(), OFTEN), (announcing(), SELDOM)] {
        let app = App::builder().store(store.clone()).projection(Noted::default()).start().await.unwrap();
        let followers: Vec<_> = (0..20).map(|_| follow(app.follow().start())).collect();
        tokio::time::sleep(MINUTES).await;
        let polls = polls(&store).await;
        assert!(expected.contains(&polls), "{polls}");
        let position = append(&store).await;
        assert_eq!(app.projected::<Noted>(position).await.unwrap().0, 1);
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(followers.iter().all(|control| control.status().position == position));
        app.shutdown(Duration::from_secs(10)).await.unwrap();
        // the followers go on by themselves
        let position = append(&store).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(followers.iter().all(|control| control.status().position == position));
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_process_appends_is_published_without_asking_the_store() {
    let store = announcing();
    let app = App::builder().store(store.clone()).bus(LossyBus::new()).start().await.unwrap();
    let publish = async || {
        let published = app.published(append(&store).await);
        tokio::time::timeout(Duration::from_millis(2), published).await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    tokio::time::sleep(MINUTES).await;
    publish().await;
    // a read of the feed would search for ever
    store.finds.store(0, Ordering::SeqCst);
    let before = store.polls.load(Ordering::SeqCst);
    for _ in 0..20 {
        publish().await;
    }
    assert_eq!((store.polls.load(Ordering::SeqCst), store.searching.load(Ordering::SeqCst)), (before, 0));
    // polls go on, however many it appends
    for _ in 0..10_000 {
        publish().await;
    }
    let polls = store.polls.load(Ordering::SeqCst) - before;
    assert!((3..=5).contains(&polls), "{polls} in 20 s");
    // a different process appends at the same time: the task asks the store
    store.finds.store(usize::MAX, Ordering::SeqCst);
    let control = follow(app.follow().start());
    tokio::time::sleep(Duration::from_millis(2)).await;
    store.gap.store(1, Ordering::SeqCst);
    let own = append(&store).await;
    store.appended().notify();
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(control.status().position, Position::new(own.get() + 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_saved_soon_after_a_publication_is_published_together() {
    const GATHER: Duration = Duration::from_millis(100);
    let store = announcing();
    let app = App::builder().store(store.clone()).bus(LossyBus::new()).relay_gather(GATHER);
    let app = app.start().await.unwrap();
    let is_published = async |position, within| {
        tokio::time::timeout(Duration::from_millis(within), app.published(position)).await.is_ok()
    };
    tokio::time::sleep(MINUTES).await;
    for _ in 0..3 {
        assert!(is_published(append(&store).await, 2).await, "the first one after a pause, at once");
        let second = append(&store).await;
        assert!(!is_published(second, 50).await);
        let third = append(&store).await;
        assert!(!is_published(second, 40).await);
        assert!(is_published(third, 20).await);
        tokio::time::sleep(GATHER).await;
    }
    // one that has fallen behind does not wait
    let many = (0..2_000).map(|_| NewEvent::new(Name::from_static("Noted"), 1, "{}")).collect();
    let stream = StreamId::parse("Order", "1").unwrap();
    let last = store.append(&stream, ExpectedVersion::Any, many).await.unwrap().last().unwrap().position().unwrap();
    assert!(is_published(last, 50).await);
}

/// A store with a lower head may be a restored copy, which assigns their positions again.
#[tokio::test(start_paused = true)]
async fn what_was_appended_before_the_head_went_back_is_read_from_the_store() {
    let store = announcing();
    let (_app, _control) = followed(&store).await;
    append(&store).await;
    for gap in [5, 0] {
        store.gap.store(gap, Ordering::SeqCst);
        store.appended().notify();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // who reads the event meets the damage
    store.damaged_at.store(1, Ordering::SeqCst);
    let relay = App::builder().store(store.clone()).bus(LossyBus::new()).start().await.unwrap();
    let mut status = relay.relay_status().await.unwrap();
    while status.position == Position::START && status.stopped.is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
        status = relay.relay_status().await.unwrap();
    }
    assert!(matches!(status.stopped, Some(RelayError::Damaged { .. })), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn an_app_without_readers_does_not_poll() {
    let store = GatedStore::open();
    let (app, control) = followed(&store).await;
    control.stop();
    tokio::time::sleep(MINUTES).await;
    assert_eq!(polls(&store).await, 0);
    // one that comes later finds what was appended meanwhile, and what comes
    let mut position = append(&store).await;
    let control = follow(app.follow().start());
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert_eq!(control.status().position, position);
        position = append(&store).await;
    }
}

/// It asks for the lease, not for the head.
#[tokio::test(start_paused = true)]
async fn a_relay_that_stands_by_does_not_poll() {
    let (store, role, owner) = (GatedStore::open(), Name::from_static("relay:memory"), Name::from_static("other"));
    store.acquire_lease(&role, &owner, Duration::from_secs(3_600)).await.unwrap().unwrap();
    let bus = LossyBus::new();
    let app = App::builder().store(store.clone()).bus(bus).start().await.unwrap();
    // the last reader that has polled
    let control = follow(app.follow().start());
    tokio::time::sleep(MINUTES).await;
    control.stop();
    tokio::time::sleep(MINUTES).await;
    assert_eq!(polls(&store).await, 0);
    assert!(!app.relay_status().await.unwrap().is_owner);
}

#[tokio::test(start_paused = true)]
async fn a_poll_without_an_answer_delays_readers_by_a_second() {
    let store = announcing();
    let (_app, control) = followed(&store).await;
    store.hangs.store(true, Ordering::SeqCst);
    for position in 1..=3 {
        store.gap.store(position, Ordering::SeqCst);
        store.appended().notify();
        tokio::time::sleep(Duration::from_millis(1_010)).await;
        assert_eq!(control.status().position, Position::new(position));
    }
}

#[tokio::test(start_paused = true)]
async fn readers_that_share_their_polls_poll_often_while_events_come() {
    let store = GatedStore::open();
    let (_app, control) = followed(&store).await;
    let found = async |position, longest| {
        store.gap.store(position, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(longest)).await;
        assert_eq!(control.status().position, Position::new(position));
    };
    found(1, 300).await;
    store.gap.store(2, Ordering::SeqCst);
    while control.status().position != Position::new(2) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for position in 3..=10 {
        found(position, 12).await;
    }
}

/// A head may go back while a slow append is under way.
#[tokio::test(start_paused = true)]
async fn a_reader_that_begins_while_the_head_has_gone_back_finds_what_others_have_found() {
    let store = GatedStore::open();
    let app = App::builder().store(store.clone()).without_relay().start().await.unwrap();
    let first = follow(app.follow().start());
    let earlier = append(&store).await;
    let later = Position::new(earlier.get() + 1);
    store.gap.store(1, Ordering::SeqCst);
    tokio::time::sleep(MINUTES).await;
    assert_eq!(first.status().position, later);
    store.gap.store(0, Ordering::SeqCst);
    let second = follow(app.follow().start());
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(first.status().position, later);
    store.gap.store(1, Ordering::SeqCst);
    tokio::time::sleep(MINUTES).await;
    assert_eq!(second.status().position, later);
}

/// Each reader shows the outage, and goes on after it.
#[tokio::test(start_paused = true)]
async fn readers_that_share_their_polls_meet_an_outage_each() {
    let store = announcing();
    let app = App::builder().store(store.clone()).start().await.unwrap();
    let followers: Vec<_> = (0..3).map(|_| follow(app.follow().start())).collect();
    tokio::time::sleep(MINUTES).await;
    store.is_away.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(followers.iter().all(|control| control.status().trouble.is_some()));
    store.is_away.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(followers.iter().all(|control| control.status().trouble.is_none()));
    let position = append(&store).await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert!(followers.iter().all(|control| control.status().position == position));
}
