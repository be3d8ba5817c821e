//! Copies of keys are filled beside the live ones, then replace them.

use eventbus::{
    Name, Position,
    port::{Checkpoints as _, Lease, Shadow, Transaction, Transactions as _},
};
use eventstore_redis::{RedisEventStore, RedisEventStoreConfig, RedisTransaction, RedisTransactionError as Error};
use redis::aio::MultiplexedConnection;

use crate::{
    client,
    common::store::{config_on, open},
    fresh, key, seize, tell,
};

pub(crate) const ROLE: &str = "rebuild:order-stats";
pub(crate) const LIVE: &str = "projection:order-stats";

pub(crate) fn shadow() -> Shadow {
    Shadow { name: Name::from_static(ROLE), tables: vec!["stats:orders".into(), "order:*".into()] }
}

fn redis(transaction: &mut dyn Transaction) -> &mut RedisTransaction {
    transaction.as_any_mut().downcast_mut().unwrap()
}

/// All keys that are not the store's, with the field `n` of each.
async fn live(connection: &mut MultiplexedConnection, store: &RedisEventStore) -> Vec<(String, String)> {
    let prefix = key(store, "");
    let mut keys: Vec<String> = tell(connection, &["KEYS", &key(store, "*")]).await;
    keys.retain(|key| !key[prefix.len()..].starts_with("eventstore:"));
    keys.sort_unstable();
    let mut all = Vec::new();
    for key in keys {
        let kind: String = tell(connection, &["TYPE", &key]).await;
        let number = if kind == "hash" {
            tell(connection, &["HGET", &key, "n"]).await
        } else {
            tell(connection, &["GET", &key]).await
        };
        all.push((key[prefix.len()..].to_owned(), number));
    }
    all
}

async fn count_keys(connection: &mut MultiplexedConnection, store: &RedisEventStore, what: &str) -> usize {
    tell::<Vec<String>>(connection, &["KEYS", &key(store, what)]).await.len()
}

/// Live keys as they were written before.
pub(crate) async fn old(store: &RedisEventStore) {
    let mut tx = store.begin_transaction();
    for (key, number) in [("stats:orders", 100), ("order:gone", 1), ("order:kept", 2), ("orders", 3), ("order*", 4)] {
        tx.hset(key, "n", number).unwrap();
    }
    tx.commit().await.unwrap();
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(key, number)| ((*key).to_owned(), (*number).to_owned())).collect()
}

pub(crate) async fn fill(store: &RedisEventStore, lease: &Lease, from: u64, to: u64) -> bool {
    let mut tx = store.begin_in(&shadow()).await.unwrap();
    redis(&mut *tx).hincrby("stats:orders", "n", 1).unwrap();
    redis(&mut *tx).hincrby("order:kept", "n", 10).unwrap();
    redis(&mut *tx).hset(&format!("order:{to}"), "n", to).unwrap();
    let may = tx.advance(lease, from.into(), to.into()).await.unwrap();
    if may {
        tx.commit().await.unwrap();
    }
    may
}

#[tokio::test]
async fn copies_are_filled_beside_the_live_keys_until_the_switch() {
    let (store, mut connection) = fresh().await;
    old(&store).await;
    let before =
        pairs(&[("order*", "4"), ("order:gone", "1"), ("order:kept", "2"), ("orders", "3"), ("stats:orders", "100")]);
    assert_eq!(live(&mut connection, &store).await, before);
    let lease = seize(&store, ROLE, "one").await;
    assert_eq!(store.make_shadow(&shadow()).await.unwrap(), Position::START);
    assert!(fill(&store, &lease, 0, 4).await);
    assert!(!fill(&store, &lease, 0, 4).await, "the same events again");
    assert!(fill(&store, &lease, 4, 6).await);
    assert_eq!(store.make_shadow(&shadow()).await.unwrap(), 6_u64, "an interrupted rebuild goes on");
    assert_eq!(live(&mut connection, &store).await, before, "the old numbers serve");
    assert_eq!(store.load_checkpoint(&lease.role).await.unwrap(), None, "its checkpoint is its own");

    let owner = seize(&store, LIVE, "one").await;
    let mut dropped = store.begin().await.unwrap();
    assert_eq!(dropped.replace_rows(&shadow()).await.unwrap(), 6_u64, "as far as the copies are filled");
    assert!(dropped.advance(&owner, Position::START, 6.into()).await.unwrap());
    drop(dropped);
    assert_eq!(live(&mut connection, &store).await, before);

    let mut switch = store.begin().await.unwrap();
    switch.replace_rows(&shadow()).await.unwrap();
    assert!(switch.advance(&owner, Position::START, 6.into()).await.unwrap());
    switch.commit().await.unwrap();
    let mut after =
        pairs(&[("order*", "4"), ("order:4", "4"), ("order:6", "6"), ("order:kept", "20"), ("orders", "3")]);
    after.extend(pairs(&[("projection:order-stats:checkpoint", "6"), ("stats:orders", "2")]));
    assert_eq!(live(&mut connection, &store).await, after, "what the rebuild has not written is gone, in one step");
    assert_eq!(count_keys(&mut connection, &store, "eventstore:shadow_cop*").await, 0);
    assert_eq!(count_keys(&mut connection, &store, "eventstore:shadow*").await, 0);
    store.drop_shadow(&shadow()).await.unwrap();
    assert_eq!(live(&mut connection, &store).await, after);
    assert_eq!(store.make_shadow(&shadow()).await.unwrap(), Position::START, "the next one begins anew");
}

