//! Rules of snapshots.

use futures_util::{StreamExt as _, TryStreamExt as _};
use uuid::Uuid;

use super::store_under_test::{StoreUnderTest, event, events, stream, versions};
use crate::{
    ExpectedVersion, Name, NewEvent, RecordedEvent, StreamId, Version,
    domain::name::MAX_NAME_BYTES,
    port::{EventStore, Snapshots, StoredSnapshot},
};

const FOLD: Name = Name::from_static("Balance");
const OTHER_FOLD: Name = Name::from_static("Balance:\u{6f22}/1:*?[a]");

fn snapshot(version: u64, data: impl Into<Vec<u8>>) -> StoredSnapshot {
    StoredSnapshot { version: version.into(), data: data.into() }
}

fn snapshots<S: EventStore>(store: &StoreUnderTest<S>) -> &dyn Snapshots {
    store.snapshots().unwrap_or_else(|| store.fail("the store has no snapshots"))
}

/// Saves a snapshot; returns `true` if the store kept it.
async fn save<S: EventStore>(
    store: &StoreUnderTest<S>,
    stream: &StreamId,
    fold: &Name,
    snapshot: &StoredSnapshot,
) -> bool {
    let saved = snapshots(store).save_snapshot(stream, fold, snapshot).await;
    store.ok(saved, format_args!("saving the snapshot of {stream} at {}", snapshot.version))
}

/// Saves a snapshot that must be kept.
async fn keep<S: EventStore>(store: &StoreUnderTest<S>, stream: &StreamId, fold: &Name, snapshot: &StoredSnapshot) {
    let kept = save(store, stream, fold, snapshot).await;
    store.check(kept, format_args!("the snapshot of {stream} for {fold} at {} is not kept", snapshot.version));
}

async fn read<S: EventStore>(
    store: &StoreUnderTest<S>,
    stream: &StreamId,
    fold: &Name,
) -> (Option<StoredSnapshot>, Vec<RecordedEvent>) {
    let read = snapshots(store).read_from_snapshot(stream, fold).await;
    let read = store.ok(read, format_args!("reading {stream} from a snapshot"));
    let events = store.collect(&format!("reading {stream} after a snapshot"), read.events).await;
    (read.snapshot, events)
}

/// Checks what a read from the snapshot of a stream returns.
async fn reads<S: EventStore>(
    store: &StoreUnderTest<S>,
    stream: &StreamId,
    fold: &Name,
    wanted: Option<&StoredSnapshot>,
    all: &[RecordedEvent],
) {
    let (found, events) = read(store, stream, fold).await;
    store.same(found.as_ref(), wanted, format_args!("the snapshot of {stream} for {fold}"));
    let after = wanted.map_or(0, |snapshot| snapshot.version.get() as usize);
    store.same(&*events, &all[after..], format_args!("the events of {stream} after version {after}"));
}

/// A read returns the snapshot byte for byte, whichever version it is of, and exactly the events after it.
pub async fn snapshot_is_read_back_with_the_events_after_it<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("snapshot_is_read_back_with_the_events_after_it", store);
    store.add(&stream(), ExpectedVersion::NoStream, &events(9)).await;
    let bytes: Vec<u8> = (0..=u8::MAX).chain(*b"\0'\"\\\r\n\xff\xfe{}").collect();
    for version in 1..=5 {
        let stream = stream();
        let mut all = store.add(&stream, ExpectedVersion::NoStream, &events(5)).await;
        let kept = snapshot(version, &bytes[version as usize..]);
        keep(&store, &stream, &FOLD, &kept).await;
        reads(&store, &stream, &FOLD, Some(&kept), &all).await;
        all.extend(store.add(&stream, ExpectedVersion::Any, &events(2)).await);
        reads(&store, &stream, &FOLD, Some(&kept), &all).await;
        store.same(store.read(&stream).await, all, "a read without the snapshot");
    }
}

