//! Projections: effects, skipped entries, stops.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use eventbus::testkit::ManualClock;
use eventbus_redis::{
    RedisCommandError, Trim,
    streams::{Claim, Consume, RedisStreams, RedisStreamsConfig, StreamProjectionError},
};
use serde_json::json;
use tokio::sync::oneshot;

use crate::rig::{
    OrderCreated, config_on, counted, created, order_stats, orders, projection_key, publish_orders, stats_key, streams,
    typed, until,
};

#[tokio::test]
async fn unknown_types_are_skipped_and_counted() {
    let streams = streams().await;
    publish_orders(&streams, 250).await;
    for kind in ["order.lost", "order.lost", "order.found"] {
        streams.publisher().publish("orders", kind, &json!({})).await.unwrap();
    }
    let stats = order_stats(&streams);
    assert_eq!(stats.checkpoint().await.unwrap(), None);
    let applied = stats.catch_up().await.unwrap();
    assert_eq!((applied.processed, applied.unknown["order.lost"], applied.unknown["order.found"]), (253, 2, 1));
    assert_eq!(counted(&streams).await, 250);
    let last = streams.reader(&orders(&streams)).last(1).await.unwrap().remove(0).id;
    assert_eq!((applied.position.as_ref(), stats.checkpoint().await.unwrap()), (Some(&last), Some(last.clone())));
    let raw: String =
        typed(&streams, &format!("GET {}", projection_key(&streams, &streams.config().stream_prefix, "checkpoint")))
            .await;
    assert_eq!(raw, last.as_str());
    assert_eq!(stats.catch_up().await.unwrap().processed, 0);
}

/// Fails if an entry that fills a page counts as the end, or as a removed one.
#[tokio::test]
async fn entries_larger_than_a_page_are_processed_one_after_the_other() {
    let streams = streams().await;
    for number in 0..7 {
        let note = "x".repeat(if number % 2 == 0 { 1_500_000 } else { 10 });
        let order = json!({ "order_id": number.to_string(), "total": 1.5, "note": note });
        streams.publisher().publish("orders", "order.created", &order).await.unwrap();
    }
    let stats = order_stats(&streams);
    assert_eq!(stats.catch_up().await.unwrap().processed, 7);
    assert_eq!(counted(&streams).await, 7);
}

/// Fails if effects of entries after the failing one, or of itself, are written.
#[tokio::test]
async fn a_handler_that_fails_stops_before_its_entry_and_goes_on_there() {
    let streams = streams().await;
    publish_orders(&streams, 5).await;
    let bad = streams.publisher().publish("orders", "order.cancelled", &json!({})).await.unwrap();
    publish_orders(&streams, 5).await;
    let stats = stats_key(&streams);
    let failing = order_stats(&streams).try_on("order.cancelled", move |_: serde_json::Value, effects| {
        effects.hincrby(&stats, "total_count", 1_000);
        Err::<(), _>("no such order")
    });
    for _ in 0..2 {
        let error = failing.catch_up().await.unwrap_err();
        let named = matches!(&error, StreamProjectionError::Handler { entry, event_type, .. }
            if *entry == bad && event_type == "order.cancelled");
        assert!(named && !error.is_retryable(), "{error:?}");
        assert_eq!(counted(&streams).await, 5);
    }
    let mended = order_stats(&streams).on("order.cancelled", |_: serde_json::Value, _| {});
    assert_eq!(mended.catch_up().await.unwrap().processed, 6);
    assert_eq!(counted(&streams).await, 10);
}

