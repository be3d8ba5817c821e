//! The cost of operations on the server: commands, bytes received, bytes sent.

use eventbus::{
    ExpectedVersion, Name, Position, Version,
    event::UniqueChange,
    port::{Append, AppendEvents as _, Direction, FeedFilter, ReadFeed as _, ReadStream as _},
};
use futures_util::TryStreamExt as _;

use crate::{
    append::{append, together},
    client,
    common::{
        cost::{Cost, counters},
        store::{config_on, open},
    },
    event, events, order,
};

#[tokio::test]
async fn an_append_is_one_script_and_a_page_is_sent_once() {
    let server = eventbus_test::private_redis();
    let store = open(config_on(server.url())).await;
    let mut admin = client(server.url()).await;
    let known = order("1");
    store.append(&known, ExpectedVersion::Any, events(1)).await.unwrap();

    let before = counters(&mut admin).await;
    for _ in 0..200 {
        store.append(&known, ExpectedVersion::Any, events(1)).await.unwrap();
    }
    let singles = counters(&mut admin).await;
    // the commands of the script count, and the request for the counters
    singles.assert_at_most(before, Cost { commands: 200 * 9 + 1, bytes_received: 200 * 557, bytes_sent: 200 * 58 });

    for round in 0..10 {
        let append = |number| Append {
            stream: order(&format!("{round}-{number}")),
            expected: ExpectedVersion::NoStream,
            events: events(1),
        };
        let appended = store.append_many((0..100).map(append).collect()).await;
        assert!(appended.iter().all(Result::is_ok));
    }
    let batches = counters(&mut admin).await;
    batches.assert_at_most(
        singles,
        Cost { commands: 1_000 * 5 + 31, bytes_received: 1_000 * 338, bytes_sent: 1_000 * 48 },
    );

    let long = order("long");
    store.append(&long, ExpectedVersion::NoStream, events(1_000)).await.unwrap();
    let before = counters(&mut admin).await;
    let loaded: Vec<_> = store.read_stream(&long, Version::FIRST, Direction::Forward).try_collect().await.unwrap();
    assert_eq!(loaded.len(), 1_000);
    let load = counters(&mut admin).await;
    load.assert_at_most(before, Cost { commands: 88, bytes_received: 9_700, bytes_sent: 1_000 * 278 });

    let head = store.head().await.unwrap();
    let walked: Vec<_> = store.read_feed(Position::START, head, &FeedFilter::all()).try_collect().await.unwrap();
    assert_eq!(walked.len(), 2_201);
    let walk = counters(&mut admin).await;
    // the names of the 1,002 streams, too
    walk.assert_at_most(load, Cost { commands: 1_017, bytes_received: 95_000, bytes_sent: 2_201 * 439 });
}

#[tokio::test]
async fn appends_together_and_appends_with_unique_values_are_one_script() {
    let server = eventbus_test::private_redis();
    let store = open(config_on(server.url())).await;
    let mut admin = client(server.url()).await;
    let transfer = async |number: u64| {
        let appends = ["ada", "bob"].map(|id| append(id, ExpectedVersion::Exact(number.into()), events(1)));
        together(&store, appends).await.unwrap();
    };
    let take = async |number: u64| {
        let change = UniqueChange::new(Name::from_static("email"), Some(format!("{number}@x"))).unwrap();
        let taking = vec![event(1).with_unique(vec![change])];
        store.append(&order("carl"), ExpectedVersion::Any, taking).await.unwrap();
    };
    transfer(0).await;
    take(0).await;
    let before = counters(&mut admin).await;
    for number in 1..=200 {
        transfer(number).await;
    }
    let transferred = counters(&mut admin).await;
    transferred
        .assert_at_most(before, Cost { commands: 200 * 14 + 1, bytes_received: 200 * 935, bytes_sent: 200 * 92 });
    for number in 1..=200 {
        take(number).await;
    }
    let taken = counters(&mut admin).await;
    taken.assert_at_most(transferred, Cost { commands: 200 * 17 + 1, bytes_received: 200 * 800, bytes_sent: 200 * 60 });
}