/// Data of any size comes back as it was saved, also when data of another size replaces it.
pub async fn snapshots_of_any_size_are_kept<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("snapshots_of_any_size_are_kept", store);
    let stream = stream();
    let all = store.add(&stream, ExpectedVersion::NoStream, &events(6)).await;
    // numbers without a pattern, so that no server stores fewer bytes
    let mut number = 1_u64;
    let large = std::iter::repeat_with(|| {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (number >> 33) as u8
    });
    let large: Vec<u8> = large.take(2 * 1024 * 1024).collect();
    for (version, data) in [(1, &large[..0]), (2, &large[..1]), (3, &large), (4, &large[..70_000]), (5, &large[..0])] {
        let kept = snapshot(version, data);
        keep(&store, &stream, &FOLD, &kept).await;
        let (found, events) = read(&store, &stream, &FOLD).await;
        store.check(found == Some(kept), format_args!("a snapshot of {} bytes is read back otherwise", data.len()));
        store.same(&*events, &all[version as usize..], format_args!("the events after version {version}"));
    }
}

/// A snapshot replaces one of an older version; one of the same or an older version changes nothing.
pub async fn newer_snapshot_replaces_an_older_one<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("newer_snapshot_replaces_an_older_one", store);
    let stream = stream();
    let all = store.add(&stream, ExpectedVersion::NoStream, &events(300)).await;
    let mut kept = snapshot(2, "two");
    keep(&store, &stream, &FOLD, &kept).await;
    for (version, is_newer) in
        [(2, false), (1, false), (9, true), (9, false), (8, false), (10, true), (300, true), (99, false)]
    {
        let next = snapshot(version, format!("version {version}"));
        let is_kept = save(&store, &stream, &FOLD, &next).await;
        store.same(is_kept, is_newer, format_args!("whether version {version} replaces {}", kept.version));
        if is_newer {
            kept = next;
        }
        reads(&store, &stream, &FOLD, Some(&kept), &all).await;
    }
}

/// Each fold of each stream of each tenant has its own snapshot.
pub async fn snapshots_of_folds_streams_and_tenants_are_independent<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("snapshots_of_folds_streams_and_tenants_are_independent", store);
    let one = stream();
    let parse = |of_type: &str, id: &str| store.ok(StreamId::parse(of_type, id), "a stream");
    let streams = [
        one.clone(),
        one.clone().with_tenant_id(Some(Uuid::from_u128(1))),
        one.clone().with_tenant_id(Some(Uuid::from_u128(2))),
        stream(),
        parse("Order", one.aggregate_id().as_str()),
        // names that are equal once their parts are joined to a key
        parse("Account", "a:b"),
        parse("Account:a", "b"),
        parse("Account", "a"),
    ];
    let long = store.ok(Name::new("fold", "\u{e9}".repeat(MAX_NAME_BYTES / 2)), "a long name");
    let folds = [FOLD, OTHER_FOLD, long, Name::from_static("b:Balance"), Name::from_static("balance")];
    let mut all = Vec::new();
    for stream in &streams {
        all.push(store.add(stream, ExpectedVersion::NoStream, &events(3)).await);
    }
    for (stream, all) in streams.iter().zip(&all) {
        for fold in &folds {
            reads(&store, stream, fold, None, all).await;
            keep(&store, stream, fold, &snapshot(2, format!("{stream} {fold}"))).await;
        }
    }
    for (stream, all) in streams.iter().zip(&all) {
        for fold in &folds {
            reads(&store, stream, fold, Some(&snapshot(2, format!("{stream} {fold}"))), all).await;
        }
    }
}