#[tokio::test]
async fn a_foreign_key_that_is_no_text_does_not_stop_a_switch_and_stays() {
    let server = eventbus_test::private_redis();
    let store = open(config_on(server.url())).await;
    let mut connection = client(server.url()).await;
    old(&store).await;
    let foreign = [key(&store, "order:").as_bytes(), b"\xff"].concat();
    let _: String = redis::cmd("SET").arg(&foreign).arg("1").query_async(&mut connection).await.unwrap();
    let lease = seize(&store, ROLE, "one").await;
    store.make_shadow(&shadow()).await.unwrap();
    assert!(fill(&store, &lease, 0, 4).await);
    let owner = seize(&store, LIVE, "one").await;
    let mut switch = store.begin().await.unwrap();
    switch.replace_rows(&shadow()).await.unwrap();
    assert!(switch.advance(&owner, Position::START, 4.into()).await.unwrap());
    switch.commit().await.unwrap();
    let is_there: bool = redis::cmd("EXISTS").arg(&foreign).query_async(&mut connection).await.unwrap();
    assert!(is_there, "the rebuild has not written it");
    assert_eq!(count_keys(&mut connection, &store, "order:gone").await, 0);
}

#[tokio::test]
async fn a_switch_is_refused_if_somebody_filled_the_copies_meanwhile_or_has_the_role() {
    let (store, mut connection) = fresh().await;
    old(&store).await;
    let before = live(&mut connection, &store).await;
    let lease = seize(&store, ROLE, "one").await;
    let owner = seize(&store, LIVE, "one").await;
    store.make_shadow(&shadow()).await.unwrap();
    assert!(fill(&store, &lease, 0, 4).await);
    let mut switch = store.begin().await.unwrap();
    switch.replace_rows(&shadow()).await.unwrap();
    assert!(switch.advance(&owner, Position::START, 4.into()).await.unwrap());
    assert!(fill(&store, &lease, 4, 6).await);
    assert!(switch.commit().await.is_err(), "the copies have gone on");
    let mut switch = store.begin().await.unwrap();
    switch.replace_rows(&shadow()).await.unwrap();
    assert!(switch.advance(&owner, Position::START, 6.into()).await.unwrap());
    seize(&store, LIVE, "two").await;
    assert!(switch.commit().await.is_err(), "the role has passed");
    assert_eq!(live(&mut connection, &store).await, before);
    let other = seize(&store, ROLE, "two").await;
    assert!(!fill(&store, &lease, 6, 7).await, "a former owner fills nothing");
    assert!(fill(&store, &other, 6, 7).await);
}

#[tokio::test]
async fn a_rebuild_writes_nothing_beside_its_tables() {
    let (store, _) = fresh().await;
    old(&store).await;
    store.make_shadow(&shadow()).await.unwrap();
    let mut tx = store.begin_in(&shadow()).await.unwrap();
    let tx = redis(&mut *tx);
    for beside in ["orders", "order", "stats:orders2"] {
        let error = tx.hincrby(beside, "n", 1).unwrap_err();
        assert!(matches!(&error, Error::NotInTables { key, .. } if key == beside), "{error:?}");
    }
    assert_eq!(tx.hget::<i64>("orders", "n").await.unwrap(), Some(3), "what is beside may be read");
    assert_eq!(tx.hget::<i64>("stats:orders", "n").await.unwrap(), None, "what is not is a copy");
    let event = eventbus::EventId::new();
    assert!(tx.is_first(&Name::from_static("mail"), &crate::order("1"), event).await.is_err());
    assert!(tx.replace_rows(&shadow()).await.is_err());
}

