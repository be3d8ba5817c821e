//! Connecting, and the errors of failed connections.

use std::time::{Duration, Instant};

use crate::common::{config, config_on, fresh_bus, said, seen::command};
use eventbus::{
    EventBusExt as _, Name, NewEvent, RecordedEvent, StreamId, Version,
    port::{EventBus, PublishError},
};
use eventbus_redis::{RedisConnectError, RedisEventBus, RedisEventBusConfig};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

fn event() -> RecordedEvent {
    let stream = StreamId::parse("Order", "1").expect("a valid stream");
    let event = NewEvent::new(Name::from_static("OrderCreated"), 1, "{}");
    event.recorded_as(stream, Version::FIRST, None)
}

#[tokio::test]
async fn a_consumer_without_a_name_gets_one_of_its_own() {
    let (one, two) = (fresh_bus().await, fresh_bus().await);
    let name = |bus: &RedisEventBus| bus.config().consumer_name.clone().unwrap_or_default();
    assert_ne!(name(&one), name(&two));
    let (host, id) = name(&one).rsplit_once('-').map(|(h, i)| (h.to_owned(), i.to_owned())).unwrap();
    assert!(!host.is_empty(), "the host is named");
    assert_eq!(id.len(), 8);
    assert!(id.bytes().all(|c| c.is_ascii_hexdigit()), "{id}");
}

#[tokio::test]
async fn connecting_creates_no_group() {
    let bus = fresh_bus().await;
    assert!(bus.is_connected());
    bus.ping().await.unwrap();
    let again = RedisEventBus::connect(bus.config().clone()).await.unwrap();
    assert_eq!(again.stream_info().await.consumer_groups, []);
}

#[tokio::test]
async fn a_closed_port_is_named_without_the_password() {
    let port = eventbus_test::internal::closed_port();
    let error = RedisEventBus::connect(config_on(&format!("redis://app:secret@127.0.0.1:{port}"))).await;
    let error = error.unwrap_err();
    assert!(matches!(error, RedisConnectError::Unavailable { .. }), "{error:?}");
    assert!(error.is_retryable());
    assert!(said(&error).contains(&format!("redis://app@127.0.0.1:{port}")), "{error}");
    assert!(!said(&error).contains("secret"), "{}", said(&error));
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let accepting = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok(connection) = silent.accept().await {
            kept.push(connection);
        }
    });
    let timeout = Duration::from_millis(300);
    let config = RedisEventBusConfig {
        socket_connect_timeout: timeout,
        ..config_on(&format!("redis://:secret@127.0.0.1:{port}"))
    };
    let began = Instant::now();
    let error = RedisEventBus::connect(config).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(matches!(error, RedisConnectError::TimedOut { timeout: named, .. } if named == timeout), "{error:?}");
    assert!(!said(&error).contains("secret"), "{}", said(&error));
    accepting.abort();
}

/// Fails if the error names the time for connecting instead.
#[tokio::test]
async fn an_answer_that_does_not_come_in_time_names_the_time_that_was_given_for_it() {
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = mute.local_addr().unwrap().port();
    let accepting = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut connection, _)) = mute.accept().await {
            // the answers to a client's first commands, with its name and version
            connection.write_all(b"+OK\r\n+OK\r\n").await.unwrap();
            kept.push(connection);
        }
    });
    let timeout = Duration::from_millis(30);
    let patient = Duration::from_secs(60);
    let config = RedisEventBusConfig {
        socket_timeout: timeout,
        socket_connect_timeout: patient,
        ..config_on(&format!("redis://127.0.0.1:{port}"))
    };
    let error = RedisEventBus::connect(config).await.unwrap_err();
    assert!(matches!(error, RedisConnectError::TimedOut { timeout: named, .. } if named == timeout), "{error:?}");
    assert!(error.to_string().ends_with("did not answer within 30ms"), "{error}");
    accepting.abort();
}

#[tokio::test]
async fn a_server_that_is_no_redis_is_told_apart() {
    let web = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = web.local_addr().unwrap().port();
    let answering = tokio::spawn(async move {
        while let Ok((mut client, _)) = web.accept().await {
            let _ = client.read(&mut [0; 1_000]).await;
            client.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        }
    });
    let error = RedisEventBus::connect(config_on(&format!("redis://:secret@127.0.0.1:{port}"))).await.unwrap_err();
    assert_eq!(error.to_string(), format!("the server at redis://127.0.0.1:{port} does not speak Redis"));
    assert!(matches!(error, RedisConnectError::NotRedis { .. }) && !error.is_retryable(), "{error:?}");
    answering.abort();
}

