//! Effects and the checkpoint, or the note of a delivery, are written together or not at all.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use eventbus::{
    EventId, Name, Position,
    port::{BoxFuture, Checkpoints as _, Lease, Transaction, Transactions as _},
};
use eventstore_redis::{RedisEventStore, RedisEventStoreConfig, RedisTransaction, RedisTransactionError as Error};
use redis::aio::MultiplexedConnection;

use crate::{
    client,
    common::{said, store::open, until},
    fresh, key, seize, tell, try_tell,
};

const ROLE: &str = "projection:order-stats";

/// The numbers in a hash.
async fn hash(connection: &mut MultiplexedConnection, store: &RedisEventStore, name: &str) -> HashMap<String, String> {
    tell(connection, &["HGETALL", &key(store, name)]).await
}

/// Counts one order in a transaction that moves the checkpoint, and does not commit yet.
async fn counted(store: &RedisEventStore, lease: &Lease, from: u64, to: u64) -> Option<Box<dyn Transaction>> {
    let mut transaction = store.begin().await.unwrap();
    let tx: &mut RedisTransaction = transaction.as_any_mut().downcast_mut().unwrap();
    tx.hincrby("stats:orders", "total_count", 1).unwrap();
    tx.hincrbyfloat("stats:orders", "total_value", 49.99).unwrap();
    let may = transaction.advance(lease, from.into(), to.into()).await.unwrap();
    may.then_some(transaction)
}

fn why(error: eventbus::BoxError) -> Error {
    *error.downcast().unwrap()
}

#[tokio::test]
async fn effects_and_checkpoint_are_written_together_and_once() {
    let (store, mut connection) = fresh().await;
    let lease = seize(&store, ROLE, "one").await;
    let transaction = counted(&store, &lease, 0, 1).await.unwrap();
    assert!(hash(&mut connection, &store, "stats:orders").await.is_empty(), "nothing is written before the commit");
    transaction.commit().await.unwrap();
    let stats = hash(&mut connection, &store, "stats:orders").await;
    assert_eq!((stats["total_count"].as_str(), stats["total_value"].as_str()), ("1", "49.99"));
    let checkpoint: String = tell(&mut connection, &["GET", &key(&store, "projection:order-stats:checkpoint")]).await;
    assert_eq!(checkpoint, "1");
    assert!(counted(&store, &lease, 0, 1).await.is_none(), "the same event again");
    assert_eq!(hash(&mut connection, &store, "stats:orders").await, stats);
}

#[tokio::test]
async fn a_former_owner_writes_nothing_however_late_it_commits() {
    let (store, mut connection) = fresh().await;
    let former = seize(&store, ROLE, "one").await;
    let paused = counted(&store, &former, 0, 1).await.unwrap();
    let owner = seize(&store, ROLE, "two").await;
    assert!(matches!(why(paused.commit().await.unwrap_err()), Error::Superseded));
    assert!(hash(&mut connection, &store, "stats:orders").await.is_empty());
    counted(&store, &owner, 0, 1).await.unwrap().commit().await.unwrap();
    let same_epoch = Lease { owner: Name::from_static("three"), ..owner.clone() };
    assert!(counted(&store, &same_epoch, 1, 2).await.is_none(), "an epoch that was drawn again after a crash");
    assert_eq!(hash(&mut connection, &store, "stats:orders").await["total_count"], "1");
}

#[tokio::test]
async fn a_transaction_whose_time_is_up_writes_nothing() {
    let (store, mut connection) = fresh().await;
    let transaction_timeout = Duration::from_millis(1);
    let hasty = open(RedisEventStoreConfig { transaction_timeout, ..store.config().clone() }).await;
    let lease = seize(&store, ROLE, "one").await;
    let began = Instant::now();
    let late = counted(&hasty, &lease, 0, 1).await.unwrap();
    while began.elapsed() < transaction_timeout * 2 {
        tokio::task::yield_now().await;
    }
    assert!(matches!(why(late.commit().await.unwrap_err()), Error::TimedOut { .. }));
    assert!(hash(&mut connection, &store, "stats:orders").await.is_empty());
    counted(&store, &lease, 0, 1).await.unwrap().commit().await.unwrap();
}

