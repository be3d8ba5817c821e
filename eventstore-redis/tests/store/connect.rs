//! Connecting: mistakes, clusters, foreign keys.

use std::time::Duration;

use eventbus::{
    ExpectedVersion, Name, StreamId,
    event::UniqueChange,
    port::{AppendError, AppendEvents as _, Checkpoints as _, ReadFeed as _},
};
use eventstore_redis::{RedisConnectError, RedisEventStore, RedisEventStoreConfig};

use crate::{
    append::{append, together},
    client,
    common::{
        said,
        store::{config, config_on, open},
        until,
    },
    event, fresh, key, order, tell,
};

#[tokio::test]
async fn all_mistakes_are_named_at_once_and_no_password_is_shown() {
    let config = RedisEventStoreConfig {
        redis_url: "redis://user:secret@host/x/y".into(),
        key_prefix: "a\u{1}".into(),
        socket_timeout: Duration::ZERO,
        socket_connect_timeout: Duration::ZERO,
        tls_ca_file: Some("ca.pem".into()),
        ..Default::default()
    };
    let RedisConnectError::Config(mistakes) = RedisEventStore::connect(config.clone()).await.unwrap_err() else {
        panic!("it connected");
    };
    let fields: Vec<_> = mistakes.mistakes.iter().map(|mistake| mistake.field.as_str()).collect();
    assert_eq!(fields, ["redis_url", "socket_timeout", "socket_connect_timeout", "tls_ca_file", "key_prefix"]);
    assert!(mistakes.to_string().starts_with("invalid configuration of the Redis event store: "), "{mistakes}");
    assert!(!format!("{mistakes} {config:?}").contains("secret"), "{config:?}");
}

#[tokio::test]
async fn a_store_on_a_server_without_memory_is_opened_and_read() {
    let server = eventbus_test::private_redis();
    let config = config_on(server.url());
    let id = open(config.clone()).await.store_id().await.unwrap();
    tell::<String>(&mut client(server.url()).await, &["CONFIG", "SET", "maxmemory", "1"]).await;
    assert_eq!(open(config).await.store_id().await.unwrap(), id);
}