#[tokio::test]
async fn a_key_of_another_kind_is_refused() {
    let config = config();
    let mut connection = eventbus_test::internal::redis_connection(&config.redis_url).await;
    let mut set = redis::cmd("SET");
    set.arg(config.stream_name()).arg("taken");
    set.query_async::<()>(&mut connection).await.unwrap();
    let bus = RedisEventBus::connect(config).await.unwrap();
    let error = bus.publish(&[event()]).await.unwrap_err();
    assert!(said(&error).contains("WRONGTYPE"), "{error:?}");
}

/// Fails if the error has only the words of the protocol, which name no password.
#[tokio::test]
async fn a_password_that_the_url_lacks_is_named() {
    let server = eventbus_test::private_redis();
    let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg("requirepass").arg("secret");
    set.query_async::<()>(&mut connection).await.unwrap();
    let missing = "the server asks for a password, and the URL has none";
    let port = server.port();
    for (url, is_missing) in [
        (format!("redis://127.0.0.1:{port}"), true),
        (format!("redis://127.0.0.1:{port}/1"), true),
        (format!("redis://:wrong@127.0.0.1:{port}"), false),
    ] {
        let error = RedisEventBus::connect(config_on(&url)).await.unwrap_err();
        assert!(matches!(error, RedisConnectError::Refused { .. }), "{url}: {error:?}");
        assert_eq!(said(&error).contains(missing), is_missing, "{url}: {}", said(&error));
    }
}

#[tokio::test]
async fn a_disconnected_bus_says_so() {
    let bus = fresh_bus().await;
    bus.publish(&[event()]).await.unwrap();
    bus.disconnect().await;
    assert!(!bus.is_connected());
    let info = bus.stream_info().await;
    assert!(!info.connected);
    assert_eq!(info.stats.events_published, 1, "what was counted stays");
    let published = bus.publish(&[event()]).await;
    assert!(matches!(published, Err(PublishError::ShutDown { .. })), "{published:?}");
    assert!(bus.ping().await.is_err());
}

#[tokio::test]
async fn disconnecting_does_not_wait_for_a_connection_in_the_making_which_then_serves_nobody() {
    let mut server = eventbus_test::private_redis();
    let patient = RedisEventBusConfig { socket_connect_timeout: Duration::from_secs(60), ..config_on(server.url()) };
    let bus = RedisEventBus::connect(patient).await.unwrap();
    server.stop();
    assert!(bus.ping().await.is_err());
    let slow = TcpListener::bind(("127.0.0.1", server.port())).await.unwrap();
    let connecting = bus.clone();
    let pinging = tokio::spawn(async move { connecting.ping().await.map_err(|error| error.to_string()) });
    let (socket, _) = slow.accept().await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), bus.disconnect()).await.unwrap();
    // the answers to a client's first commands, with its name and version
    socket.writable().await.unwrap();
    socket.try_write(b"+OK\r\n+OK\r\n").unwrap();
    let pinged = pinging.await.unwrap();
    assert!(pinged.as_ref().is_err_and(|error| error.contains("disconnected")), "{pinged:?}");
    let mut received = [0; 1_000];
    socket.readable().await.unwrap();
    let bytes = socket.try_read(&mut received).unwrap();
    let received = String::from_utf8_lossy(&received[..bytes]);
    assert!(received.contains("CLIENT") && !received.contains("PING"), "{received}");
}

#[tokio::test]
async fn publishing_without_a_server_fails_typed_and_works_again_when_it_is_back() {
    let mut server = eventbus_test::private_redis();
    let bus = RedisEventBus::connect(config_on(server.url())).await.unwrap();
    bus.publish(&[event()]).await.unwrap();
    server.stop();
    let first = bus.publish(&[event()]).await.unwrap_err();
    assert!(matches!(first, PublishError::OutcomeUnknown { .. }), "the connection broke: {first:?}");
    let second = bus.publish(&[event()]).await.unwrap_err();
    assert!(matches!(second, PublishError::Unavailable { .. }), "nothing was sent: {second:?}");
    assert!(first.is_retryable() && second.is_retryable());
    assert!(!bus.is_connected());
    assert!(!bus.stream_info().await.connected);
    server.start();
    bus.publish(&[event()]).await.unwrap();
    assert!(bus.is_connected());
    let info = bus.stream_info().await;
    assert_eq!(info.stream.length, 2, "what was refused was not published");
    assert_eq!(info.stats.events_published, 2);
    assert_eq!(info.stats.reconnections, 1);
}