/// A snapshot of a version that its stream does not have is refused.
pub async fn snapshot_beyond_its_stream_is_refused<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("snapshot_beyond_its_stream_is_refused", store);
    let (stream, missing) = (stream(), stream());
    let mut all = store.add(&stream, ExpectedVersion::NoStream, &events(3)).await;
    let none = snapshot(Version::NONE.get(), "none");
    for (stream, all, from) in [(&stream, &*all, 4), (&missing, &[], 1)] {
        for version in [0, from, from + 1, i64::MAX as u64, u64::MAX] {
            let is_kept = save(&store, stream, &FOLD, &snapshot(version, "beyond")).await;
            store.check(!is_kept, format_args!("{stream} has no version {version}, and a snapshot of it is kept"));
            reads(&store, stream, &FOLD, None, all).await;
        }
    }
    // beside a snapshot
    let kept = snapshot(3, "three");
    keep(&store, &stream, &FOLD, &kept).await;
    for beyond in [&none, &snapshot(4, "four")] {
        store.check(!save(&store, &stream, &FOLD, beyond).await, "a snapshot beyond the stream replaces a good one");
    }
    reads(&store, &stream, &FOLD, Some(&kept), &all).await;
    all.extend(store.add(&stream, ExpectedVersion::Any, &[event()]).await);
    keep(&store, &stream, &FOLD, &snapshot(4, "four")).await;
    reads(&store, &stream, &FOLD, Some(&snapshot(4, "four")), &all).await;
}

/// A removed snapshot is gone, and no other snapshot; after that the store keeps a snapshot of any version.
pub async fn removed_snapshot_is_gone<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("removed_snapshot_is_gone", store);
    let (one, other) = (stream(), stream());
    let all = store.add(&one, ExpectedVersion::NoStream, &events(3)).await;
    let all_of_other = store.add(&other, ExpectedVersion::NoStream, &events(3)).await;
    let kept = snapshot(3, "three");
    for (stream, fold) in [(&one, &FOLD), (&one, &OTHER_FOLD), (&other, &FOLD)] {
        keep(&store, stream, fold, &kept).await;
    }
    for was_there in [true, false] {
        let removed = snapshots(&store).remove_snapshot(&one, &FOLD).await;
        store.same(store.ok(removed, "removing a snapshot"), was_there, "whether there was a snapshot");
        reads(&store, &one, &FOLD, None, &all).await;
    }
    let removed = snapshots(&store).remove_snapshot(&stream(), &FOLD).await;
    store.check(!store.ok(removed, "removing of a missing stream"), "a missing stream had a snapshot");
    reads(&store, &one, &OTHER_FOLD, Some(&kept), &all).await;
    reads(&store, &other, &FOLD, Some(&kept), &all_of_other).await;
    let older = snapshot(1, "one");
    keep(&store, &one, &FOLD, &older).await;
    reads(&store, &one, &FOLD, Some(&older), &all).await;
}

/// The snapshots of one fold, of every stream and tenant, are removed together and counted; those of other folds stay.
pub async fn snapshots_of_a_fold_are_removed_together<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("snapshots_of_a_fold_are_removed_together", store);
    // more than one batch of any store
    let streams: Vec<_> = (0_u128..1_100)
        .map(|number| stream().with_tenant_id((number % 3 == 0).then(|| Uuid::from_u128(number))))
        .collect();
    for some in streams.chunks(100) {
        let append = |stream: &StreamId| crate::port::Append {
            stream: stream.clone(),
            expected: ExpectedVersion::NoStream,
            events: vec![event()],
        };
        for result in store.append_many(some.iter().map(append).collect()).await {
            store.ok(result, "an append");
        }
    }
    let wanted = snapshot(1, "one");
    for (number, stream) in streams.iter().enumerate() {
        keep(&store, stream, &FOLD, &wanted).await;
        if number % 10 == 0 {
            keep(&store, stream, &OTHER_FOLD, &wanted).await;
        }
    }
    for (fold, there) in [(&Name::from_static("Balanc"), 0), (&FOLD, 1_100), (&FOLD, 0)] {
        let removed = snapshots(&store).remove_snapshots(fold).await;
        store.same(store.ok(removed, "removing the snapshots"), there, format_args!("the removed snapshots of {fold}"));
    }
    for stream in streams.iter().step_by(50) {
        let (found, events) = read(&store, stream, &FOLD).await;
        store.same((found, events.len()), (None, 1), "after the removal");
        let (found, events) = read(&store, stream, &OTHER_FOLD).await;
        store.same((found, events.len()), (Some(wanted.clone()), 0), "a snapshot of the other fold");
    }
    let removed = snapshots(&store).remove_snapshots(&OTHER_FOLD).await;
    store.same(store.ok(removed, "removing the snapshots"), 110, "the removed snapshots of the other fold");
}