#[test]
fn a_configuration_is_read_from_json() {
    let json = r#"{"key_prefix":"shop","socket_timeout":1.5}"#;
    let config: RedisEventStoreConfig = serde_json::from_str(json).unwrap();
    assert_eq!(config.socket_timeout, Duration::from_millis(1_500));
    assert_eq!(config.stream_key(&StreamId::parse("Order", "12345").unwrap()), "shop:aggregate:Order:12345");
    assert!(serde_json::from_str::<RedisEventStoreConfig>(r#"{"prefix":"shop"}"#).is_err());
}

#[tokio::test]
async fn without_a_prefix_the_keys_are_the_tutorials() {
    let server = eventbus_test::private_redis();
    let config = RedisEventStoreConfig { key_prefix: String::new(), ..config_on(server.url()) };
    let store = open(config).await;
    store.append(&order("12345"), ExpectedVersion::NoStream, vec![event(1)]).await.unwrap();
    store.save_checkpoint(&Name::from_static("projection:order-stats"), 1.into()).await.unwrap();
    let mut connection = client(server.url()).await;
    let mut keys: Vec<String> = tell(&mut connection, &["KEYS", "*"]).await;
    keys.sort_unstable();
    let wanted = [
        "aggregate:Order:12345",
        "aggregate:feed",
        "eventstore:event_types",
        "eventstore:ids",
        "eventstore:meta",
        "eventstore:reader_names",
        "projection:order-stats:checkpoint",
    ];
    assert_eq!(keys, wanted);
}

#[tokio::test]
async fn on_a_cluster_a_prefix_without_a_hash_tag_is_refused_and_all_keys_share_a_slot() {
    let server = eventbus_test::internal::private_redis_cluster();
    let with = |prefix: &str| RedisEventStoreConfig { key_prefix: prefix.into(), ..config_on(server.url()) };
    for (prefix, wanted) in [("shop", "to `{shop}` instead of `shop`"), ("", "to `{events}` instead of ``")] {
        let error = RedisEventStore::connect(with(prefix)).await.unwrap_err();
        assert!(matches!(error, RedisConnectError::NeedsHashTag { field: "key_prefix", .. }), "{error:?}");
        assert!(!error.is_retryable());
        assert!(error.to_string().ends_with(&format!("set `key_prefix` {wanted}")), "{error}");
    }
    let mut connection = client(server.url()).await;
    tell::<String>(&mut connection, &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    until("the cluster is up", async || RedisEventStore::connect(with("{shop}")).await.is_ok()).await;
    let store = open(with("{shop}")).await;
    store.append(&order("{a}"), ExpectedVersion::NoStream, vec![event(1)]).await.unwrap();
    let taking = UniqueChange::new(Name::from_static("email"), Some("{b}@x".into())).unwrap();
    let appends = [vec![event(1).with_unique(vec![taking])], vec![event(2)]];
    let appends = ["{a}", "{b}"].into_iter().zip(appends).map(|(id, events)| append(id, ExpectedVersion::Any, events));
    together(&store, appends.collect::<Vec<_>>()).await.unwrap();
    assert_eq!(store.head().await.unwrap(), 3_u64);
}

/// After a failover of a cluster the node is a replica, and the name of the master leads to a different node.
#[tokio::test]
async fn a_node_that_has_lost_the_slot_is_unavailable_and_left() {
    let nodes = [eventbus_test::internal::private_redis_cluster(), eventbus_test::internal::private_redis_cluster()];
    let (mut one, mut other) = (client(nodes[0].url()).await, client(nodes[1].url()).await);
    tell::<String>(&mut one, &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    let [own_id, other_id]: [String; 2] =
        [tell(&mut one, &["CLUSTER", "MYID"]).await, tell(&mut other, &["CLUSTER", "MYID"]).await];
    eventbus_test::internal::join_clusters(&nodes[0], &nodes[1]).await;
    until("the node knows the other one", async || {
        tell::<String>(&mut one.clone(), &["CLUSTER", "NODES"]).await.contains(&other_id)
    })
    .await;
    let config = || RedisEventStoreConfig { key_prefix: "{shop}".into(), ..config_on(nodes[0].url()) };
    until("the cluster is up", async || RedisEventStore::connect(config()).await.is_ok()).await;
    let store = open(config()).await;
    store.append(&order("1"), ExpectedVersion::Any, vec![event(1)]).await.unwrap();
    let slot = tell::<u16>(&mut one, &["CLUSTER", "KEYSLOT", "{shop}"]).await.to_string();
    // a node gives away no slot with keys
    tell::<String>(&mut one, &["FLUSHALL"]).await;
    let mut give_slot_to = async |id: &str| tell::<String>(&mut one, &["CLUSTER", "SETSLOT", &slot, "NODE", id]).await;
    give_slot_to(&other_id).await;
    let mut connection = client(nodes[0].url()).await;
    let mut stores = async || -> Vec<String> {
        let own: u64 = tell(&mut connection, &["CLIENT", "ID"]).await;
        let all: String = tell(&mut connection, &["CLIENT", "LIST", "TYPE", "normal"]).await;
        let id = |line: &str| line.split(' ').next().unwrap().trim_start_matches("id=").to_owned();
        all.lines().map(id).filter(|id| *id != own.to_string()).collect()
    };
    let before = stores().await;
    let left = |now: Vec<String>| before.iter().any(|id| !now.contains(id));
    let error = store.append(&order("2"), ExpectedVersion::Any, vec![event(1)]).await.unwrap_err();
    assert!(matches!(error, AppendError::Unavailable(_)), "{error:?}");
    until("it leaves its connection", async || left(stores().await)).await;
    give_slot_to(&own_id).await;
    store.head().await.unwrap();
}

#[tokio::test]
async fn keys_of_somebody_else_and_a_newer_format_are_refused() {
    for (name, words) in [
        ("aggregate:feed", ["SET", "x"].as_slice()),
        ("eventstore:ids", &["SADD", "x"]),
        ("eventstore:event_types", &["SADD", "x"]),
        ("eventstore:meta", &["RPUSH", "x"]),
        ("eventstore:meta", &["HSET", "format", "two", "id", "x"]),
        ("eventstore:meta", &["HSET", "format", "1", "id", "x"]),
    ] {
        let config = config();
        let mut connection = client(&config.redis_url).await;
        let taken = format!("{}:{name}", config.key_prefix);
        let mut command = vec![words[0], taken.as_str()];
        command.extend(&words[1..]);
        tell::<redis::Value>(&mut connection, &command).await;
        let error = RedisEventStore::connect(config).await.unwrap_err();
        assert!(matches!(error, RedisConnectError::Refused { .. }) && !error.is_retryable(), "{error:?}");
        assert!(said(&error).contains(&taken), "{}", said(&error));
    }
}

#[tokio::test]
async fn a_newer_format_is_accepted_if_it_only_adds_and_refused_by_its_numbers_if_not() {
    let (store, mut connection) = fresh().await;
    let meta = key(&store, "eventstore:meta");
    let format = ["HMGET", &meta, "format", "min_reader"];
    assert_eq!(tell::<Vec<String>>(&mut connection, &format).await, ["1", "1"]);

    tell::<i64>(&mut connection, &["HSET", &meta, "format", "3"]).await;
    let older = open(store.config().clone()).await;
    older.append(&order("1"), ExpectedVersion::NoStream, vec![event(1)]).await.unwrap();
    assert_eq!(older.store_id().await.unwrap(), store.store_id().await.unwrap());
    assert_eq!(tell::<Vec<String>>(&mut connection, &format).await, ["3", "1"], "an older release lowers no format");

    tell::<i64>(&mut connection, &["HSET", &meta, "min_reader", "2"]).await;
    let error = RedisEventStore::connect(store.config().clone()).await.unwrap_err();
    assert!(
        matches!(&error, RedisConnectError::FormatTooNew { key, format: 3, min_reader: 2, known: 1, .. } if *key == meta),
        "{error:?}"
    );
    assert!(!error.is_retryable());
    let text = "records format 3, which takes a release that knows format 2; this one knows format 1";
    assert!(error.to_string().contains(text), "{error}");
}

#[tokio::test]
async fn stores_with_other_prefixes_do_not_mix() {
    let one = open(config()).await;
    let other = RedisEventStoreConfig { key_prefix: key(&one, "b"), ..one.config().clone() };
    let two = open(other).await;
    one.append(&order("1"), ExpectedVersion::NoStream, vec![event(1)]).await.unwrap();
    two.append(&order("1"), ExpectedVersion::NoStream, vec![event(1), event(2)]).await.unwrap();
    assert_eq!([one.head().await.unwrap().get(), two.head().await.unwrap().get()], [1, 2]);
    assert_ne!(one.store_id().await.unwrap(), two.store_id().await.unwrap());
}

#[tokio::test]
async fn a_tool_attaches_to_a_store_and_creates_none() {
    let config = config();
    let key = match RedisEventStore::attach(config.clone()).await {
        Err(RedisConnectError::NotFound { of: "event store", key, .. }) => key,
        other => panic!("{other:?}"),
    };
    let is_there: u8 = tell(&mut client(&config.redis_url).await, &["EXISTS", &key]).await;
    assert_eq!((key, is_there), (format!("{}:eventstore:meta", config.key_prefix), 0));
    let store = open(config.clone()).await;
    let tool = RedisEventStore::attach(config).await.unwrap();
    assert_eq!(tool.store_id().await.unwrap(), store.store_id().await.unwrap());
}

/// Fails if the commands of a read are sent once only: the kept connection is cut before each of them.
#[tokio::test]
async fn reads_of_several_keys_at_once_go_on_over_a_new_connection() {
    let server = eventbus_test::private_redis();
    let store = open(config_on(server.url())).await;
    store.append(&order("1"), ExpectedVersion::NoStream, vec![event(1)]).await.unwrap();
    let mut admin = client(server.url()).await;
    let mut cut = async || {
        let cut: u64 = tell(&mut admin, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        assert!(cut > 0, "the kept connection was open");
    };
    cut().await;
    assert!(store.find_missing_event(Some(&order("1"))).await.unwrap().is_none());
    cut().await;
    store.durability().await.unwrap();
}