#[tokio::test]
async fn a_payload_that_is_no_object_is_refused_and_nothing_is_published() {
    let bus = fresh_bus().await;
    let bad = RecordedEvent::new(event().metadata().clone(), "[]");
    let refused = bus.publish(&[event(), bad]).await;
    assert!(matches!(refused, Err(PublishError::Refused { .. })), "{refused:?}");
    assert_eq!(bus.stream_info().await.stream.length, 0);
}

#[tokio::test]
async fn with_readable_by_python_others_are_refused_by_name_and_nothing_is_published() {
    let config = RedisEventBusConfig { readable_by_python: true, ..config() };
    let bus = RedisEventBus::connect(config).await.unwrap();
    let of = |id: &str| {
        let stream = StreamId::parse("Order", id).expect("a valid stream");
        NewEvent::new(Name::from_static("OrderCreated"), 1, "{}").recorded_as(stream, Version::FIRST, None)
    };
    let good = of("feaf2364-cce1-4ed3-9a63-624520185ae3");
    let of_version = |version: u64| {
        let stream = StreamId::parse("Order", "feaf2364-cce1-4ed3-9a63-624520185ae3").expect("a valid stream");
        NewEvent::new(Name::from_static("OrderCreated"), 1, "{}").recorded_as(stream, Version::new(version), None)
    };
    let of_type = |aggregate_type: &str| {
        let stream = StreamId::parse(aggregate_type, "feaf2364-cce1-4ed3-9a63-624520185ae3").expect("a valid stream");
        NewEvent::new(Name::from_static("OrderCreated"), 1, "{}").recorded_as(stream, Version::FIRST, None)
    };
    for (bad, reason) in [
        (of_version(0), "version is 0"),
        (of_type("Order line"), "other characters"),
        (of_type("Bestellungä"), "other"),
    ] {
        let PublishError::Refused { source, event_id, .. } = bus.publish(std::slice::from_ref(&bad)).await.unwrap_err()
        else {
            panic!("{bad:?}");
        };
        assert_eq!(event_id, Some(bad.metadata().event_id()));
        assert!(source.to_string().contains(reason), "{source}");
    }
    for id in ["12345", "FEAF2364-CCE1-4ED3-9A63-624520185AE3", "feaf2364cce14ed39a63624520185ae3"] {
        let bad = of(id);
        let refused = bus.publish(&[good.clone(), bad.clone()]).await.unwrap_err();
        let PublishError::Refused { source, .. } = refused else {
            panic!("{id}: {refused:?}");
        };
        let said = source.to_string();
        assert!(said.contains(id) && said.contains(&bad.metadata().event_id().to_string()), "{said}");
    }
    assert_eq!(bus.stream_info().await.stream.length, 0);
    bus.publish(&[good]).await.unwrap();
}

#[tokio::test]
async fn a_server_that_refuses_writes_refuses_the_events() {
    let bus = fresh_bus().await;
    let mut connection = eventbus_test::internal::redis_connection(&bus.config().redis_url).await;
    let mut set = redis::cmd("SET");
    set.arg(bus.config().stream_name()).arg("taken");
    set.query_async::<()>(&mut connection).await.unwrap();
    let refused = bus.publish(&[event(), event()]).await;
    assert!(matches!(refused, Err(PublishError::Refused { .. })), "{refused:?}");
}