/// A stream without a snapshot is read whole, however long; one without events is empty.
pub async fn stream_without_a_snapshot_is_read_whole<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("stream_without_a_snapshot_is_read_whole", store);
    let (short, long, missing) = (stream(), stream(), stream());
    let all_of_short = store.add(&short, ExpectedVersion::NoStream, &events(2)).await;
    let mut all = Vec::new();
    for _ in 0..5 {
        all.extend(store.add(&long, ExpectedVersion::Any, &events(500)).await);
    }
    keep(&store, &short, &OTHER_FOLD, &snapshot(1, "of the other fold")).await;
    for (stream, all) in [(&short, &*all_of_short), (&long, &*all), (&missing, &[])] {
        reads(&store, stream, &FOLD, None, all).await;
    }
}

/// The events after a snapshot are read page by page, also large ones; a reader paused in the middle blocks no writer.
pub async fn long_streams_are_read_after_a_snapshot<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("long_streams_are_read_after_a_snapshot", store);
    let (long, large) = (stream(), stream());
    let mut all = Vec::new();
    for _ in 0..6 {
        all.extend(store.add(&long, ExpectedVersion::Any, &events(500)).await);
    }
    for version in [1, 499, 1_000, 2_744, 2_999, 3_000] {
        let kept = snapshot(version, format!("version {version}"));
        keep(&store, &long, &FOLD, &kept).await;
        reads(&store, &long, &FOLD, Some(&kept), &all).await;
    }
    keep(&store, &long, &OTHER_FOLD, &snapshot(3, "three")).await;
    let read = snapshots(&store).read_from_snapshot(&long, &OTHER_FOLD).await;
    let mut open = store.ok(read, "reading from a snapshot").events;
    let mut read = vec![store.ok(open.next().await.transpose(), "the first event")];
    let append = store.append(&long, ExpectedVersion::Exact(3_000.into()), events(3));
    all.extend(store.ok(store.within("append beside an open read", append).await, "append beside an open read"));
    keep(&store, &long, &OTHER_FOLD, &snapshot(3_003, "all")).await;
    let rest: Vec<_> = store.ok(open.try_collect().await, "the rest");
    read.extend(rest.into_iter().map(Some));
    let read: Vec<_> = read.into_iter().flatten().collect();
    store.check(read.len() >= 2_997, format_args!("the reader saw {} of 2,997 events", read.len()));
    store.same(&*read, &all[3..read.len() + 3], "the events after the snapshot");

    let payload = format!(r#"{{"text":"{}"}}"#, "x".repeat(300 * 1024));
    let of_size = || NewEvent::new(Name::from_static("Imported"), 1, payload.clone());
    let mut all = Vec::new();
    for _ in 0..9 {
        all.extend(store.add(&large, ExpectedVersion::Any, &[of_size()]).await);
    }
    let kept = snapshot(2, vec![7; 1024 * 1024]);
    keep(&store, &large, &FOLD, &kept).await;
    let (found, events) = self::read(&store, &large, &FOLD).await;
    store.check(found == Some(kept), "the snapshot before large events is read back otherwise");
    store.check(events == all[2..], "the large events after a snapshot are read otherwise");
}

/// Of concurrent savers the one with the highest version prevails.
pub async fn concurrent_savers_leave_the_highest_version<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("concurrent_savers_leave_the_highest_version", store);
    for round in 0..8 {
        let stream = stream();
        let all = store.add(&stream, ExpectedVersion::NoStream, &events(64)).await;
        let kept = store
            .at_once(16, |number| {
                let (store, stream) = (store.clone(), stream.clone());
                async move {
                    let mut kept = Vec::new();
                    for step in 0..4 {
                        let version = 1 + (number * 7 + step * 29 + round) as u64 % 64;
                        if save(&store, &stream, &FOLD, &snapshot(version, version.to_string())).await {
                            kept.push(version);
                        }
                    }
                    kept
                }
            })
            .await;
        let mut kept: Vec<_> = kept.into_iter().flatten().collect();
        kept.sort_unstable();
        let tried = (0..16).flat_map(|number| (0..4).map(move |step| 1 + (number * 7 + step * 29 + round) as u64 % 64));
        let highest = tried.max().unwrap_or_default();
        store.same(kept.last().copied(), Some(highest), "the highest version that was kept");
        reads(&store, &stream, &FOLD, Some(&snapshot(highest, highest.to_string())), &all).await;
        kept.dedup_by(|later, former| later == former && store.fail(format_args!("version {later} was kept twice")));
    }
}