#[tokio::test]
async fn without_copies_there_is_nothing_to_fill_or_to_switch_to() {
    let (store, mut connection) = fresh().await;
    old(&store).await;
    let before = live(&mut connection, &store).await;
    let missing = |error: eventbus::BoxError| matches!(error.downcast_ref(), Some(Error::NoShadow { .. }));
    assert!(missing(store.begin_in(&shadow()).await.map(drop).unwrap_err()));
    let mut tx = store.begin().await.unwrap();
    assert!(missing(tx.replace_rows(&shadow()).await.unwrap_err()));
    store.drop_shadow(&shadow()).await.unwrap();
    for bad in ["", "*", "aggregate:*", "eventstore:x"] {
        let shadow = Shadow { tables: vec![bad.into()], ..shadow() };
        assert!(store.make_shadow(&shadow).await.is_err(), "{bad}");
    }
    assert_eq!(live(&mut connection, &store).await, before);
}

#[tokio::test]
async fn copies_of_other_tables_and_leftovers_are_removed_first() {
    let (store, mut connection) = fresh().await;
    let lease = seize(&store, ROLE, "one").await;
    store.make_shadow(&shadow()).await.unwrap();
    assert!(fill(&store, &lease, 0, 4).await);
    let fewer = Shadow { tables: vec!["stats:orders".into()], ..shadow() };
    assert_eq!(store.make_shadow(&fewer).await.unwrap(), Position::START);
    assert_eq!(count_keys(&mut connection, &store, "eventstore:shadow_copy:*").await, 0);
    assert_eq!(store.make_shadow(&shadow()).await.unwrap(), Position::START);
    assert!(fill(&store, &lease, 0, 4).await);
    // as if a process had died while it removed them
    tell::<u64>(&mut connection, &["DEL", &key(&store, &format!("eventstore:shadow:{ROLE}"))]).await;
    assert!(store.begin_in(&shadow()).await.is_err());
    assert_eq!(store.make_shadow(&shadow()).await.unwrap(), Position::START);
    assert_eq!(count_keys(&mut connection, &store, "eventstore:shadow_copy:*").await, 0);
}

#[tokio::test]
async fn the_row_of_an_aggregate_is_a_key_or_a_field() {
    let (store, mut connection) = fresh().await;
    old(&store).await;
    let mut tx = store.begin().await.unwrap();
    for (table, column, is_there) in [
        ("order:*", None, true),
        ("order:*", Some("key"), true),
        ("order:*", Some("order_id"), false),
        ("stats:orders", None, true),
        ("stats:orders", Some("field"), true),
        ("stats:orders", Some("key"), false),
    ] {
        assert_eq!(tx.has_table(table, column).await.unwrap(), is_there, "{table} {column:?}");
    }
    assert!(tx.has_table("aggregate:*", None).await.is_err());
    tx.delete_rows("order:*", "key", "gone").await.unwrap();
    tx.delete_rows("stats:orders", "field", "n").await.unwrap();
    for (table, column) in [("order:*", "field"), ("stats:orders", "key"), ("stats:orders", "order_id")] {
        let error = tx.delete_rows(table, column, "1").await.unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(Error::NoRows { .. })), "{error}");
    }
    tx.commit().await.unwrap();
    assert_eq!(live(&mut connection, &store).await, pairs(&[("order*", "4"), ("order:kept", "2"), ("orders", "3")]));
}

/// A table `order:*` of a store without a prefix, and a bus or a second store with the prefix `order`.
#[tokio::test]
async fn a_star_takes_no_events_of_others_away() {
    let (store, mut connection) = fresh().await;
    old(&store).await;
    let stream = key(&store, "order:stream");
    tell::<String>(&mut connection, &["XADD", &stream, "*", "a", "b"]).await;
    let (lease, owner) = (seize(&store, ROLE, "one").await, seize(&store, LIVE, "one").await);
    store.make_shadow(&shadow()).await.unwrap();
    assert!(fill(&store, &lease, 0, 4).await);
    let other = RedisEventStoreConfig { key_prefix: key(&store, "order"), ..store.config().clone() };
    open(other).await;
    let mut switch = store.begin().await.unwrap();
    let error = switch.replace_rows(&shadow()).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(Error::InvalidKey { key, .. }) if key == "order:*"), "{error}");
    let meta = key(&store, "order:eventstore:meta");
    assert_eq!(tell::<u64>(&mut connection, &["DEL", &meta]).await, 1);
    switch.replace_rows(&shadow()).await.unwrap();
    assert!(switch.advance(&owner, Position::START, 4.into()).await.unwrap());
    switch.commit().await.unwrap();
    for (name, is_there) in [("order:stream", 1), ("order:gone", 0), ("order:kept", 1)] {
        let found: u64 = tell(&mut connection, &["EXISTS", &key(&store, name)]).await;
        assert_eq!(found, is_there, "{name}");
    }
}