#[tokio::test]
async fn events_that_are_published_together_are_published_all_or_none() {
    let server = eventbus_test::private_redis();
    let bus = RedisEventBus::connect(config_on(server.url())).await.unwrap();
    let payload = format!(r#"{{"text":"{}"}}"#, "x".repeat(4 << 20));
    let large = RecordedEvent::new(event().metadata().clone(), payload);
    let events = [large.clone(), event(), large, event()];
    let length = async || bus.stream_info().await.stream.length;
    let (mut taken, mut refused) = (0, 0);
    // from too little memory for any of them to enough for all
    for megabytes in (2..=32).step_by(2) {
        let info: redis::InfoDict = command(&bus, "INFO", &["memory"]).await;
        let limit = info.get::<u64>("used_memory").unwrap() + (megabytes << 20);
        let _: String = command(&bus, "CONFIG", &["SET", "maxmemory", &limit.to_string()]).await;
        let before = length().await;
        match bus.publish(&events).await {
            Ok(ids) => {
                assert_eq!((ids.len(), length().await), (4, before + 4), "{megabytes} MB");
                taken += 1;
            }
            Err(error) => {
                assert!(matches!(error, PublishError::Unavailable { .. }), "{megabytes} MB: {error:?}");
                assert_eq!(length().await, before, "{megabytes} MB");
                refused += 1;
            }
        }
    }
    assert!(taken > 0 && refused > 0, "{taken} {refused}");
    assert_eq!(bus.stats().events_published, taken * 4);
}

#[tokio::test]
async fn any_number_of_events_is_published_in_one_call() {
    let bus = fresh_bus().await;
    let ids = bus.publish(&vec![event(); 70_000]).await.unwrap();
    assert_eq!(ids.len(), 70_000);
    assert_eq!(bus.stream_info().await.stream.length, 70_000);
}

#[tokio::test]
async fn a_stream_whose_ids_run_out_leaves_the_outcome_unknown() {
    let bus = fresh_bus().await;
    let last_but_one = format!("{}-{}", u64::MAX, u64::MAX - 1);
    let _: String = command(&bus, "XADD", &[&bus.config().stream_name(), &last_but_one, "any", "thing"]).await;
    let partly = bus.publish(&[event(), event()]).await;
    assert!(matches!(partly, Err(PublishError::OutcomeUnknown { .. })), "{partly:?}");
    let nothing = bus.publish(&[event()]).await;
    assert!(matches!(nothing, Err(PublishError::Refused { .. })), "{nothing:?}");
}

/// The record of the format, and the keys of a bus.
async fn format_and_keys(bus: &RedisEventBus) -> (Vec<Option<String>>, Vec<String>) {
    let meta = format!("{{{}}}:meta", bus.config().stream_name());
    let format = command(bus, "HMGET", &[&meta, "format", "min_reader"]).await;
    let mut keys: Vec<String> = command(bus, "KEYS", &[&format!("*{}*", bus.config().stream_prefix)]).await;
    keys.sort_unstable();
    (format, keys)
}

async fn record_format(bus: &RedisEventBus, format: &str, min_reader: &str) {
    let meta = format!("{{{}}}:meta", bus.config().stream_name());
    let _: i64 = command(bus, "HSET", &[&meta, "format", format, "min_reader", min_reader]).await;
}

#[tokio::test]
async fn a_newer_format_is_accepted_if_it_only_adds_and_refused_by_its_numbers_if_not() {
    let bus = RedisEventBus::connect(config()).await.unwrap();
    let recorded = |format: &str, min_reader: &str| vec![Some(format.to_owned()), Some(min_reader.to_owned())];
    assert_eq!(format_and_keys(&bus).await.0, recorded("1", "1"));

    record_format(&bus, "3", "1").await;
    let older = RedisEventBus::connect(bus.config().clone()).await.unwrap();
    older.publish(&[event()]).await.unwrap();
    assert_eq!(bus.stream_info().await.stream.length, 1);
    assert_eq!(format_and_keys(&bus).await.0, recorded("3", "1"), "an older release lowers no format");

    record_format(&bus, "3", "2").await;
    let before = format_and_keys(&bus).await;
    let other_group = RedisEventBusConfig { consumer_group: "other".into(), ..bus.config().clone() };
    let error = RedisEventBus::connect(other_group).await.unwrap_err();
    assert!(matches!(&error, RedisConnectError::FormatTooNew { format: 3, min_reader: 2, known: 1, .. }), "{error:?}");
    assert!(!error.is_retryable());
    let text = "records format 3, which takes a release that knows format 2; this one knows format 1";
    assert!(error.to_string().contains(text), "{error}");
    let lazy = RedisEventBus::lazy(bus.config().clone()).unwrap();
    assert!(lazy.ensure_connected().await.is_err(), "an app does not start");
    assert!(lazy.publish(&[event()]).await.is_err());
    assert_eq!(format_and_keys(&bus).await, before, "connecting wrote no key");
    assert_eq!(bus.stream_info().await.consumer_groups, []);
}

/// A server that was emptied is filled by processes that run on; an older release must still find the format.
#[tokio::test]
async fn a_format_that_the_server_lost_is_recorded_again_with_the_group() {
    let bus = fresh_bus().await;
    let (before, keys) = format_and_keys(&bus).await;
    for key in &keys {
        let _: i64 = command(&bus, "DEL", &[key]).await;
    }
    bus.subscribe(async |_: RecordedEvent| {});
    let consuming = bus.start_consuming_in_background();
    crate::common::until("the format is there again", async || format_and_keys(&bus).await.0 == before).await;
    bus.stop_consuming().await;
    consuming.await.unwrap().unwrap();
}
