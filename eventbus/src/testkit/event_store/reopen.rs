//! Rules of stores that are closed and opened again.

use std::time::Duration;

use super::store_under_test::{StoreUnderTest, events, stream, versions};
use crate::{ExpectedVersion, Name, Position, port::EventStore};

/// Events and checkpoints survive reopening; versions and positions continue where they were.
pub async fn events_and_checkpoints_survive_reopening<P, S, O>(place: P, open: O)
where
    P: Clone,
    S: EventStore,
    O: AsyncFn(P) -> S,
{
    let rule = "events_and_checkpoints_survive_reopening";
    let (one, two) = (stream(), stream());
    let reader = Name::from_static("reader");

    let store = StoreUnderTest::new(rule, open(place.clone()).await);
    let mut all = store.add(&one, ExpectedVersion::NoStream, &events(3)).await;
    all.extend(store.add(&two, ExpectedVersion::NoStream, &events(1)).await);
    store.ok(store.save_checkpoint(&reader, 3.into()).await, "saving");
    drop(store);

    for round in 1..=3 {
        let store = StoreUnderTest::new(rule, open(place.clone()).await);
        store.same(&store.feed(Position::START).await, &all, "the feed");
        let checkpoint = store.ok(store.load_checkpoint(&reader).await, "loading");
        store.same(checkpoint, Some(3.into()), "the checkpoint");
        store.conflict(&one, ExpectedVersion::NoStream, 2 + round).await;
        let head = store.head_position().await;
        let next = store.add(&one, ExpectedVersion::Exact((2 + round).into()), &events(1)).await;
        store.same(versions(&next), vec![3 + round], "the next version");
        store.check(next[0].position() > Some(head), "the next event is not after the head");
        all.extend(next);
    }
}

/// An append repeated after reopening, as after a broken connection, returns the first result.
pub async fn repeats_are_known_after_reopening<P, S, O>(place: P, open: O)
where
    P: Clone,
    S: EventStore,
    O: AsyncFn(P) -> S,
{
    let rule = "repeats_are_known_after_reopening";
    let (stream, given) = (stream(), events(2));
    let store = StoreUnderTest::new(rule, open(place.clone()).await);
    let first = store.add(&stream, ExpectedVersion::NoStream, &given).await;
    drop(store);
    let store = StoreUnderTest::new(rule, open(place).await);
    for expected in [ExpectedVersion::NoStream, ExpectedVersion::Any] {
        let again = store.add(&stream, expected, &given).await;
        store.same(&again, &first, format_args!("repeat at {expected}"));
    }
    store.holds(&stream, &first).await;
}

/// Two handles on one store see each other's events, and their appends conflict with each other.
pub async fn two_handles_are_one_store<P, S, O>(place: P, open: O)
where
    P: Clone,
    S: EventStore,
    O: AsyncFn(P) -> S,
{
    let rule = "two_handles_are_one_store";
    let one = StoreUnderTest::new(rule, open(place.clone()).await);
    let two = StoreUnderTest::new(rule, open(place).await);
    let stream = stream();
    let mut all = Vec::new();
    for round in 0..10 {
        let (writer, reader) = if round % 2 == 0 { (&one, &two) } else { (&two, &one) };
        let expected = ExpectedVersion::Exact((round * 2).into());
        all.extend(writer.add(&stream, expected, &events(2)).await);
        reader.conflict(&stream, expected, round * 2 + 2).await;
        reader.holds(&stream, &all).await;
    }
    let writers = one
        .at_once(8, |task| {
            let store = if task % 2 == 0 { one.clone() } else { two.clone() };
            let stream = stream.clone();
            async move {
                for _ in 0..10 {
                    store.add(&stream, ExpectedVersion::Any, &events(1)).await;
                }
            }
        })
        .await;
    one.same(writers.len(), 8, "writers");
    for store in [&one, &two] {
        let stored = versions(&store.read(&stream).await);
        store.same(stored, (1..=100).collect(), "versions at the end");
    }
}

/// The id of a store and its leases survive reopening.
pub async fn delivery_state_survives_reopening<P, S, O>(place: P, open: O)
where
    P: Clone,
    S: EventStore,
    O: AsyncFn(P) -> S,
{
    let rule = "delivery_state_survives_reopening";
    let (role, owner, other) = (Name::from_static("relay"), Name::from_static("one"), Name::from_static("two"));
    let hour = Duration::from_secs(3_600);

    let store = StoreUnderTest::new(rule, open(place.clone()).await);
    let id = store.ok(store.store_id().await, "asking for the id");
    let lease = store.ok(store.seize_lease(&role, &owner, hour).await, "seizing");
    drop(store);

    let store = StoreUnderTest::new(rule, open(place).await);
    store.same(store.ok(store.store_id().await, "asking for the id"), id, "the id of the store");
    store.same(store.ok(store.acquire_lease(&role, &other, hour).await, "acquiring"), None, "a lease that is held");
    store.check(store.ok(store.renew_lease(&lease, hour).await, "renewing"), "the lease is not kept");
    let next = store.ok(store.seize_lease(&role, &other, hour).await, "seizing");
    store.check(next.epoch > lease.epoch, format_args!("epoch {} after {}", next.epoch, lease.epoch));
}

/// Every store has an id of its own.
pub async fn stores_are_told_apart_by_their_ids<S: EventStore>(one: S, two: S) {
    let [one, two] = [one, two].map(|store| StoreUnderTest::new("stores_are_told_apart_by_their_ids", store));
    let id = one.ok(one.store_id().await, "asking for the id");
    one.check(!id.is_nil(), "the id is nil");
    one.same(one.ok(one.store_id().await, "asking for the id"), id, "the id when asked again");
    let other = two.ok(two.store_id().await, "asking for the id");
    two.check(id != other, "two stores have one id");
}
