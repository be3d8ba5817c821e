//! Rules of the identity of streams.

use super::store_under_test::{StoreUnderTest, events, versions};
use crate::{AggregateId, ExpectedVersion, Name, Position, StreamId, port::EventStore};

/// Streams of two aggregate types are two streams, also if the aggregates have one id.
pub async fn aggregate_types_do_not_mix<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("aggregate_types_do_not_mix", store);
    let id = AggregateId::new();
    let account = StreamId::new(Name::from_static("Account"), id.clone());
    let owner = StreamId::new(Name::from_static("Owner"), id);
    let mut of_account = store.add(&account, ExpectedVersion::NoStream, &events(2)).await;
    let of_owner = store.add(&owner, ExpectedVersion::NoStream, &events(1)).await;
    of_account.extend(store.add(&account, ExpectedVersion::Exact(2.into()), &events(1)).await);
    store.conflict(&owner, ExpectedVersion::Exact(3.into()), 1).await;
    store.holds(&account, &of_account).await;
    store.holds(&owner, &of_owner).await;
}

/// Any text of 1 to 255 bytes is a key of its own, however it is spelled.
pub async fn natural_keys_are_kept_apart<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("natural_keys_are_kept_apart", store);
    let keys = [
        "x".repeat(255),
        "x".repeat(254),
        format!("{}x", "ü".repeat(127)),
        "🦀".repeat(63),
        "é".into(),
        "e\u{301}".into(),
        "A".into(),
        "a".into(),
        "a ".into(),
        " a".into(),
        "12345".into(),
        "012345".into(),
        "1.0".into(),
        "NULL".into(),
        "%".into(),
        "_".into(),
        "o'brien".into(),
        "o''brien".into(),
        "\"quoted\"".into(),
        "back\\slash".into(),
        "'; DROP TABLE events; --".into(),
        "{a}:b*?[c]".into(),
        "src/main.rs".into(),
        "漢字 ünï \u{200b}".into(),
        "017f22e2-79b0-7cc3-98c4-dc0c0c07398f".into(),
        "017F22E2-79B0-7CC3-98C4-DC0C0C07398F".into(),
    ];
    let mut all = Vec::new();
    for key in &keys {
        let stream = store.ok(StreamId::parse("Account", key), "naming a stream");
        all.extend(store.add(&stream, ExpectedVersion::NoStream, &events(1)).await);
        all.extend(store.add(&stream, ExpectedVersion::Exact(1.into()), &events(1)).await);
    }
    store.same(&store.feed(Position::START).await, &all, "the feed");
    for (key, wanted) in keys.iter().zip(all.chunks(2)) {
        let stream = store.ok(StreamId::parse("Account", key), "naming a stream");
        store.same(&*store.read(&stream).await, wanted, format_args!("key {key}"));
    }
}

/// Aggregate type and id do not run into each other.
pub async fn type_and_id_do_not_run_together<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("type_and_id_do_not_run_together", store);
    for (aggregate_type, id) in
        [("a", "b/c"), ("a/b", "c"), ("a", "b:c"), ("a:b", "c"), ("a", "b-c"), ("a-b", "c"), ("ab", "c"), ("a", "bc")]
    {
        let stream = store.ok(StreamId::parse(aggregate_type, id), "naming a stream");
        let recorded = store.add(&stream, ExpectedVersion::NoStream, &events(2)).await;
        store.same(versions(&recorded), vec![1, 2], format_args!("{aggregate_type}, {id}"));
        store.holds(&stream, &recorded).await;
    }
}