#[tokio::test]
async fn entries_that_cannot_be_read_stop_it_with_entry_and_field() {
    let streams = streams().await;
    let key = orders(&streams);
    publish_orders(&streams, 2).await;
    let foreign = streams.add(&key, &[("kind", "created")]).await.unwrap();
    let error = order_stats(&streams).catch_up().await.unwrap_err();
    let StreamProjectionError::Entry { source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(source.to_string(), format!("entry {foreign} has no field `type`"));
    assert_eq!(counted(&streams).await, 2);
    let _: u64 = typed(&streams, &format!("XDEL {key} {foreign}")).await;
    let damaged = streams.add(&key, &[("type", "order.created"), ("data", "{\"total\":\"much\"}")]).await.unwrap();
    let error = order_stats(&streams).catch_up().await.unwrap_err();
    let StreamProjectionError::Entry { source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(
        (source.entry(), source.to_string()),
        (&damaged, format!("field `data` of entry {damaged} cannot be read"))
    );
}

/// Fails if skipped entries are read, are not behind the checkpoint, or stop a rebuild.
#[tokio::test]
async fn entries_that_cannot_be_read_are_skipped_where_somebody_says_so() {
    let streams = streams().await;
    let key = orders(&streams);
    publish_orders(&streams, 2).await;
    for _ in 0..2 {
        streams.add(&key, &[("kind", "created")]).await.unwrap();
    }
    publish_orders(&streams, 1).await;
    let stopped = order_stats(&streams).skip_if(|entry| entry.field("type").is_none());
    let damaged = streams.add(&key, &[("type", "order.created"), ("data", "{")]).await.unwrap();
    publish_orders(&streams, 1).await;
    let error = stopped.catch_up().await.unwrap_err();
    assert!(error.to_string().contains(&key), "{error}");
    let StreamProjectionError::Entry { source, .. } = error else { panic!("{error:?}") };
    assert_eq!((source.entry(), counted(&streams).await), (&damaged, 3));
    let skipping = stopped.skip_if(move |entry| entry.id == damaged);
    let applied = skipping.catch_up().await.unwrap();
    assert_eq!((applied.processed, applied.skipped, counted(&streams).await), (2, 1, 4));
    assert_eq!(order_stats(&streams).catch_up().await.unwrap().processed, 0, "it is behind the checkpoint");
    let rebuilt = skipping.rebuild(|_| {}).await.unwrap();
    assert_eq!((rebuilt.processed, rebuilt.skipped, counted(&streams).await), (7, 3, 4));
}

/// Fails if the script writes effects before the refused command, or if the error does not name the entry.
#[tokio::test]
async fn an_effect_that_the_server_refuses_names_its_entry_and_undoes_what_was_with_it() {
    let streams = streams().await;
    publish_orders(&streams, 3).await;
    let bad = streams.publisher().publish("orders", "order.odd", &json!({})).await.unwrap();
    publish_orders(&streams, 3).await;
    let (stats, text) = (stats_key(&streams), format!("{}:text", stats_key(&streams)));
    let _: String = typed(&streams, &format!("SET {text} a")).await;
    let odd = text.clone();
    let failing = order_stats(&streams).on("order.odd", move |_: serde_json::Value, effects| {
        effects.hincrby(&stats, "total_count", 1_000);
        effects.hincrby(&odd, "n", 1);
    });
    let error = failing.catch_up().await.unwrap_err();
    let StreamProjectionError::Effect { entry, key, command, source, .. } = &error else { panic!("{error:?}") };
    assert_eq!((entry, key, command.as_str()), (&bad, &text, "HINCRBY"));
    assert!(source.to_string().contains("WRONGTYPE"), "{source}");
    assert_eq!(counted(&streams).await, 3);
}

#[tokio::test]
async fn a_handler_cannot_write_what_is_the_projections_own() {
    let streams = streams().await;
    publish_orders(&streams, 1).await;
    let checkpoint = projection_key(&streams, &streams.config().stream_prefix, "checkpoint");
    let odd = order_stats(&streams).on("order.created", move |_: serde_json::Value, effects| effects.del(&checkpoint));
    assert!(matches!(odd.catch_up().await, Err(StreamProjectionError::Effect { .. })));
    assert_eq!(odd.checkpoint().await.unwrap(), None);
}

#[tokio::test]
async fn a_key_of_another_kind_is_refused_with_its_name() {
    let streams = streams().await;
    let _: String = typed(&streams, &format!("SET {} text", orders(&streams))).await;
    let error = order_stats(&streams).catch_up().await.unwrap_err();
    let refused = matches!(&error, StreamProjectionError::Command(RedisCommandError::Refused { stream, .. })
        if *stream == orders(&streams));
    assert!(refused, "{error:?}");
}

/// The rights that the README names.
#[tokio::test]
async fn a_user_with_the_rights_that_are_named_can_do_it_all() {
    let server = eventbus_test::private_redis();
    let admin = RedisStreams::connect(config_on(server.url())).await.unwrap();
    let rights = "+@stream +@hash +@connection +@transaction +@scripting +exists +del +time +@string +@set +copy +rename \
                  +unlink";
    let _: String = typed(&admin, &format!("ACL SETUSER app on >secret ~* {rights}")).await;
    let url = server.url().replacen("redis://", "redis://app:secret@", 1);
    let streams = RedisStreams::connect(config_on(&url)).await.unwrap();
    let key = orders(&streams);
    publish_orders(&streams, 3).await;
    let stats = order_stats(&streams);
    assert_eq!(stats.catch_up().await.unwrap().processed, 3);
    assert_eq!(stats.rebuild(|_| {}).await.unwrap().processed, 3);
    let mut consumer = streams.consumer(&key, "billing", "billing-1").await.unwrap();
    let entries = consumer.consume(Consume::default()).await.unwrap();
    consumer.claim_pending(Claim::default()).await.unwrap();
    assert_eq!(consumer.acknowledge(entries.iter().map(|entry| &entry.id)).await.unwrap(), 3);
    assert_eq!(streams.health(&key).await.unwrap().length, 3);
    assert_eq!(streams.trim(&key, Trim { max_length: Some(1), max_age: None }).await.unwrap().removed, 2);
    stats.retire().await.unwrap();
    assert!(streams.retire_group(&key, "billing").await.unwrap());
}

/// Numbers that no counter can take.
#[tokio::test]
async fn numbers_that_are_too_big_or_none_stop_it_by_name() {
    for total in ["1e400", "18446744073709551616", "1.7976931348623157e308"] {
        let streams = streams().await;
        let stats = stats_key(&streams);
        let data = format!("{{\"total\":{total}}}");
        let odd = streams.add(&orders(&streams), &[("type", "order.created"), ("data", &data)]).await.unwrap();
        let adding = order_stats(&streams).on("order.created", move |order: OrderCreated, effects| {
            effects.hincrbyfloat(&stats, "total_value", order.total * 10.0);
            effects.hincrby(&stats, "total_count", 1);
        });
        match (total, adding.catch_up().await) {
            ("1e400", Err(StreamProjectionError::Entry { source, .. })) => assert_eq!(source.entry(), &odd),
            ("18446744073709551616", Ok(applied)) => assert_eq!(applied.processed, 1),
            (_, Err(StreamProjectionError::Effect { entry, command, .. })) => {
                assert_eq!((entry, command.as_str(), counted(&streams).await), (odd, "HINCRBYFLOAT", 0));
            }
            (_, other) => panic!("{total}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_runs_on_with_what_comes_until_it_is_stopped() {
    let streams = streams().await;
    publish_orders(&streams, 150).await;
    let (stop, stopped) = oneshot::channel();
    let runner = order_stats(&streams);
    let running = tokio::spawn(async move { runner.run(async { stopped.await.unwrap_or_default() }).await });
    for expected in [150, 153, 156] {
        until("all are counted", async || counted(&streams).await == expected).await;
        publish_orders(&streams, 3).await;
    }
    until("all are counted", async || counted(&streams).await == 159).await;
    for _ in 0..2 {
        let last = streams.publisher().publish("orders", "order.creatd", &json!({})).await.unwrap();
        until("it is processed", async || order_stats(&streams).checkpoint().await.unwrap().as_ref() == Some(&last))
            .await;
    }
    stop.send(()).unwrap();
    // the runner may not have received the result of its last step yet
    let applied = running.await.unwrap().unwrap();
    assert!(applied.processed >= 160 && applied.unknown["order.creatd"] >= 1, "{applied:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_projection_that_stopped_tries_again_every_minute() {
    let clock = ManualClock::new();
    let config = RedisStreamsConfig { clock: clock.clone().into(), ..config_on(eventbus_test::redis_url()) };
    let streams = RedisStreams::connect(config).await.unwrap();
    publish_orders(&streams, 2).await;
    streams.publisher().publish("orders", "order.odd", &json!({})).await.unwrap();
    publish_orders(&streams, 2).await;
    let tries = Arc::new(AtomicU32::new(0));
    let tried = Arc::clone(&tries);
    let stats = order_stats(&streams).try_on("order.odd", move |_: serde_json::Value, _| {
        match tried.fetch_add(1, Ordering::SeqCst) {
            0..6 => Err("closed"),
            _ => Ok(()),
        }
    });
    let running = tokio::spawn(async move { stats.run(std::future::pending()).await });
    let minute = Duration::from_secs(60);
    for _ in 0..2 {
        clock.wait_for_sleeper(minute).await;
        let before = tries.load(Ordering::SeqCst);
        assert!(before > 0 && counted(&streams).await == 2, "what was before it is counted, and nothing behind it");
        clock.advance(minute);
        until("it is tried again", async || tries.load(Ordering::SeqCst) > before).await;
    }
    until("it goes on", async || {
        clock.advance(minute);
        counted(&streams).await == 4
    })
    .await;
    running.abort();
}

#[tokio::test]
async fn a_name_that_is_none_is_refused() {
    let streams = streams().await;
    publish_orders(&streams, 2).await;
    for name in ["", "a\nb"] {
        let named = streams.projection(name, &orders(&streams));
        for refused in [named.catch_up().await.unwrap_err(), named.rebuild(|_| {}).await.unwrap_err()] {
            assert!(matches!(refused, StreamProjectionError::InvalidName { .. }) && !refused.is_retryable());
        }
    }
}

/// Fails if the keys of a projection lack its stream or the prefix of its program, or if colons in a name lead to the
/// keys of a second projection.
#[tokio::test]
async fn projections_of_one_name_over_other_streams_or_prefixes_share_nothing() {
    let first = streams().await;
    let second = streams().await;
    let (of_first, of_second) = (first.config().stream_prefix.clone(), second.config().stream_prefix.clone());
    publish_orders(&first, 3).await;
    for _ in 0..2 {
        first.publisher().publish("returns", "order.created", &json!({ "total": 1.5 })).await.unwrap();
    }
    publish_orders(&second, 5).await;
    let name = "stats";
    let (orders_of_first, returns, orders_of_second) =
        (orders(&first), first.config().stream_key("returns"), orders(&second));
    let mut all = Vec::new();
    for (streams, stream, count) in [
        (&first, &orders_of_first, 3),
        (&first, &returns, 2),
        (&second, &orders_of_second, 5),
        (&second, &orders_of_first, 3),
        (&first, &orders_of_second, 5),
    ] {
        for name in [name, "stats:rebuild", "stats:rebuilding", "stats:copy:stats", "shop:stats:aside:0"] {
            let key = format!("{of_first}:written:{}", all.len());
            all.push((streams.projection(name, stream).on("order.created", created(&key)), key, count));
        }
    }
    let total = async |key: &str| typed::<Option<u64>>(&first, &format!("HGET {key} total_count")).await;
    for (projection, key, count) in &all {
        assert_eq!((projection.checkpoint().await.unwrap(), total(key).await), (None, None), "{projection:?}");
        assert_eq!(projection.catch_up().await.unwrap().processed, *count, "{projection:?}");
    }
    for (projection, _, count) in &all {
        assert_eq!(projection.rebuild(|_| {}).await.unwrap().processed, *count, "{projection:?}");
    }
    for (projection, key, count) in &all {
        assert_eq!(projection.catch_up().await.unwrap().processed, 0, "{projection:?}");
        assert_eq!(total(key).await, Some(*count), "a rebuild of another one removed it: {projection:?}");
    }
    let known = first.health(&orders_of_first).await.unwrap().projections;
    let named: Vec<_> = [&of_first, &of_second].map(|prefix| format!("{prefix}:{name}")).into();
    assert!(named.iter().all(|name| known.contains_key(name)) && known.len() == 10, "{known:?}");
    all[0].0.retire().await.unwrap();
    let known = first.health(&orders_of_first).await.unwrap().projections;
    assert!(!known.contains_key(&named[0]) && known.contains_key(&named[1]), "{known:?}");
}
