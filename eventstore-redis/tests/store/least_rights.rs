//! The rights that the README names are enough to run a store, and touch no other keys.

use std::collections::HashMap;

use eventbus::{
    EventId,
    ExpectedVersion::{Any, Exact, NoStream},
    Name, Position,
    event::Tag,
    port::{AppendError, AppendEvents as _, Transactions as _},
    testkit::event_store,
};
use eventstore_redis::{
    DurabilityWarning, RedisConnectError, RedisEventStore, RedisEventStoreConfig, RedisTransactionError as Error,
};
use redis::aio::MultiplexedConnection;

use crate::{
    client,
    common::{
        store::{config_on, open},
        until,
    },
    event, events, key, order, seize,
    shadow::{LIVE, ROLE, fill, old, shadow},
    tell, try_tell,
};

/// Runs rules of the suites, each on a store of its own.
macro_rules! run_rules {
    ($fresh_store:ident; $($rule:ident),* $(,)?) => {
        $(event_store::$rule($fresh_store().await).await;)*
    };
}

/// Makes an effect of each kind in one transaction; the next one makes them again and undoes them, as its last effect is
/// refused.
async fn make_and_undo_effects(store: &RedisEventStore) {
    for is_refused in [false, true] {
        let mut tx = store.begin_transaction();
        tx.set("gone", "1").unwrap();
        tx.commit().await.unwrap();
        let mut tx = store.begin_transaction();
        tx.get::<String>("word").await.unwrap();
        tx.hget::<u64>("hash", "n").await.unwrap();
        tx.hset("hash", "a", "1").unwrap();
        tx.hincrby("hash", "n", 1).unwrap();
        tx.hincrbyfloat("hash", "f", 0.5).unwrap();
        tx.hdel("hash", "a").unwrap();
        tx.set("word", "a").unwrap();
        tx.incrby("number", 1).unwrap();
        tx.sadd("set", "a").unwrap();
        tx.srem("set", "b").unwrap();
        tx.zadd("scores", "a", 1.0).unwrap();
        tx.zincrby("scores", "a", 1.0).unwrap();
        tx.zrem("scores", "b").unwrap();
        tx.del("gone").unwrap();
        tx.command("HSETNX", "once", ["a", "1"]).unwrap();
        if is_refused {
            tx.hincrby("word", "n", 1).unwrap();
            let error = tx.commit().await.unwrap_err();
            assert!(matches!(&error, Error::EffectRefused { command, .. } if command == "HINCRBY"), "{error:?}");
        } else {
            tx.commit().await.unwrap();
        }
    }
}

/// Has the server refuse an append after the events are in their stream; the next append shows that they were removed.
async fn undo_an_append(store: &RedisEventStore, admin: &mut MultiplexedConnection) {
    store.append(&order("1"), NoStream, events(1)).await.unwrap();
    let counts = key(store, "eventstore:tags:course:1");
    tell::<String>(admin, &["SET", &counts, "foreign"]).await;
    let tagged = event(1).with_tags([Tag::from_stored("course:1").unwrap()]);
    let error = store.append(&order("1"), Any, vec![tagged]).await.unwrap_err();
    assert!(matches!(error, AppendError::Refused { .. }), "{error:?}");
    tell::<u64>(admin, &["DEL", &counts]).await;
    store.append(&order("1"), Exact(1.into()), events(1)).await.unwrap();
}

/// Puts the copies of one rebuild in the place of the live keys, and drops those of a second one.
async fn rebuild(store: &RedisEventStore) {
    old(store).await;
    let lease = seize(store, ROLE, "one").await;
    store.make_shadow(&shadow()).await.unwrap();
    assert!(fill(store, &lease, 0, 4).await);
    let owner = seize(store, LIVE, "one").await;
    let mut switch = store.begin().await.unwrap();
    switch.replace_rows(&shadow()).await.unwrap();
    assert!(switch.advance(&owner, Position::START, 4.into()).await.unwrap());
    switch.commit().await.unwrap();
    store.make_shadow(&shadow()).await.unwrap();
    assert!(fill(store, &lease, 0, 4).await);
    store.drop_shadow(&shadow()).await.unwrap();
}

/// Holds a lock until the store has renewed it.
async fn renew_a_lock(store: &RedisEventStore, admin: &mut MultiplexedConnection) {
    let mut tx = store.begin().await.unwrap();
    assert!(tx.is_first(&Name::from_static("mail"), &order("1"), EventId::new()).await.unwrap());
    until("the lock is renewed", async || {
        tell::<String>(admin, &["INFO", "commandstats"]).await.contains("cmdstat_pexpire:calls=")
    })
    .await;
    tx.commit().await.unwrap();
}

