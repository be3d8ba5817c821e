//! Rules of the identity of streams.

use uuid::Uuid;

use super::store_under_test::{StoreUnderTest, event, events, versions};
use crate::{
    AggregateId, EventContext, ExpectedVersion, Name, Position, StreamId, Version,
    event::{EventFault, InvalidEvent},
    port::{AppendError, EventStore},
};

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

/// Streams of two tenants, and of none, are streams of their own, also if type and id are the same.
pub async fn tenants_do_not_mix<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("tenants_do_not_mix", store);
    let of_none = store.ok(StreamId::parse("Order", "1"), "naming a stream");
    let [of_one, of_other] = [1, 2].map(|tenant| of_none.clone().with_tenant_id(Some(Uuid::from_u128(tenant))));
    let mut first = store.add(&of_one, ExpectedVersion::NoStream, &events(2)).await;
    let other = store.add(&of_other, ExpectedVersion::NoStream, &events(1)).await;
    let none = store.add(&of_none, ExpectedVersion::NoStream, &events(3)).await;
    store.conflict(&of_other, ExpectedVersion::Exact(2.into()), 1).await;
    first.extend(store.add(&of_one, ExpectedVersion::Exact(2.into()), &events(1)).await);
    for (stream, wanted) in [(&of_one, &first), (&of_other, &other), (&of_none, &none)] {
        store.holds(stream, wanted).await;
        for event in wanted {
            store.same(event.metadata().tenant_id(), stream.tenant_id(), "the tenant of an event");
        }
    }
    let unknown = of_none.with_tenant_id(Some(Uuid::from_u128(3)));
    store.holds(&unknown, &[]).await;
    let by_nil = of_other.clone().with_tenant_id(Some(Uuid::nil()));
    store.holds(&by_nil, &none).await;
}

/// An event whose context names another tenant than that of its stream is refused; a context that names none is not.
pub async fn context_of_another_tenant_is_refused<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("context_of_another_tenant_is_refused", store);
    let [one, other] = [1, 2].map(Uuid::from_u128);
    let of_none = store.ok(StreamId::parse("Order", "1"), "naming a stream");
    let of_one = of_none.clone().with_tenant_id(Some(one));
    for (stream, named) in [(&of_one, other), (&of_none, other)] {
        let given = [event(), event().with_context(EventContext::default().with_tenant(named))];
        let refused = store.refused(stream, ExpectedVersion::Any, &given).await;
        let fault = match &refused {
            AppendError::Refused { source, .. } => source.downcast_ref::<InvalidEvent>().map(|invalid| &invalid.fault),
            _ => None,
        };
        let wanted = EventFault::OtherTenant { named, of_stream: stream.tenant_id() };
        store.same(fault, Some(&wanted), format_args!("{refused}"));
        store.holds(stream, &[]).await;
    }
    let given = [event(), event().with_context(EventContext::default().with_tenant(one))];
    let stored = store.add(&of_one, ExpectedVersion::Exact(Version::NONE), &given).await;
    store.holds(&of_one, &stored).await;
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
