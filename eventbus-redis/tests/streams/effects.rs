//! The effects that handlers of a projection can write.

use eventbus_redis::streams::{Effects, EventProjection, RedisStreams, StreamProjectionError};
use serde_json::{Value, json};

use crate::rig::{config_on, order_stats, publish_orders, stats_key, streams, typed};

/// Writes with every command, the keys called like the statistics.
fn everything(streams: &RedisStreams) -> EventProjection {
    let stem = stats_key(streams);
    order_stats(streams).on("order.created", move |order: Value, effects: &mut Effects| {
        let (id, key) = (order["order_id"].as_str().unwrap_or("none"), |what: &str| format!("{stem}:{what}"));
        effects.hincrby(&key("hash"), "count", 1);
        effects.hincrbyfloat(&key("hash"), "value", 0.5);
        effects.hset(&key("hash"), "last", id);
        effects.hset(&key("hash"), "gone", id);
        effects.hdel(&key("hash"), "gone");
        effects.set(&key("text"), id);
        effects.incrby(&key("number"), 2);
        effects.set(&key("gone"), id);
        effects.del(&key("gone"));
        effects.sadd(&key("set"), id);
        effects.srem(&key("set"), "1");
        effects.zadd(&key("sorted"), id, 1.5);
        effects.zincrby(&key("sorted"), "all", 1.0);
        effects.zrem(&key("sorted"), "1");
        effects.lpush(&key("latest"), id);
        effects.ltrim(&key("latest"), 0, 1);
        effects.rpush(&key("log"), id);
    })
}

/// The values of all keys that it has written.
async fn written(streams: &RedisStreams) -> Vec<Vec<String>> {
    let stem = stats_key(streams);
    let asked = ["HGETALL :hash", "GET :text", "GET :number", "EXISTS :gone", "SMEMBERS :set"];
    let lists = ["ZRANGE :sorted 0 -1 WITHSCORES", "LRANGE :latest 0 -1", "LRANGE :log 0 -1"];
    let mut all = Vec::new();
    for ask in asked.into_iter().chain(lists) {
        let reply = typed::<redis::Value>(streams, &ask.replace(':', &format!("{stem}:"))).await;
        let mut reply = match reply {
            redis::Value::Array(_) | redis::Value::Set(_) => redis::from_redis_value(reply).unwrap(),
            one => vec![redis::from_redis_value::<String>(one).unwrap()],
        };
        if ask.starts_with('S') {
            reply.sort();
        }
        all.push(reply);
    }
    all
}

/// Fails if a command writes to the live key in a rebuild, or is not undone with the rest.
#[tokio::test]
async fn every_command_writes_the_same_live_and_in_a_rebuild_and_is_undone_with_the_others() {
    let streams = streams().await;
    publish_orders(&streams, 4).await;
    everything(&streams).catch_up().await.unwrap();
    let expected: [&[&str]; 8] = [
        &["count", "4", "value", "2", "last", "3"],
        &["3"],
        &["8"],
        &["0"],
        &["0", "2", "3"],
        &["0", "1.5", "2", "1.5", "3", "1.5", "all", "4"],
        &["3", "2"],
        &["0", "1", "2", "3"],
    ];
    assert_eq!(written(&streams).await, expected);
    assert_eq!(everything(&streams).rebuild(|_| {}).await.unwrap().processed, 4);
    assert_eq!(written(&streams).await, expected);

    streams.publisher().publish("orders", "order.odd", &json!({ "order_id": "odd" })).await.unwrap();
    let stem = stats_key(&streams);
    let odd = everything(&streams).on("order.odd", move |_: Value, effects| {
        let key = |what: &str| format!("{stem}:{what}");
        effects.incrby(&key("number"), 5);
        effects.zrem(&key("sorted"), "all");
        effects.lpush(&key("latest"), "odd");
        effects.ltrim(&key("latest"), 0, 0);
        effects.rpush(&key("log"), "odd");
        effects.rpush(&key("hash"), "odd");
    });
    let error = odd.catch_up().await.unwrap_err();
    assert!(matches!(&error, StreamProjectionError::Effect { command, .. } if command == "RPUSH"), "{error:?}");
    assert_eq!(written(&streams).await, expected);
}

/// Fails if one script writes all entries of a large page: the server is blocked meanwhile.
#[tokio::test]
async fn much_is_written_in_several_steps() {
    let server = eventbus_test::private_redis();
    let streams = RedisStreams::connect(config_on(server.url())).await.unwrap();
    publish_orders(&streams, 100).await;
    let stats = stats_key(&streams);
    let much = order_stats(&streams).on("order.created", move |_: Value, effects| {
        for field in 0..200 {
            effects.hincrby(&stats, &field.to_string(), 1);
        }
    });
    let scripts = async || {
        let all: String = typed(&streams, "INFO commandstats").await;
        let calls = |line: &str| line.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next()?.parse::<u64>().ok();
        all.lines().find_map(calls).unwrap()
    };
    let before = scripts().await;
    assert_eq!(much.catch_up().await.unwrap().processed, 100);
    assert!(scripts().await >= before + 20, "20,000 commands at 1,000 a step");
    let count: u64 = typed(&streams, &format!("HGET {} 199", stats_key(&streams))).await;
    assert_eq!(count, 100);
}

/// Fails if a rebuild may remove the keys of refused writes too.
#[tokio::test]
async fn a_key_that_it_was_not_let_write_is_not_its_own() {
    let streams = streams().await;
    publish_orders(&streams, 2).await;
    let others = format!("{}:others", stats_key(&streams));
    let _: u64 = typed(&streams, &format!("HSET {others} name value")).await;
    let key = others.clone();
    let mistaken = order_stats(&streams).on("order.created", move |_: Value, effects| effects.incrby(&key, 1));
    let error = mistaken.catch_up().await.unwrap_err();
    assert!(matches!(&error, StreamProjectionError::Effect { key, .. } if *key == others), "{error:?}");
    assert_eq!(order_stats(&streams).rebuild(|_| {}).await.unwrap().processed, 2);
    assert_eq!(typed::<String>(&streams, &format!("HGET {others} name")).await, "value");
}