/// The commands that the server has refused a user. The client does not need `CLIENT SETINFO`, which Redis 7.0 has not.
async fn refused_commands(admin: &mut MultiplexedConnection) -> Vec<String> {
    let log: Vec<HashMap<String, String>> = tell(admin, &["ACL", "LOG"]).await;
    let commands = log.into_iter().map(|entry| format!("{} in {}", entry["object"], entry["context"]));
    commands.filter(|command| !command.starts_with("client|setinfo")).collect()
}

/// The line of the README, as it stands there. Fails if the store needs a key or a command that it does not name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_user_of_the_readme_can_run_a_store_and_touch_no_other_keys() {
    let page = include_str!("../../README.md");
    let line = page.lines().find(|line| line.starts_with("ACL SETUSER")).expect("the README has the line");
    let server = eventbus_test::private_redis();
    let mut admin = client(server.url()).await;
    tell::<String>(&mut admin, &line.split(' ').collect::<Vec<_>>()).await;
    let url = server.url().replace("redis://", "redis://app:password@");
    let with = |key_prefix| RedisEventStoreConfig { key_prefix, check_durability: true, ..config_on(&url) };
    let fresh_store = async || open(with(format!("shop:{}", eventbus_test::unique_name("store")))).await;
    run_rules! {
        fresh_store;
        streams_are_listed_page_by_page,
        checkpoints_and_leases_are_listed,
        append_returns_what_is_read_back,
        several_events_are_stored_all_or_none,
        repeat_returns_the_first_result,
        reads_backward_from_a_version,
        recorded_times_are_kept_and_found,
        events_are_read_at_positions,
        as_many_events_are_counted_as_are_read,
        event_types_are_listed_by_appends,
        checkpoint_is_what_was_saved_last,
        notes_are_listed_by_prefix_until_they_are_removed,
        renewed_lease_is_kept_and_a_passed_one_is_not,
        release_lets_the_next_one_in,
        new_types_are_left_by_each_shard,
        renewed_shards_are_kept,
        progress_is_saved_together,
        dead_rows_are_listed_oldest_first,
        a_dead_row_ends_once,
        members_that_end_are_gone,
        groups_are_paused_until_they_are_resumed,
        a_retired_handler_is_gone,
        snapshot_is_read_back_with_the_events_after_it,
        removed_snapshot_is_gone,
        snapshots_of_a_fold_are_removed_together,
        unique_value_is_given_back,
        unique_value_is_assigned_to_a_stored_stream,
        events_are_found_by_their_tags,
        boundary_is_read_with_its_condition,
        tag_is_added_to_a_stored_event,
        multi_stream_append_takes_effect_whole_or_not_at_all,
        delivery_takes_effect_once,
        command_takes_effect_once,
        commands_are_forgotten,
        committed_transaction_is_kept_whole,
        checkpoint_advances_only_from_where_it_is,
        old_deliveries_are_forgotten,
    }
    let store = fresh_store().await;
    make_and_undo_effects(&store).await;
    undo_an_append(&store, &mut admin).await;
    rebuild(&store).await;
    renew_a_lock(&store, &mut admin).await;
    let warnings = store.durability().await.unwrap().warnings;
    assert!(!warnings.iter().any(|warning| matches!(warning, DurabilityWarning::NotChecked { .. })), "{warnings:?}");
    // also commands whose refusal the store bears, such as the renewal of a lock
    let refused = refused_commands(&mut admin).await;
    assert!(refused.is_empty(), "{refused:?}");

    let mut app = client(&url).await;
    for refused in [
        &["GET", "others:x"][..],
        &["XADD", "others:aggregate:Order:1", "*", "a", "b"],
        &["XTRIM", "shop:aggregate:Order:1", "MAXLEN", "0"],
        &["KEYS", "*"],
        &["FLUSHALL"],
    ] {
        let error = try_tell::<redis::Value>(&mut app, refused).await.unwrap_err();
        assert_eq!(error.code(), Some("NOPERM"), "{refused:?}");
    }
    let error = RedisEventStore::connect(with("others".into())).await.unwrap_err();
    assert!(matches!(error, RedisConnectError::Refused { .. }), "{error:?}");
}