/// As in a process that was paused for longer than a claim lasts.
#[tokio::test]
async fn a_claim_that_ended_is_missed_only_if_somebody_else_went_on() {
    let (store, mut connection) = fresh().await;
    let lease = seize(&store, ROLE, "one").await;
    let lock = key(&store, &format!("eventstore:lock:checkpoint:{}:{ROLE}", lease.epoch));
    for (from, is_done_by_others) in [(0, true), (1, false)] {
        let stood_still = counted(&store, &lease, from, from + 1).await.unwrap();
        assert_eq!(tell::<u64>(&mut connection, &["DEL", &lock]).await, 1);
        if is_done_by_others {
            counted(&store, &lease, from, from + 1).await.unwrap().commit().await.unwrap();
            assert!(matches!(why(stood_still.commit().await.unwrap_err()), Error::Superseded));
        } else {
            stood_still.commit().await.unwrap();
        }
        assert_eq!(hash(&mut connection, &store, "stats:orders").await["total_count"], (from + 1).to_string());
    }

    let (handler, event) = (Name::from_static("mail"), EventId::new());
    let lock = key(&store, &format!("eventstore:lock:delivery:{event}:Order/1:mail"));
    let begin = async || {
        let mut tx = store.begin().await.unwrap();
        assert!(tx.is_first(&handler, &crate::order("1"), event).await.unwrap());
        tx
    };
    let first = begin().await;
    tell::<u64>(&mut connection, &["DEL", &lock]).await;
    let second = begin().await;
    assert!(matches!(why(first.commit().await.unwrap_err()), Error::TimedOut { .. }), "the second is about to commit");
    tell::<u64>(&mut connection, &["DEL", &lock]).await;
    let third = begin().await;
    tell::<u64>(&mut connection, &["DEL", &lock]).await;
    second.commit().await.unwrap();
    assert!(matches!(why(third.commit().await.unwrap_err()), Error::Superseded), "the second has committed");
}

/// Fails without the renewal: the claim would expire.
#[tokio::test]
async fn a_claim_is_renewed_while_its_transaction_lives() {
    let (store, mut connection) = fresh().await;
    let lease = seize(&store, ROLE, "one").await;
    let living = counted(&store, &lease, 0, 1).await.unwrap();
    let lock = key(&store, &format!("eventstore:lock:checkpoint:{}:{ROLE}", lease.epoch));
    let ttl: i64 = tell(&mut connection, &["PTTL", &lock]).await;
    assert!((1..=1_000).contains(&ttl), "it is short, for the process may die: {ttl}");
    tell::<u64>(&mut connection, &["PEXPIRE", &lock, "600"]).await;
    until("it is renewed", async || tell::<i64>(&mut connection, &["PTTL", &lock]).await > 700).await;
    drop(living);
    until("it is let go", async || tell::<u64>(&mut connection, &["EXISTS", &lock]).await == 0).await;
}

/// A former owner can no longer commit, so its claim blocks no later owner.
#[tokio::test]
async fn a_new_owner_waits_for_no_former_one() {
    let (store, mut connection) = fresh().await;
    let former = counted(&store, &seize(&store, ROLE, "one").await, 0, 1).await.unwrap();
    let owner = seize(&store, ROLE, "two").await;
    let counting = tokio::time::timeout(Duration::from_secs(10), counted(&store, &owner, 0, 1)).await;
    counting.expect("it waits for a former owner").unwrap().commit().await.unwrap();
    assert!(matches!(why(former.commit().await.unwrap_err()), Error::Superseded));
    assert_eq!(hash(&mut connection, &store, "stats:orders").await["total_count"], "1");
}

#[tokio::test]
async fn a_checkpoint_that_was_set_meanwhile_fails_the_commit() {
    let (store, mut connection) = fresh().await;
    let lease = seize(&store, ROLE, "one").await;
    let transaction = counted(&store, &lease, 0, 1).await.unwrap();
    store.save_checkpoint(&lease.role, 7.into()).await.unwrap();
    assert!(matches!(why(transaction.commit().await.unwrap_err()), Error::Superseded));
    assert!(hash(&mut connection, &store, "stats:orders").await.is_empty());
    assert_eq!(store.load_checkpoint(&lease.role).await.unwrap(), Some(7.into()));
}

