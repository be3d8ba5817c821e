//! The memory of an event, and the rate of appends beside a plain `XADD`: for information, without limits.
#![allow(clippy::print_stdout, reason = "they are to be seen")]

use std::time::{Duration, Instant};

use eventbus::{
    AggregateId, ExpectedVersion, Name, NewEvent, Position, StreamId,
    port::{Append, AppendEvents as _, ReadFeed as _},
};
use eventstore_redis::RedisEventStore;
use futures_util::TryStreamExt as _;
use redis::aio::MultiplexedConnection;
use tokio::task::JoinSet;

use crate::{
    client,
    common::store::{config_on, open},
    tell,
};

/// 100 bytes, about the size of an event of a shop.
const DATA: &str =
    r#"{"customer_id":"cust_001","items":[{"sku":"WIDGET-01","qty":2},{"sku":"GADGET-07","qty":1}],"cents":4999}"#;

fn event() -> NewEvent {
    NewEvent::new(Name::from_static("OrderCreated"), 1, DATA)
}

fn stream() -> StreamId {
    StreamId::new(Name::from_static("Order"), AggregateId::new())
}

async fn used(connection: &mut MultiplexedConnection) -> u64 {
    let info: String = tell(connection, &["INFO", "memory"]).await;
    let used = info.lines().find_map(|line| line.trim().strip_prefix("used_memory_dataset:"));
    used.unwrap().parse().unwrap()
}

async fn add(store: &RedisEventStore, streams: usize, each: usize) {
    let all: Vec<_> = (0..streams).map(|_| stream()).collect();
    for _ in 0..each {
        let append = |stream: &StreamId| Append {
            stream: stream.clone(),
            expected: ExpectedVersion::Any,
            events: vec![event()],
        };
        for result in store.append_many(all.iter().map(append).collect()).await {
            result.unwrap();
        }
    }
}

#[tokio::test]
#[ignore = "figures"]
async fn memory_of_an_event() {
    for node_bytes in ["4096", "512"] {
        for (streams, each) in [(20_000, 1), (2_000, 10), (200, 100), (20, 1_000)] {
            let server = eventbus_test::private_redis_with(&["--stream-node-max-bytes", node_bytes]);
            let store = open(config_on(server.url())).await;
            let mut connection = client(server.url()).await;
            let before = used(&mut connection).await;
            add(&store, streams, each).await;
            let all = used(&mut connection).await - before;
            let of = async |connection: &mut MultiplexedConnection, name: &str| -> u64 {
                let key = crate::key(&store, name);
                tell::<u64>(connection, &["MEMORY", "USAGE", &key, "SAMPLES", "0"]).await / (streams * each) as u64
            };
            let (ids, feed) =
                (of(&mut connection, "eventstore:ids").await, of(&mut connection, "aggregate:feed").await);
            println!(
                "nodes of {node_bytes} B, {streams} streams of {each}: {} B an event with {} B of data (ids {ids}, feed {feed})",
                all / (streams * each) as u64,
                DATA.len(),
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures"]
async fn appends_beside_plain_additions() {
    const TIME: Duration = Duration::from_secs(3);
    for arguments in [["--appendfsync", "no"], ["--appendfsync", "everysec"], ["--appendfsync", "always"]] {
        let server = eventbus_test::private_redis_with(&arguments);
        let store = open(config_on(server.url())).await;
        let connection = client(server.url()).await;
        for callers in [1, 32, 256] {
            let (mut plain, mut ours) = (0, 0);
            for is_ours in [false, true, false, true] {
                let mut tasks = JoinSet::new();
                for _ in 0..callers {
                    let (store, mut connection, stream) = (store.clone(), connection.clone(), stream());
                    tasks.spawn(async move {
                        let (end, mut done, key) = (Instant::now() + TIME, 0_u64, format!("plain:{stream}"));
                        while Instant::now() < end {
                            if is_ours {
                                store
                                    .append(&stream, ExpectedVersion::Exact(done.into()), vec![event()])
                                    .await
                                    .unwrap();
                            } else {
                                let words = ["XADD", &key, "*", "type", "OrderCreated", "data", DATA, "timestamp", "1"];
                                tell::<String>(&mut connection, &words).await;
                            }
                            done += 1;
                        }
                        done
                    });
                }
                let all: u64 = tasks.join_all().await.into_iter().sum();
                *(if is_ours { &mut ours } else { &mut plain }) += all / TIME.as_secs() / 2;
            }
            println!(
                "{arguments:?}, {callers} callers: {ours} appends/s, {plain} XADD/s, ratio 1:{:.1}",
                plain as f64 / ours as f64
            );
        }
        let began = Instant::now();
        add(&store, 100, 100).await;
        println!("{arguments:?}: {:.0} events/s with append_many", 10_000.0 / began.elapsed().as_secs_f64());
        let began = Instant::now();
        let all: Vec<_> = store.read_all(Position::START).try_collect().await.unwrap();
        println!("{arguments:?}: {:.0} events/s read from the feed", all.len() as f64 / began.elapsed().as_secs_f64());
    }
}
