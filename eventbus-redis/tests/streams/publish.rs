//! Publishing.

use eventbus_redis::{
    RedisCommandError,
    streams::{EventPublishError, StreamEntry},
};
use serde_json::{Value, json};

use crate::rig::{all_entries, connection, orders, streams, typed};

#[tokio::test]
async fn an_entry_has_type_timestamp_and_data_in_this_order() {
    let streams = streams().await;
    let id = streams.publisher().publish("orders", "order.paid", &json!({ "amount": 49.99 })).await.unwrap();
    let all: Vec<(String, Vec<String>)> = typed(&streams, &format!("XRANGE {} - +", orders(&streams))).await;
    let [(found, fields)] = &all[..] else { panic!("{all:?}") };
    assert_eq!(found, id.as_str());
    let [kind, paid, timestamp, time, data, json] = &fields[..] else { panic!("{fields:?}") };
    assert_eq!([kind, paid, timestamp, data, json], ["type", "order.paid", "timestamp", "data", r#"{"amount":49.99}"#]);
    let by_server: i64 = id.as_str().split('-').next().unwrap().parse().unwrap();
    assert!((time.parse::<i64>().unwrap() - by_server).abs() < 60_000, "milliseconds since 1970: {time}");
}

#[tokio::test]
async fn a_maximum_length_is_kept_about() {
    let streams = streams().await;
    let publisher = streams.publisher();
    for n in 0..500 {
        publisher.publish_capped("orders", "order.created", &n, 100).await.unwrap();
    }
    let length: u64 = typed(&streams, &format!("XLEN {}", orders(&streams))).await;
    assert!((100..=300).contains(&length), "{length}");
}

/// Fails without `atomic` in `add_all`: batches of several publishers interleave.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_seen_whole_or_not_at_all_with_nothing_between() {
    const BATCH: usize = 200;
    let streams = streams().await;
    let publish = async |who: u64| {
        let publisher = streams.publisher();
        for number in 0..10 {
            let events = (0..BATCH).map(|_| ("order.created", json!([who, number])));
            assert_eq!(publisher.publish_batch("orders", events).await.unwrap().len(), BATCH);
        }
    };
    let publishing = async {
        tokio::join!(publish(1), publish(2), publish(3));
    };
    let watching = async {
        let (mut connection, key) = (connection(&streams).await, orders(&streams));
        loop {
            let length: usize = redis::cmd("XLEN").arg(&key).query_async(&mut connection).await.unwrap();
            assert_eq!(length % BATCH, 0, "a part of a batch is seen");
            if length == 30 * BATCH {
                break;
            }
        }
    };
    tokio::join!(publishing, watching);
    let all = all_entries(&streams).await;
    for batch in all.chunks(BATCH) {
        let batch: Vec<Value> = batch.iter().map(|entry: &StreamEntry| entry.data().unwrap()).collect();
        assert!(batch.iter().all(|data| *data == batch[0]), "batches are mixed");
    }
}

#[tokio::test]
async fn a_batch_that_cannot_be_encoded_or_is_refused_publishes_nothing() {
    #[derive(serde::Serialize)]
    #[serde(untagged)]
    enum Data {
        Fine(u64),
        Bad(#[serde(serialize_with = "never")] ()),
        Number(f64),
    }
    fn never<S: serde::Serializer>((): &(), _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("no"))
    }
    let streams = streams().await;
    let publisher = streams.publisher();
    let batch = [("order.created", Data::Fine(1)), ("order.paid", Data::Bad(()))];
    let error = publisher.publish_batch("orders", batch).await.unwrap_err();
    assert!(matches!(&error, EventPublishError::Unencodable { event_type, .. } if event_type == "order.paid"));
    let batch = [("order.created", Data::Fine(1)), ("order.paid", Data::Number(f64::NAN))];
    let error = publisher.publish_batch("orders", batch).await.unwrap_err().to_string();
    assert!(error.starts_with("the data of `order.paid` cannot be encoded: not a finite number"), "{error}");
    let exists: u64 = typed(&streams, &format!("EXISTS {}", orders(&streams))).await;
    assert_eq!(exists, 0);
    let _: String = typed(&streams, &format!("SET {} text", orders(&streams))).await;
    let error = publisher.publish_batch("orders", [("a", 1), ("b", 2)]).await.unwrap_err();
    assert!(matches!(error, EventPublishError::Command(RedisCommandError::Refused { .. })), "{error:?}");
    assert!(publisher.publish_batch::<u64>("orders", []).await.unwrap().is_empty());
}