#[tokio::test]
async fn a_field_a_key_that_is_removed_and_the_key_again_are_undone() {
    let (store, mut connection) = fresh().await;
    prepare(&mut connection, &store).await;
    let before = dump(&mut connection, &store).await;
    let mut tx = store.begin_transaction();
    tx.hincrby("hash", "count", 1).unwrap();
    tx.del("hash").unwrap();
    tx.hset("hash", "count", 9).unwrap();
    tx.hset("hash", "fresh", 9).unwrap();
    tx.set("text", 1).unwrap();
    tx.del("text").unwrap();
    tx.sadd("text", "a member").unwrap();
    tx.del("list").unwrap();
    tx.command("RPUSH", "list", ["x"]).unwrap();
    tx.hincrby("number", "field", 1).unwrap();
    assert!(matches!(tx.commit().await.unwrap_err(), Error::EffectRefused { .. }));
    assert_eq!(dump(&mut connection, &store).await, before);
}

/// The effect of each kind of command on existing and on missing keys.
type Step = for<'t> fn(&'t mut RedisTransaction) -> Result<(), Error>;

const STEPS: [Step; 16] = [
    |tx| tx.hincrby("hash", "count", 5),
    |tx| tx.hincrbyfloat("hash", "sum", 0.5),
    |tx| tx.hset("hash", "name", "new"),
    |tx| tx.hdel("hash", "old"),
    |tx| tx.hset("new-hash", "a", 1),
    |tx| tx.set("text", "new"),
    |tx| tx.incrby("number", 3),
    |tx| tx.sadd("set", "new"),
    |tx| tx.srem("set", "old"),
    |tx| tx.zadd("ranks", "new", 1.5),
    |tx| tx.zincrby("ranks", "old", 2.0),
    |tx| tx.zrem("ranks", "gone"),
    |tx| tx.del("text"),
    |tx| tx.set("text", "newest"),
    |tx| tx.command("RPUSH", "list", ["b", "c"]),
    |tx| tx.del("list"),
];

async fn prepare(connection: &mut MultiplexedConnection, store: &RedisEventStore) {
    for words in [
        ["HSET", "hash", "count", "1"].as_slice(),
        &["HSET", "hash", "name", "old"],
        &["HSET", "hash", "old", "x"],
        &["SET", "text", "old"],
        &["SET", "number", "7"],
        &["SADD", "set", "old"],
        &["ZADD", "ranks", "1", "old"],
        &["ZADD", "ranks", "9", "gone"],
        &["RPUSH", "list", "a"],
    ] {
        let key = key(store, words[1]);
        let mut command = vec![words[0], &key];
        command.extend(&words[2..]);
        tell::<redis::Value>(connection, &command).await;
    }
}

/// The contents of all user keys.
async fn dump(connection: &mut MultiplexedConnection, store: &RedisEventStore) -> Vec<(String, String)> {
    let mut keys: Vec<String> = tell(connection, &["KEYS", &key(store, "*")]).await;
    keys.retain(|key| !key.contains(":eventstore:meta"));
    keys.sort_unstable();
    let mut all = Vec::new();
    for key in keys {
        let kind: String = tell(connection, &["TYPE", &key]).await;
        let words: &[&str] = match kind.as_str() {
            "hash" => &["HGETALL", &key],
            "set" => &["SMEMBERS", &key],
            "zset" => &["ZRANGE", &key, "0", "-1", "WITHSCORES"],
            "list" => &["LRANGE", &key, "0", "-1"],
            _ => &["GET", &key],
        };
        let mut value: Vec<String> = match tell::<redis::Value>(connection, words).await {
            redis::Value::BulkString(bytes) => vec![String::from_utf8(bytes).unwrap()],
            other => redis::from_redis_value(other).unwrap(),
        };
        if kind == "hash" {
            let mut pairs: Vec<_> = value.chunks(2).map(|pair| pair.join("=")).collect();
            pairs.sort_unstable();
            value = pairs;
        }
        all.push((key, value.join(" ")));
    }
    all
}

#[tokio::test]
async fn effects_are_made_in_their_order() {
    let (store, mut connection) = fresh().await;
    prepare(&mut connection, &store).await;
    let mut tx = store.begin_transaction();
    STEPS.iter().for_each(|step| step(&mut tx).unwrap());
    tx.commit().await.unwrap();
    let all = dump(&mut connection, &store).await;
    let prefix = format!("{}:", store.config().key_prefix);
    let all: HashMap<_, _> =
        all.iter().map(|(key, value)| (key.strip_prefix(&prefix).unwrap(), value.as_str())).collect();
    let wanted = HashMap::from([
        ("hash", "count=6 name=new sum=0.5"),
        ("new-hash", "a=1"),
        ("text", "newest"),
        ("number", "10"),
        ("set", "new"),
        ("ranks", "new 1.5 old 3"),
    ]);
    assert_eq!(all, wanted);
}

