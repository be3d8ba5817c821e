//! Crashes and concurrent runners: no entry is counted twice or lost.

use std::{env, time::Duration};

use eventbus_redis::streams::{EventProjection, RedisStreams, RedisStreamsConfig};
use eventbus_test::internal::Actor;
use redis::aio::MultiplexedConnection;

use crate::rig::{
    config_on, connection, counted, crash_after, order_stats, orders, projection_key, publish_orders, stats_key,
    streams, until,
};

/// The orders in the statistics and those up to the checkpoint: always the same number.
async fn check(streams: &RedisStreams, stats: &EventProjection) -> u64 {
    // both in one transaction
    let mut ask = redis::pipe();
    ask.atomic().cmd("HGET").arg(stats_key(streams)).arg("total_count");
    ask.cmd("GET").arg(projection_key(streams, &streams.config().stream_prefix, "checkpoint"));
    let (count, at): (Option<u64>, Option<String>) = ask.query_async(&mut connection(streams).await).await.unwrap();
    let up_to = match at {
        None => 0,
        Some(at) => {
            let mut count = redis::cmd("EVAL");
            count.arg("return #redis.call('XRANGE', KEYS[1], '-', ARGV[1])").arg(1).arg(orders(streams)).arg(at);
            count.query_async(&mut connection(streams).await).await.unwrap()
        }
    };
    assert_eq!(count.unwrap_or_default(), up_to, "{stats:?}");
    up_to
}

/// As the tutorial does: the effects one after the other, and the checkpoint after the batch.
async fn as_in_the_tutorial(streams: &RedisStreams, connection: &mut MultiplexedConnection) {
    let (stream, stats) = (orders(streams), stats_key(streams));
    let checkpoint = format!("projection:{}:naive", streams.config().stream_prefix);
    let at: Option<String> = redis::cmd("GET").arg(&checkpoint).query_async(connection).await.unwrap();
    let mut last = at.unwrap_or_else(|| "0".into());
    loop {
        let mut range = redis::cmd("XRANGE");
        range.arg(&stream).arg(format!("({last}")).arg("+").arg("COUNT").arg(100);
        let entries: Vec<(String, redis::Value)> = range.query_async(connection).await.unwrap();
        if entries.is_empty() {
            return;
        }
        for (id, _) in entries {
            redis::cmd("HINCRBY").arg(&stats).arg("naive_count").arg(1).exec_async(connection).await.unwrap();
            last = id;
        }
        redis::cmd("SET").arg(&checkpoint).arg(&last).exec_async(connection).await.unwrap();
    }
}

/// Fails with effects and checkpoint in two scripts.
#[tokio::test]
async fn a_crash_at_any_moment_repeats_and_loses_nothing_where_the_tutorial_repeats() {
    let streams = streams().await;
    publish_orders(&streams, 450).await;
    let stats = order_stats(&streams);
    let mut crashes = 0;
    for waits in 1.. {
        // as in a process of its own, without an open connection
        let fresh = RedisStreams::connect(streams.config().clone()).await.unwrap();
        let done = crash_after(waits, order_stats(&fresh).catch_up()).await;
        check(&streams, &stats).await;
        match done {
            Some(done) => {
                assert!(done.is_ok());
                break;
            }
            None => crashes += 1,
        }
    }
    assert!(crashes >= 3, "it waits several times: {crashes}");
    assert_eq!((check(&streams, &stats).await, counted(&streams).await), (450, 450));

    let mut connection = connection(&streams).await;
    for waits in [5, 55, 105] {
        assert!(crash_after(waits, as_in_the_tutorial(&streams, &mut connection)).await.is_none());
    }
    as_in_the_tutorial(&streams, &mut connection).await;
    let mut ask = redis::cmd("HGET");
    ask.arg(stats_key(&streams)).arg("naive_count");
    let naive: u64 = ask.query_async(&mut connection).await.unwrap();
    assert!(naive > 450, "the tutorial's projection repeats: {naive}");
}

/// Fails if the script does not compare the checkpoint.
#[tokio::test(flavor = "multi_thread")]
async fn runners_at_once_double_nothing() {
    let streams = streams().await;
    let runners: Vec<_> = (0..3)
        .map(|_| {
            let config = streams.config().clone();
            tokio::spawn(async move {
                let streams = RedisStreams::connect(config).await.unwrap();
                order_stats(&streams).run(std::future::pending()).await
            })
        })
        .collect();
    let stats = order_stats(&streams);
    for round in 1..=40_u64 {
        publish_orders(&streams, 50).await;
        check(&streams, &stats).await;
        if round % 10 == 0 {
            until("all are counted", async || counted(&streams).await >= round * 50).await;
        }
    }
    assert_eq!(check(&streams, &stats).await, 2_000);
    for runner in runners {
        runner.abort();
    }
}

/// The role of the process; returns at once in an ordinary run.
#[tokio::test]
async fn the_runner_that_is_a_process() {
    let (Ok(redis_url), Ok(stream_prefix)) = (env::var("STREAMS_URL"), env::var("STREAMS_PREFIX")) else {
        return;
    };
    Actor::end_with_parent();
    let config = RedisStreamsConfig { redis_url, stream_prefix, ..RedisStreamsConfig::default() };
    let streams = RedisStreams::connect(config).await.unwrap();
    order_stats(&streams).run(std::future::pending()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_are_killed_repeat_and_lose_nothing() {
    let streams = streams().await;
    let stats = order_stats(&streams);
    let publishing = {
        let streams = streams.clone();
        tokio::spawn(async move {
            for total in (0..).step_by(40) {
                publish_orders(&streams, 40).await;
                while counted(&streams).await + 4_000 <= total {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        })
    };
    let config = streams.config();
    let variables = [("STREAMS_URL", &*config.redis_url), ("STREAMS_PREFIX", &config.stream_prefix)];
    for kill in 0..20 {
        let before = counted(&streams).await;
        let process = Actor::play("crash::the_runner_that_is_a_process", &variables);
        until("it has done something", async || counted(&streams).await > before + 40 * kill).await;
        process.kill();
        check(&streams, &stats).await;
    }
    publishing.abort();
    drop(publishing.await);
    stats.catch_up().await.unwrap();
    let mut length = redis::cmd("XLEN");
    length.arg(orders(&streams));
    let length: u64 = length.query_async(&mut connection(&streams).await).await.unwrap();
    assert_eq!((check(&streams, &stats).await, counted(&streams).await), (length, length));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_repeat_and_lose_nothing() {
    let server = eventbus_test::private_redis();
    let streams = RedisStreams::connect(config_on(server.url())).await.unwrap();
    let stats = order_stats(&streams);
    let runner = order_stats(&RedisStreams::connect(streams.config().clone()).await.unwrap());
    let running = tokio::spawn(async move { runner.run(std::future::pending()).await });
    let mut cut = connection(&streams).await;
    for round in 1..=30_u64 {
        publish_orders(&streams, 300).await;
        let mut kill = redis::cmd("CLIENT");
        kill.arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes");
        kill.exec_async(&mut cut).await.unwrap();
        until("the stream is there again", async || stats.checkpoint().await.is_ok()).await;
        if round % 10 == 0 {
            until("all are counted", async || counted(&streams).await >= round * 300).await;
        }
        check(&streams, &stats).await;
    }
    assert_eq!(check(&streams, &stats).await, 9_000);
    running.abort();
}
