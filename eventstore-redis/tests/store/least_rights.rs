//! The rights that the README names are enough to run a store, and touch no other keys.

use std::collections::HashMap;

use eventbus::{
    ExpectedVersion::{Any, Exact, NoStream},
    port::{AppendError, AppendEvents as _},
    testkit::event_store,
};
use eventstore_redis::{DurabilityWarning, RedisConnectError, RedisEventStore, RedisEventStoreConfig};
use redis::aio::MultiplexedConnection;

use crate::{
    append::{append, together},
    client,
    common::store::{config_on, open},
    events, key, order, tell, try_tell,
};

/// Runs rules of the suites, each on a store of its own.
macro_rules! run_rules {
    ($fresh_store:ident; $($rule:ident),* $(,)?) => {
        $(event_store::$rule($fresh_store().await).await;)*
    };
}

/// Has the server refuse an append after the events are in a stream; the next append shows that they were removed.
async fn undo_an_append(store: &RedisEventStore, admin: &mut MultiplexedConnection) {
    store.append(&order("1"), NoStream, events(1)).await.unwrap();
    let taken = key(store, "aggregate:Order:2");
    tell::<String>(admin, &["XADD", &taken, "1-0", "a", "b"]).await;
    tell::<u64>(admin, &["XDEL", &taken, "1-0"]).await;
    let error = together(store, ["1", "2"].map(|id| append(id, Any, events(1)))).await.unwrap_err();
    assert!(matches!(error, AppendError::Refused { .. }), "{error:?}");
    store.append(&order("1"), Exact(1.into()), events(1)).await.unwrap();
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
        multi_stream_append_takes_effect_whole_or_not_at_all,
        delivery_takes_effect_once,
        command_takes_effect_once,
        commands_are_forgotten,
        a_deleted_checkpoint_is_none,
        unique_value_is_held_by_one_stream,
        streams_may_share_an_event_id,
        repeat_of_a_group_returns_the_first_result,
        old_deliveries_are_forgotten,
    }
    let store = fresh_store().await;
    undo_an_append(&store, &mut admin).await;
    let warnings = store.durability().await.unwrap().warnings;
    assert!(!warnings.iter().any(|warning| matches!(warning, DurabilityWarning::NotChecked { .. })), "{warnings:?}");
    // also commands whose refusal the store bears
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