#[tokio::test]
async fn an_effect_that_is_refused_undoes_all_before_it() {
    for made in 0..=STEPS.len() {
        let (store, mut connection) = fresh().await;
        prepare(&mut connection, &store).await;
        let before = dump(&mut connection, &store).await;
        let lease = seize(&store, ROLE, "one").await;
        let with_lease = dump(&mut connection, &store).await;
        let mut transaction = store.begin().await.unwrap();
        let tx: &mut RedisTransaction = transaction.as_any_mut().downcast_mut().unwrap();
        STEPS[..made].iter().for_each(|step| step(tx).unwrap());
        tx.hincrby("number", "field", 1).unwrap();
        STEPS[made..].iter().for_each(|step| step(tx).unwrap());
        assert!(transaction.advance(&lease, Position::START, 1.into()).await.unwrap());
        let Error::EffectRefused { key: named, command, source } = why(transaction.commit().await.unwrap_err()) else {
            panic!("it is committed");
        };
        assert_eq!((named, command.as_str()), (key(&store, "number"), "HINCRBY"));
        assert!(source.to_string().contains("WRONGTYPE"), "{source}");
        until("the claim is let go", async || dump(&mut connection, &store).await.len() == with_lease.len()).await;
        assert_eq!(dump(&mut connection, &store).await, with_lease, "after {made} effects");
        assert_eq!(with_lease.len(), before.len() + 2, "the lease, and the name of its role");
        assert_eq!(store.load_checkpoint(&lease.role).await.unwrap(), None);
    }
}

#[tokio::test]
async fn numbers_that_do_not_count_are_refused_with_what_the_server_said() {
    let (store, mut connection) = fresh().await;
    tell::<u64>(&mut connection, &["HSET", &key(&store, "hash"), "name", "ada", "most", "9223372036854775807"]).await;
    for step in [
        (|tx| tx.hincrby("hash", "name", 1)) as Step,
        |tx| tx.hincrby("hash", "most", 1),
        |tx| tx.hincrbyfloat("hash", "name", 1.0),
        |tx| tx.hincrbyfloat("hash", "sum", f64::NAN),
        |tx| tx.zincrby("ranks", "a", f64::NAN),
        |tx| tx.command("SETRANGE", "text", ["-1", "x"]),
        |tx| tx.command("RPUSH", "list", [""; 0]),
    ] {
        let mut tx = store.begin_transaction();
        tx.hincrby("other", "count", 1).unwrap();
        step(&mut tx).unwrap();
        let error = tx.commit().await.unwrap_err();
        assert!(matches!(error, Error::EffectRefused { .. }), "{error:?}");
        assert!(hash(&mut connection, &store, "other").await.is_empty());
    }
}