/// While writers append and save snapshots, a reader finds a snapshot and all events after it, up to a version that the
/// stream has had.
pub async fn snapshots_are_read_beside_writers<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("snapshots_are_read_beside_writers", store);
    let stream = stream();
    store.add(&stream, ExpectedVersion::NoStream, &[event()]).await;
    keep(&store, &stream, &FOLD, &snapshot(1, "1")).await;
    let writers: Vec<_> = (0..2)
        .map(|_| {
            let (store, stream) = (store.clone(), stream.clone());
            tokio::spawn(async move {
                for _ in 0..100 {
                    let appended = store.add(&stream, ExpectedVersion::Any, &events(2)).await;
                    let version = appended[1].version().get();
                    save(&store, &stream, &FOLD, &snapshot(version, version.to_string())).await;
                }
            })
        })
        .collect();
    let mut former = Version::NONE;
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        let (found, events) = read(&store, &stream, &FOLD).await;
        let Some(found) = found else { store.fail("the snapshot was absent beside writers") };
        store.same(found.data, found.version.to_string().into_bytes(), "the data of another version");
        let after = (found.version.get() + 1..).take(events.len()).collect();
        store.same(versions(&events), after, "the events after the snapshot");
        let last = found.version.plus(events.len());
        store.check(last >= former, format_args!("a read ended at {last}, after one that ended at {former}"));
        former = last;
    }
    for writer in writers {
        store.ok(writer.await, "a writer");
    }
    let (found, events) = read(&store, &stream, &FOLD).await;
    store.same((found, events.len()), (Some(snapshot(401, "401")), 0), "at the end");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{FOLD, event, snapshot, stream};
    use crate::{
        ExpectedVersion, InMemoryEventStore,
        port::{AppendEvents as _, EventStore, Snapshots},
        testkit::{FaultyStore, TableStore, delegate},
    };

    /// A store without snapshots: its `snapshots` has the body that the port provides.
    struct WithoutSnapshots(InMemoryEventStore);

    delegate!(WithoutSnapshots, self => self.0; AppendEvents, ReadStream, ReadFeed, Checkpoints, Leases);

    impl EventStore for WithoutSnapshots {}

    #[test]
    fn store_has_no_snapshots_unless_it_says_so() {
        assert!(WithoutSnapshots(InMemoryEventStore::new()).snapshots().is_none());
        assert!(Arc::new(WithoutSnapshots(InMemoryEventStore::new())).snapshots().is_none());
        assert!(FaultyStore::new(WithoutSnapshots(InMemoryEventStore::new())).snapshots().is_none());
    }

    #[tokio::test]
    async fn wrappers_pass_on_the_snapshots_of_their_store() {
        let (store, stream) = (InMemoryEventStore::new(), stream());
        store.append(&stream, ExpectedVersion::NoStream, vec![event()]).await.unwrap();
        let kept = snapshot(1, "one");
        store.save_snapshot(&stream, &FOLD, &kept).await.unwrap();
        let wrappers: [Arc<dyn EventStore>; 3] = [
            Arc::new(Arc::new(store.clone())),
            Arc::new(FaultyStore::new(store.clone())),
            Arc::new(FaultyStore::new(Arc::new(store))),
        ];
        for wrapper in wrappers {
            let read = wrapper.snapshots().unwrap().read_from_snapshot(&stream, &FOLD).await.unwrap();
            assert_eq!(read.snapshot.as_ref(), Some(&kept));
        }
        assert!(TableStore::default().snapshots().is_some());
    }
}
