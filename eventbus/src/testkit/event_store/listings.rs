//! Rules of the listings of streams, checkpoints and leases.

use std::{collections::BTreeMap, time::Duration};

use super::store_under_test::StoreUnderTest;
use crate::{
    ExpectedVersion, Name, NewEvent, Position, StreamId, Uuid, Version,
    port::{
        EventStore, ReadError,
        listings::{ListCursor, Listing, Listings, StreamFilter},
    },
};

fn listings<S: EventStore>(store: &StoreUnderTest<S>) -> &dyn Listings {
    let Some(listings) = store.listings() else { store.fail("the store has no listings") };
    listings
}

/// Reads all pages of a listing.
pub(super) async fn all<S: EventStore, T>(
    store: &StoreUnderTest<S>,
    mut page: impl AsyncFnMut(Option<&ListCursor>) -> Result<Listing<T>, ReadError>,
) -> Vec<T> {
    let (mut items, mut after) = (Vec::new(), None);
    loop {
        let Listing { items: more, next } = store.ok(page(after.as_ref()).await, "a page of a listing");
        store.check(next.is_none() || next != after, "a page ends where it begins");
        items.extend(more);
        match next {
            Some(next) => after = Some(next),
            None => return items,
        }
    }
}

/// Every stream is listed, with its version and the recorded time of its last event; a filter lists only the streams
/// that match.
pub async fn streams_are_listed_page_by_page<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("streams_are_listed_page_by_page", store);
    let tenant = Uuid::from_u128(7);
    let event = || NewEvent::new(Name::from_static("Noted"), 1, "{}");
    let mut wanted = BTreeMap::new();
    for (aggregate_type, id, tenant) in [
        ("Order", "o-1", None),
        ("Order", "o-1", Some(tenant)),
        ("Order:Line", "o-1", None),
        ("Order", "o-10", None),
        ("Order", "o-2:\u{6f22}", None),
        ("Order", "*?[o", Some(tenant)),
        ("Cart%", "p", None),
        ("Cart%", "o-1:feed", Some(tenant)),
    ] {
        let stream = store.ok(StreamId::parse(aggregate_type, id), "a stream").with_tenant_id(tenant);
        let events: Vec<_> = (0..=wanted.len() % 3).map(|_| event()).collect();
        let recorded = store.add(&stream, ExpectedVersion::NoStream, &events).await;
        let last = recorded.last().map(|last| (last.version(), last.metadata().recorded_at()));
        wanted.insert(format!("{stream:?}"), (stream, last));
    }
    let name = Name::from_static;
    let filters = [
        StreamFilter::default(),
        StreamFilter { aggregate_type: Some(name("Order")), ..Default::default() },
        StreamFilter { aggregate_type: Some(name("Order:Line")), ..Default::default() },
        StreamFilter { aggregate_type: Some(name("Nothing")), ..Default::default() },
        StreamFilter { id_prefix: "o-1".into(), ..Default::default() },
        StreamFilter { id_prefix: "*?".into(), ..Default::default() },
        StreamFilter { tenant: Some(tenant), ..Default::default() },
        StreamFilter { tenant: Some(Uuid::nil()), id_prefix: "o".into(), aggregate_type: Some(name("Order")) },
    ];
    for filter in filters {
        let of_filter = wanted.values().filter(|(stream, _)| filter.matches(stream));
        let expected: BTreeMap<_, _> = of_filter.map(|(stream, last)| (format!("{stream:?}"), *last)).collect();
        for limit in [1, 3, 100] {
            let found = all(&store, async |after| listings(&store).list_streams(&filter, after, limit).await).await;
            let found: BTreeMap<_, _> = found
                .into_iter()
                .map(|row| (format!("{:?}", row.stream), Some((row.version, row.recorded_at))))
                .collect();
            store.same(found, expected.clone(), format_args!("pages of {limit} by {filter:?}"));
        }
    }
}

/// A stream that gets a further event is listed once, at its new version.
pub async fn a_stream_is_listed_at_its_last_version<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("a_stream_is_listed_at_its_last_version", store);
    let stream = store.ok(StreamId::parse("Order", "o-1"), "a stream");
    let version = async || {
        let filter = StreamFilter::default();
        let found = all(&store, async |after| listings(&store).list_streams(&filter, after, 10).await).await;
        found.into_iter().map(|row| row.version).collect::<Vec<_>>()
    };
    store.same(version().await, Vec::new(), "an empty store");
    for number in 1..=3_u64 {
        let event = NewEvent::new(Name::from_static("Noted"), 1, "{}");
        store.add(&stream, ExpectedVersion::Any, &[event]).await;
        let newest = version().await.into_iter().max();
        store.same(newest, Some(Version::new(number)), "after an append");
    }
}

/// Checkpoints and leases are listed by the beginnings of their names; a released lease with its last owner.
pub async fn checkpoints_and_leases_are_listed<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("checkpoints_and_leases_are_listed", store);
    let name = Name::from_static;
    for (checkpoint, position) in
        [("projection:b", 3), ("projection:a:checkpoint", 2), ("relay:redis:x", 7), ("plain", 1), ("projection:b", 4)]
    {
        store.ok(store.save_checkpoint(&name(checkpoint), Position::new(position)).await, "saving a checkpoint");
    }
    let expect =
        |pairs: &[(&str, u64)]| pairs.iter().map(|(name, at)| ((*name).to_owned(), *at)).collect::<BTreeMap<_, _>>();
    for (prefix, wanted) in [
        ("projection:", expect(&[("projection:a:checkpoint", 2), ("projection:b", 4)])),
        ("relay:", expect(&[("relay:redis:x", 7)])),
        ("none", expect(&[])),
        ("", expect(&[("plain", 1), ("projection:a:checkpoint", 2), ("projection:b", 4), ("relay:redis:x", 7)])),
    ] {
        for limit in [1, 100] {
            let found = all(&store, async |after| listings(&store).list_checkpoints(prefix, after, limit).await).await;
            let found: BTreeMap<_, _> =
                found.into_iter().map(|row| (row.name.to_string(), row.position.get())).collect();
            store.same(found, wanted.clone(), format_args!("checkpoints that begin with `{prefix}`"));
        }
    }
    let (owner, long) = (name("host:1:abc"), Duration::from_secs(600));
    // a role without a checkpoint
    let held = store.ok(store.acquire_lease(&name("projection:c"), &owner, long).await, "acquiring a lease");
    let ended = store.ok(store.acquire_lease(&name("relay:redis:x"), &owner, long).await, "acquiring a lease");
    let (Some(held), Some(ended)) = (held, ended) else { store.fail("a free lease was not acquired") };
    store.ok(store.release_lease(&ended).await, "releasing a lease");
    for (prefix, wanted) in [
        ("", vec![(held.clone(), true), (ended.clone(), false)]),
        ("projection:", vec![(held, true)]),
        ("relay:", vec![(ended, false)]),
        ("x", Vec::new()),
    ] {
        for limit in [1, 100] {
            let mut found = all(&store, async |after| listings(&store).list_leases(prefix, after, limit).await).await;
            found.sort_by(|one, two| one.lease.role.cmp(&two.lease.role));
            found.dedup_by(|one, two| one.lease.role == two.lease.role);
            let found: Vec<_> = found.into_iter().map(|row| (row.lease, row.is_held)).collect();
            store.same(found, wanted.clone(), format_args!("leases whose roles begin with `{prefix}`"));
        }
    }
}