#[tokio::test]
async fn commands_that_are_not_about_one_key_are_no_effects() {
    let (store, mut connection) = fresh().await;
    for (name, arguments) in [
        ("RENAME", vec!["b"]),
        ("SMOVE", vec!["b", "x"]),
        ("MSET", vec!["1", "b", "2"]),
        ("GET", vec![]),
        ("EVAL", vec!["0"]),
        ("NOSUCH", vec![]),
        ("FLUSHALL", vec![]),
        ("BLPOP", vec!["1"]),
    ] {
        let mut tx = store.begin_transaction();
        tx.set("a", 1).unwrap();
        tx.command(name, "a", arguments).unwrap();
        let error = tx.commit().await.unwrap_err();
        assert!(matches!(&error, Error::InvalidCommand { command, .. } if command == name), "{name}: {error:?}");
    }
    let is_there: u64 = tell(&mut connection, &["EXISTS", &key(&store, "a")]).await;
    assert_eq!(is_there, 0);
    let mut tx = store.begin_transaction();
    let many = vec!["x"; 1_001];
    assert!(matches!(tx.command("RPUSH", "a", many).unwrap_err(), Error::InvalidCommand { .. }));
    tx.command("rpush", "a", vec!["x"; 1_000]).unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn keys_of_the_store_are_refused() {
    let (store, _) = fresh().await;
    let mut tx = store.begin_transaction();
    for own in ["", "aggregate:feed", "aggregate:Order:1", "projection:a:checkpoint", "checkpoint:a", "eventstore:ids"]
    {
        assert!(matches!(tx.set(own, 1).unwrap_err(), Error::InvalidKey { .. }), "{own}");
        assert!(matches!(tx.get::<String>(own).await.unwrap_err(), Error::InvalidKey { .. }), "{own}");
    }
    assert!(tx.set(&"x".repeat(1_025), 1).is_err());
}

#[tokio::test]
async fn a_transaction_reads_what_is_committed_and_what_it_has_written() {
    let (store, mut connection) = fresh().await;
    prepare(&mut connection, &store).await;
    let mut tx = store.begin_transaction();
    assert_eq!(tx.get::<i64>("number").await.unwrap(), Some(7));
    assert_eq!(tx.hget::<String>("hash", "none").await.unwrap(), None);
    tx.incrby("number", 5).unwrap();
    assert_eq!(tx.get::<i64>("number").await.unwrap(), Some(12));
    tx.hincrby("hash", "count", 2).unwrap();
    tx.hincrby("hash", "count", 2).unwrap();
    assert_eq!(tx.hget::<i64>("hash", "count").await.unwrap(), Some(5));
    tx.hset("hash", "count", 10).unwrap();
    tx.hincrby("hash", "count", -1).unwrap();
    assert_eq!(tx.hget::<i64>("hash", "count").await.unwrap(), Some(9));
    assert_eq!(tx.hget::<String>("hash", "name").await.unwrap().as_deref(), Some("old"));
    tx.hdel("hash", "name").unwrap();
    assert_eq!(tx.hget::<String>("hash", "name").await.unwrap(), None);
    tx.del("hash").unwrap();
    assert_eq!(tx.hget::<i64>("hash", "count").await.unwrap(), None);
    tx.hincrby("hash", "count", 3).unwrap();
    assert_eq!(tx.hget::<i64>("hash", "count").await.unwrap(), Some(3));
    assert_eq!(tx.query::<f64, _>("ZSCORE", "ranks", ["gone"]).await.unwrap(), 9.0);
    tx.zincrby("ranks", "gone", 1.0).unwrap();
    tx.hincrbyfloat("hash", "sum", 0.5).unwrap();
    tx.command("APPEND", "text", ["!"]).unwrap();
    let unclear = [
        tx.query::<f64, _>("ZSCORE", "ranks", ["gone"]).await.unwrap_err(),
        tx.hget::<f64>("hash", "sum").await.unwrap_err(),
        tx.get::<String>("text").await.unwrap_err(),
        tx.get::<String>("hash").await.unwrap_err(),
    ];
    for error in unclear {
        assert!(matches!(error, Error::ReadAfterBlindWrite { .. }), "{error:?}");
    }
    tx.commit().await.unwrap();
    assert_eq!(hash(&mut connection, &store, "hash").await["count"], "3");
    let mut tx = store.begin_transaction();
    assert!(matches!(tx.query::<u64, _>("DEL", "hash", [""; 0]).await.unwrap_err(), Error::EffectRefused { .. }));
    assert!(matches!(tx.get::<String>("hash").await.unwrap_err(), Error::EffectRefused { .. }));
    assert!(matches!(tx.hget::<bool>("hash", "sum").await.unwrap_err(), Error::EffectRefused { .. }));
    assert_eq!(hash(&mut connection, &store, "hash").await["count"], "3", "a query that writes is refused");
}

#[tokio::test]
async fn what_was_read_and_changed_by_somebody_else_fails_the_commit() {
    type Reading = for<'t> fn(&'t mut RedisTransaction) -> BoxFuture<'t, ()>;
    let readings: [Reading; 4] = [
        |tx| Box::pin(async move { tx.get::<i64>("number").await.map(|_| ()).unwrap() }),
        |tx| Box::pin(async move { tx.hget::<i64>("hash", "count").await.map(|_| ()).unwrap() }),
        |tx| Box::pin(async move { tx.hget::<i64>("hash", "none").await.map(|_| ()).unwrap() }),
        |tx| Box::pin(async move { tx.query::<Vec<String>, _>("SMEMBERS", "set", [""; 0]).await.map(|_| ()).unwrap() }),
    ];
    let changes: [&[&str]; 4] =
        [&["INCR", "number"], &["HSET", "hash", "count", "2"], &["HSET", "hash", "none", "1"], &["SADD", "set", "x"]];
    for (number, reading) in readings.into_iter().enumerate() {
        for (other, change) in changes.iter().enumerate() {
            let (store, mut connection) = fresh().await;
            prepare(&mut connection, &store).await;
            let mut tx = store.begin_transaction();
            reading(&mut tx).await;
            tx.set("done", 1).unwrap();
            let changed = key(&store, change[1]);
            let mut words = vec![change[0], &changed];
            words.extend(&change[2..]);
            tell::<redis::Value>(&mut connection, &words).await;
            let committed = tx.commit().await;
            if number == other {
                assert!(matches!(&committed, Err(Error::Changed { key }) if *key == changed), "{committed:?}");
            } else {
                committed.unwrap();
            }
        }
    }
}

