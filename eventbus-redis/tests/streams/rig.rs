//! Helpers of the tests.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use eventbus_redis::streams::{Effects, EventProjection, RedisStreams, RedisStreamsConfig, StreamEntry};
use redis::{FromRedisValue, aio::MultiplexedConnection};
use serde::Deserialize;
use serde_json::json;

pub(crate) fn config_on(url: &str) -> RedisStreamsConfig {
    let stream_prefix = eventbus_test::unique_name("events");
    RedisStreamsConfig { redis_url: url.into(), stream_prefix, ..RedisStreamsConfig::default() }
}

/// Streams of the test's own.
pub(crate) async fn streams() -> RedisStreams {
    RedisStreams::connect(config_on(eventbus_test::redis_url())).await.unwrap()
}

/// The key of the stream `orders`.
pub(crate) fn orders(streams: &RedisStreams) -> String {
    streams.config().stream_key("orders")
}

/// All entries of the stream `orders`.
pub(crate) async fn all_entries(streams: &RedisStreams) -> Vec<StreamEntry> {
    let (mut reader, mut all) = (streams.reader(&orders(streams)), Vec::new());
    loop {
        let page = reader.page(10_000).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

pub(crate) async fn connection(streams: &RedisStreams) -> MultiplexedConnection {
    eventbus_test::internal::redis_connection(&streams.config().redis_url).await
}

/// Runs a command given as one line.
pub(crate) async fn typed<T: FromRedisValue>(streams: &RedisStreams, command: &str) -> T {
    let mut words = command.split(' ');
    let mut typed = redis::cmd(words.next().unwrap());
    typed.arg(words.collect::<Vec<_>>());
    typed.query_async(&mut connection(streams).await).await.unwrap()
}

/// Publishes `count` orders of 1.5 each.
pub(crate) async fn publish_orders(streams: &RedisStreams, count: usize) {
    let events = (0..count).map(|n| ("order.created", json!({ "order_id": n.to_string(), "total": 1.5 })));
    streams.publisher().publish_batch("orders", events).await.unwrap();
}

#[derive(Deserialize)]
pub(crate) struct OrderCreated {
    pub(crate) total: f64,
}

#[derive(Deserialize)]
pub(crate) struct OrderShipped {}

pub(crate) fn created(stats: &str) -> impl Fn(OrderCreated, &mut Effects) + Send + Sync + 'static {
    let stats = stats.to_owned();
    move |order, effects| {
        effects.hincrby(&stats, "total_count", 1);
        effects.hincrbyfloat(&stats, "total_value", order.total);
    }
}

/// The statistics of orders, under the name of their stream, in the hash `stats:` and that name.
pub(crate) fn order_stats(streams: &RedisStreams) -> EventProjection {
    let (key, stats) = (orders(streams), stats_key(streams));
    let shipped = stats.clone();
    streams
        .projection(&streams.config().stream_prefix, &key)
        .on("order.created", created(&stats))
        .on("order.shipped", move |_: OrderShipped, effects| effects.hincrby(&shipped, "shipped_count", 1))
}

/// The key of a part of a projection of the stream `orders`.
pub(crate) fn projection_key(streams: &RedisStreams, name: &str, what: &str) -> String {
    let prefix = &streams.config().stream_prefix;
    format!("projection:{prefix}:{prefix}%3Aorders:{name}:{what}")
}

pub(crate) fn stats_key(streams: &RedisStreams) -> String {
    format!("stats:{}", streams.config().stream_prefix)
}

/// The number of orders in the statistics.
pub(crate) async fn counted(streams: &RedisStreams) -> u64 {
    typed::<Option<u64>>(streams, &format!("HGET {} total_count", stats_key(streams))).await.unwrap_or_default()
}

pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), waiting).await.is_ok(), "waited in vain until {what}");
}

/// Polls a future until it has waited `waits` times, then drops it, as a crash would.
pub(crate) async fn crash_after<T>(waits: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut polls = 0;
    std::future::poll_fn(move |context: &mut Context<'_>| {
        polls += 1;
        match Pin::as_mut(&mut future).poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if polls > waits => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Returns `true` if a future is pending.
pub(crate) fn waits<F: Future>(future: Pin<&mut F>) -> bool {
    future.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

/// Runs a future to its end, and a second one after the first has waited `waits` times. Returns `true` if it did.
pub(crate) async fn with_rival_after<T>(
    waits: usize,
    future: impl Future<Output = T>,
    rival: impl Future,
) -> (T, bool) {
    let mut future = pin!(future);
    if let Some(done) = crash_after(waits, &mut future).await {
        return (done, false);
    }
    rival.await;
    (future.await, true)
}
