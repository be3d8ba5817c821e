//! Listings of rows that no append or save wrote as a listing shows them.

use std::time::Duration;

use crate::common::{TestSchema, add, events, run, stream};
use eventbus::{
    ExpectedVersion, Name, Position, StreamId,
    port::{
        Append, Checkpoints as _, Leases as _, MultiStreamAppends as _, ReadError,
        listings::{Listing, Listings as _, StreamFilter},
    },
    store::MultiStreamAppend,
};

/// Returns the row that the error of a listing names.
fn corrupt_row<T>(listed: Result<Listing<T>, ReadError>) -> String {
    match listed {
        Err(ReadError::Corrupt { place, .. }) => place,
        Err(other) => panic!("not corrupt but {other:?}"),
        Ok(listing) => panic!("{} rows", listing.items.len()),
    }
}

#[tokio::test]
async fn a_stream_that_was_only_checked_to_be_absent_is_not_listed() {
    let schema = TestSchema::new();
    let store = schema.store().await;
    let (checked, filled) = (stream(), stream());
    let expected = ExpectedVersion::NoStream;
    let append = |stream: &StreamId, count| Append { stream: stream.clone(), expected, events: events(count) };
    let appends = vec![append(&checked, 0), append(&filled, 1)];
    let appends = MultiStreamAppend { appends, ..Default::default() };
    store.append_streams(appends).await.unwrap();
    let listed = async || {
        let listing = store.list_streams(&StreamFilter::default(), None, 10).await.unwrap();
        listing.items.into_iter().map(|row| row.stream).collect::<Vec<_>>()
    };
    assert_eq!(listed().await, [filled]);
    add(&store, &checked, 1).await;
    assert_eq!(listed().await.len(), 2);
}

/// An operator may write a lease that no process gets, by a time that no clock reaches.
#[tokio::test]
async fn a_lease_for_ever_is_listed_and_other_times_out_of_range_name_their_rows() {
    let schema = TestSchema::new();
    let (store, stream) = (schema.store().await, stream());
    let (role, owner) = (Name::from_static("relay:main"), Name::from_static("operator"));
    add(&store, &stream, 1).await;
    store.save_checkpoint(&role, Position::new(1)).await.unwrap();
    store.acquire_lease(&role, &owner, Duration::from_secs(600)).await.unwrap().unwrap();
    let sql = "UPDATE leases SET expires_at = 'infinity';
               UPDATE checkpoints SET updated_at = '-infinity';
               UPDATE streams SET recorded_at = '20000-01-01'";
    run(&mut schema.connection().await, sql).await;
    let leases = store.list_leases("", None, 10).await.unwrap().items;
    assert!(matches!(&leases[..], [lease] if lease.is_held && lease.expires_at.is_none()), "{leases:?}");
    assert_eq!(corrupt_row(store.list_checkpoints("", None, 10).await), "checkpoint `relay:main`");
    let streams = store.list_streams(&StreamFilter::default(), None, 10).await;
    assert_eq!(corrupt_row(streams), format!("the row of stream `{}`", stream.aggregate_id()));
}