/// While the server makes the table of a hash or a set larger, each read of a member moves others.
#[tokio::test]
async fn the_order_of_members_is_no_change() {
    let (store, mut connection) = fresh().await;
    let (hash, set) = (key(&store, "hash"), key(&store, "set"));
    for number in 0..1_025_u32 {
        let (field, value) = (format!("f{number}"), number.to_string());
        tell::<u64>(&mut connection, &["HSET", &hash, &field, &value]).await;
        tell::<u64>(&mut connection, &["SADD", &set, &field]).await;
    }
    let members = async |tx: &mut RedisTransaction| -> Vec<String> {
        let mut all = Vec::new();
        for (command, key) in [("HGETALL", "hash"), ("HKEYS", "hash"), ("HVALS", "hash"), ("SMEMBERS", "set")] {
            all.extend(tx.query::<Vec<String>, _>(command, key, [""; 0]).await.unwrap());
        }
        all
    };
    let mut tx = store.begin_transaction();
    let before = members(&mut tx).await;
    for number in 0..20 {
        tell::<Option<String>>(&mut connection, &["HGET", &hash, &format!("f{number}")]).await;
        tell::<bool>(&mut connection, &["SISMEMBER", &set, &format!("f{number}")]).await;
    }
    assert_ne!(members(&mut store.begin_transaction()).await, before, "the server has moved some");
    tx.set("done", 1).unwrap();
    tx.commit().await.unwrap();

    let mut tx = store.begin_transaction();
    members(&mut tx).await;
    // the same fields and values, in different pairs
    tell::<u64>(&mut connection, &["HSET", &hash, "f1", "2", "f2", "1"]).await;
    tx.set("done", 2).unwrap();
    let committed = tx.commit().await;
    assert!(matches!(&committed, Err(Error::Changed { key }) if *key == hash), "{committed:?}");
}

#[tokio::test]
async fn what_was_dropped_while_the_server_was_away_stands_in_nobodys_way() {
    let mut server = eventbus_test::private_redis();
    let store = crate::common::store::open(crate::common::store::config_on(server.url())).await;
    let (handler, event) = (Name::from_static("mail"), EventId::new());
    let mut dropped = store.begin().await.unwrap();
    assert!(dropped.is_first(&handler, &crate::order("1"), event).await.unwrap());
    server.stop();
    drop(dropped);
    // the release of the claim reaches no server
    assert!(store.begin().await.unwrap().is_first(&handler, &crate::order("1"), EventId::new()).await.is_err());
    server.start();
    let mut other = store.begin().await.unwrap();
    let waited =
        tokio::time::timeout(Duration::from_secs(20), other.is_first(&handler, &crate::order("1"), event)).await;
    assert!(waited.expect("sooner than the `transaction_timeout` of 30 s").unwrap());
}

#[tokio::test]
async fn a_store_that_is_away_is_said_to_be() {
    let mut server = eventbus_test::private_redis();
    let store = crate::common::store::open(crate::common::store::config_on(server.url())).await;
    let mut tx = store.begin_transaction();
    tx.set("a", 1).unwrap();
    server.stop();
    assert!(matches!(tx.get::<i64>("b").await.unwrap_err(), Error::Unavailable(_)));
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_) | Error::OutcomeUnknown(_)), "{}", said(&error));
    server.start();
    let mut connection = client(server.url()).await;
    let is_there: u64 = try_tell(&mut connection, &["EXISTS", &key(&store, "a")]).await.unwrap();
    assert_eq!(is_there, 0);
}
