//! Rules of following the feed: stored events first, then new ones.

use std::time::Duration;

use futures_util::TryStreamExt as _;

use super::store_under_test::{StoreUnderTest, event, events, positions_grow, stream};
use crate::{
    ExpectedVersion, Follow, Name, Position, RecordedEvent,
    port::{EventStore, FeedFilter},
    runtime::follow::Following,
};

/// Far longer than any store needs to keep up.
const KEEP_UP_TIMEOUT: Duration = Duration::from_secs(30);

/// Takes `count` events.
async fn take<S: EventStore>(store: &StoreUnderTest<S>, following: &mut Following, count: usize) -> Vec<RecordedEvent> {
    let mut events = Vec::with_capacity(count);
    while events.len() < count {
        let next = store.within("the next event", following.try_next()).await;
        match store.ok(next, "following") {
            Some(event) => events.push(event),
            None => store.fail(format_args!("it ended by itself after {} events", events.len())),
        }
    }
    events
}

/// A follower receives the stored events and then the appended ones, each once and in order, also those appended while
/// it reaches the end of the stored events.
pub async fn following_has_no_seam<S: EventStore>(store: S) {
    const BEFORE: usize = 2_500;
    const WRITERS: usize = 4;
    const EACH: usize = 100;
    let store = StoreUnderTest::new("following_has_no_seam", store);
    store.add(&stream(), ExpectedVersion::NoStream, &events(BEFORE)).await;
    let mut following = Follow::new(store.shared_store()).start();
    let writing = store.at_once(WRITERS, |_| {
        let store = store.clone();
        async move {
            let stream = stream();
            for _ in 0..EACH {
                store.add(&stream, ExpectedVersion::Any, &events(1)).await;
            }
        }
    });
    let all = BEFORE + WRITERS * EACH;
    let (seen, _) = tokio::join!(take(&store, &mut following, all), writing);
    store.check(positions_grow(&seen), "positions do not grow");
    store.check(seen == store.feed(Position::START).await, "what was followed is not what is stored");

    let later = store.add(&stream(), ExpectedVersion::NoStream, &events(1)).await;
    store.same(take(&store, &mut following, 1).await, later, "what comes later");
}

/// A follower with a filter receives the matching events only, and its position advances past the rest.
pub async fn following_a_part_keeps_up_with_the_rest<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("following_a_part_keeps_up_with_the_rest", store);
    let stream = stream();
    let deposits = FeedFilter::all().event_types([Name::from_static("Deposited")]);
    let mut following = Follow::new(store.shared_store()).filter(deposits).start();
    let control = following.control();
    for round in 0..3 {
        store.add(&stream, ExpectedVersion::Any, &events(600)).await;
        let deposit = store.add(&stream, ExpectedVersion::Any, &[event()]).await;
        let rest = store.add(&stream, ExpectedVersion::Any, &events(600)).await;
        store.same(take(&store, &mut following, 1).await, deposit, format_args!("deposit {round}"));
        let last = rest.last().and_then(RecordedEvent::position).unwrap_or_default();
        let keeps_up = async {
            while control.status().position < last {
                tokio::task::yield_now().await;
            }
        };
        let no_more = async {
            let more = following.try_next().await;
            store.fail(format_args!("an event that does not match the filter: {more:?}"));
        };
        let kept_up = tokio::time::timeout(KEEP_UP_TIMEOUT, async {
            tokio::select! {
                () = keeps_up => {}
                () = no_more => {}
            }
        });
        store.ok(kept_up.await, format_args!("keeping up with {last} in round {round}"));
    }
}

/// A pause holds back all events, also those already read; after the pause the follower continues where it was. A stop
/// ends it.
pub async fn following_pauses_resumes_and_stops<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("following_pauses_resumes_and_stops", store);
    let recorded = store.add(&stream(), ExpectedVersion::NoStream, &events(5)).await;
    let mut following = Follow::new(store.shared_store()).start();
    let control = following.control();
    store.same(&*take(&store, &mut following, 2).await, &recorded[..2], "before the pause");
    control.pause();
    let more = store.add(&stream(), ExpectedVersion::NoStream, &events(1)).await;
    let held_back = tokio::time::timeout(Duration::from_millis(50), following.try_next()).await;
    store.check(held_back.is_err(), "an event was delivered during the pause");
    control.resume();
    store.same(&*take(&store, &mut following, 3).await, &recorded[2..], "after the pause");
    store.same(take(&store, &mut following, 1).await, more, "what came during the pause");
    control.stop();
    let ended = store.within("the end", following.try_next()).await;
    store.same(store.ok(ended, "ending"), None, "after the stop");
}
