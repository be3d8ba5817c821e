//! The cost of operations on the server: commands, bytes received, bytes sent.

use eventbus::{
    ExpectedVersion, Position, Version,
    port::{Append, AppendEvents as _, Direction, FeedFilter, ReadFeed as _, ReadStream as _},
};
use futures_util::TryStreamExt as _;

use crate::{
    client,
    common::{
        cost::{Cost, counters},
        store::{config_on, open},
    },
    events, order,
};

#[tokio::test]
async fn an_append_is_one_script_and_a_page_is_sent_once() {
    let server = test_servers::private_redis();
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
