//! The guide's promises, and the tests that fail when a promise is broken.
//!
//! This test fails if such a test is renamed or removed, so that no promise loses its proof unnoticed.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{collections::BTreeMap, fs, path::Path};

/// A file or folder of tests, and functions in it.
type Proof = (&'static str, &'static [&'static str]);

/// The promises in the order of the guide.
const PROMISES: &[(&str, &[Proof])] = &[
    (
        "A save that returned is durable.",
        &[
            ("eventbus/src/testkit/event_store", &["conflict_stores_nothing", "repeat_returns_the_first_result"]),
            ("eventbus/src/testkit/event_store/reopen.rs", &["events_and_checkpoints_survive_reopening"]),
            (
                "eventstore-postgres/tests/store/group.rs",
                &["nothing_is_lost_doubled_or_denied_when_backends_are_killed"],
            ),
            ("tests/tests/fire.rs", &["appends_over_a_failing_network_are_made_once"]),
            (
                "eventstore-redis/tests/store",
                &[
                    "of_two_writers_at_one_version_the_second_is_told_of_the_conflict",
                    "with_an_append_only_file_that_is_synced_always_nothing_is_lost_in_a_crash",
                    "each_setting_that_may_lose_events_is_warned_of_with_its_repair",
                ],
            ),
        ],
    ),
    (
        "Every stored event can be read back.",
        &[
            ("eventbus/tests/runtime/readable.rs", &["an_event_that_would_not_read_back_is_refused_at_every_save"]),
            (
                "eventbus/src/testkit/event_store",
                &["payload_that_hides_the_envelope_is_refused", "what_not_every_store_can_keep_is_refused"],
            ),
            (
                "eventbus/src/testkit/event_bus",
                &["a_payload_takes_over_no_identity", "what_not_every_bus_can_carry_is_refused"],
            ),
        ],
    ),
    (
        "No release misreads an event of another one",
        &[
            ("tests/tests/backends/versions.rs", &["on_postgres_and_redis", "on_sqlite_and_the_file_queue"]),
            ("eventbus/tests/macros/versions.rs", &["every_version_is_read_as_todays"]),
            (
                "eventbus/tests/runtime/on_store.rs",
                &["an_event_that_cannot_be_decoded_here_waits_for_a_release_of_its_version"],
            ),
            (
                "eventbus-redis/tests/bus/releases.rs",
                &[
                    "an_event_of_a_version_that_one_member_cannot_read_is_handled_by_one_that_can",
                    "an_event_that_a_release_could_not_read_is_handled_by_the_next_release_of_that_name",
                ],
            ),
            ("tests/tests/fire.rs", &["releases_that_replace_each_other_miss_no_event_of_a_handler"]),
        ],
    ),
    (
        "The feed of a store skips, repeats and reorders no event",
        &[
            ("eventbus/src/testkit/event_store/feed.rs", &["feed_never_skips_repeats_or_reorders"]),
            ("eventbus/src/testkit/event_store/follow.rs", &["following_has_no_seam"]),
            (
                "eventstore-redis/tests/store/crash.rs",
                &["appends_that_are_repeated_over_crashes_are_stored_once_and_in_order"],
            ),
            ("eventstore-postgres/tests/store/gaps.rs", &["no_foreign_transaction_holds_the_feed_up"]),
            ("eventstore-postgres/src/schema.rs", &["what_is_drawn_later_is_after_the_last_position_drawn"]),
            ("eventstore-postgres/src/feed.rs", &["a_head_that_was_told_can_be_read_up_to_while_it_goes_back"]),
            (
                "eventstore-postgres/tests/store/crash.rs",
                &["a_position_at_or_before_the_head_is_not_drawn_again_after_a_crash"],
            ),
            ("tests/tests/fire.rs", &["the_feed_neither_skips_nor_repeats_nor_reorders_and_wrong_readers_are_caught"]),
        ],
    ),
    (
        "The relay publishes each stored event once and in order",
        &[
            (
                "tests/tests/relay/main.rs",
                &[
                    "relays_that_are_killed_or_paused_beyond_their_lease_publish_everything_once_and_in_order",
                    "a_database_restored_from_a_backup_publishes_nothing_until_somebody_says_from_where",
                    "a_new_database_beside_the_stream_of_a_former_one_is_refused_and_may_share_it",
                ],
            ),
            (
                "eventbus-redis/tests/relay",
                &[
                    "publishers_that_race_publish_everything_once_in_order",
                    "a_range_whose_reply_was_lost_is_sent_again_and_published_once",
                    "wherever_the_log_of_the_server_is_cut_stream_and_record_agree",
                ],
            ),
        ],
    ),
    (
        "Every handler gets every event of its types at least once",
        &[
            (
                "tests/tests/backends/handlers_on_store.rs",
                &[
                    "on_sqlite_each_event_is_handled_by_one_process_and_a_killed_one_is_replaced",
                    "on_postgres_each_event_is_handled_by_one_process_and_a_killed_one_is_replaced",
                    "on_postgres_a_handler_has_a_lease_of_10_s_by_default",
                ],
            ),
            (
                "eventbus/src/testkit/event_store/handler_progress.rs",
                &[
                    "a_shard_has_one_owner",
                    "a_former_owner_saves_nothing",
                    "progress_is_saved_together",
                    "deaths_are_counted_until_a_shard_progresses",
                ],
            ),
            ("eventbus/src/runtime/engine/tests/deaths.rs", &["a_shard_without_unfinished_events_counts_no_death"]),
            (
                "eventstore-postgres/tests/store/notify.rs",
                &["the_end_of_a_process_with_handlers_is_announced_to_others"],
            ),
            (
                "eventbus/tests/runtime/on_store.rs",
                &[
                    "two_apps_share_the_shards_of_a_handler",
                    "a_standby_takes_over_at_once_when_the_owner_ends",
                    "the_progress_of_all_handlers_of_a_process_is_saved_in_one_step",
                    "after_three_owners_without_progress_events_run_one_at_a_time_in_a_process",
                    "two_processes_whose_handlers_of_one_name_are_of_different_crates_both_say_so",
                ],
            ),
            (
                "tests/tests/backends/kill.rs",
                &["what_a_killed_consumer_had_in_hand_is_handled_by_the_other_and_nothing_else_twice"],
            ),
            (
                "eventbus-redis/tests/bus/recovery.rs",
                &["a_slow_handler_keeps_its_claim_while_another_consumer_is_looking"],
            ),
            ("eventbus/src/testkit/event_bus", &["only_failed_handlers_run_again"]),
            (
                "tests/tests/fire.rs",
                &[
                    "processes_that_die_anywhere_lose_and_repeat_nothing",
                    "processes_of_one_store_lose_no_event_and_share_none",
                    "processes_of_one_file_lose_no_event_and_share_none",
                ],
            ),
        ],
    ),
    (
        "A fault of the database is no fault of the event",
        &[(
            "tests/tests/backends/database_faults.rs",
            &[
                "tables_that_are_locked_for_longer_than_every_budget_are_waited_for",
                "a_full_disk_is_waited_for",
                "a_server_without_memory_is_waited_for",
                "a_statement_that_takes_too_long_is_the_events_own_failure",
            ],
        )],
    ),
    (
        "A handler that does not return times out",
        &[
            (
                "tests/tests/backends/stuck_handlers.rs",
                &[
                    "a_handler_that_awaits_for_ever_is_shown_then_ended_after_a_minute_and_others_go_on",
                    "a_handler_that_blocks_its_thread_is_named_others_go_on_and_the_process_ends_with_70",
                    "a_process_whose_only_thread_is_blocked_ends_with_70",
                ],
            ),
            ("eventbus/tests/runtime/on_store.rs", &["a_handler_that_does_not_end_holds_up_no_other"]),
        ],
    ),
    (
        "A failing event blocks only its own aggregate",
        &[
            (
                "eventbus/tests/runtime/on_store.rs",
                &[
                    "a_held_dead_letter_keeps_later_events_of_its_aggregate_until_it_is_replayed",
                    "a_handler_with_too_many_waiting_events_reads_no_more_and_is_an_alert",
                    "a_running_app_takes_a_dead_letter_that_is_replayed",
                ],
            ),
            (
                "eventbus-redis/tests/bus/retries.rs",
                &[
                    "delays_grow_while_other_aggregates_flow_and_the_same_one_waits",
                    "order_holds_over_a_retry_and_a_restart",
                    "a_full_hand_stops_the_reading_and_it_goes_on_later",
                    "a_dead_letter_keeps_the_event_and_says_what_happened",
                ],
            ),
            ("eventbus/src/testkit/event_bus", &["an_event_that_fails_for_long_is_an_alert_until_it_is_finished"]),
            (
                "eventbus-redis/tests/bus/health.rs",
                &["an_event_that_fails_for_five_minutes_is_an_alert_in_each_process_until_it_is_handled"],
            ),
            ("eventbus/tests/axum.rs", &["an_event_that_fails_for_five_minutes_is_an_alert_and_the_app_stays_ready"]),
        ],
    ),
    (
        "No unknown event is dropped in silence",
        &[
            (
                "eventbus/tests/runtime/on_store.rs",
                &["an_event_that_cannot_be_decoded_here_waits_for_a_release_of_its_version"],
            ),
            ("eventbus-redis/tests/bus/retries.rs", &["what_is_no_event_becomes_a_dead_letter_byte_by_byte"]),
            (
                "eventbus-redis/tests/bus/releases.rs",
                &[
                    "an_event_of_a_type_that_no_handler_takes_is_acknowledged_counted_and_logged_once",
                    "an_event_of_a_version_that_one_member_cannot_read_is_handled_by_one_that_can",
                    "an_event_that_no_member_can_read_for_five_minutes_is_an_alert",
                ],
            ),
            (
                "eventbus/src/testkit/event_store/event_types.rs",
                &["event_types_are_listed_by_appends", "racing_first_appends_list_their_type_once"],
            ),
            ("eventbus/tests/stored_types.rs", &["stored_event_types_that_no_code_knows_are_named_in_one_warning"]),
        ],
    ),
    (
        "Rows and checkpoint of a projection commit together",
        &[
            (
                "tests/tests/rows",
                &[
                    "rows_and_checkpoint_survive_kills_together",
                    "a_paused_owner_writes_nothing_more",
                    "effects_are_made_once_whatever_is_killed",
                    "rows_are_replaced_all_or_none",
                    "a_failing_event_of_a_batch_is_found_and_those_before_it_are_committed_once",
                ],
            ),
            (
                "tests/tests/backends/consumed_stream.rs",
                &[
                    "on_sqlite_an_entry_takes_effect_once_though_its_process_dies_before_it_acknowledges",
                    "on_postgres_an_entry_takes_effect_once_though_its_process_dies_before_it_acknowledges",
                ],
            ),
            ("eventbus/tests/runtime/effects.rs", &["a_handler_in_another_group_repeats_no_effect"]),
            (
                "eventstore-redis/tests/store",
                &[
                    "over_crashes_of_the_server_each_save_of_a_handler_takes_effect_once",
                    "a_stream_that_the_server_refuses_undoes_the_streams_before_it",
                ],
            ),
            (
                "eventstore-postgres/tests/store/shadow.rs",
                &["copies_are_not_filled_while_their_rows_replace_the_live_ones"],
            ),
            (
                "tests/tests/fire.rs",
                &[
                    "processes_that_were_paused_write_nothing_any_more",
                    "processes_of_one_store_lose_no_event_and_share_none",
                ],
            ),
        ],
    ),
    (
        "What a handler saves through its `Repository` is stored once",
        &[
            ("tests/tests/fire.rs", &["transfers_are_whole_and_reacted_to_once"]),
            ("eventbus/src/testkit/event_store", &["multi_stream_append_takes_effect_whole_or_not_at_all"]),
            ("eventbus/tests/runtime/reactions.rs", &["saves_continue_the_conversation_of_the_event"]),
            ("tests/tests/python/tree", &["each_order_has_one_tree_over_three_services_that_are_killed"]),
        ],
    ),
    (
        "A command with a key takes effect once",
        &[
            ("tests/tests/fire.rs", &["a_command_takes_effect_once", "servers_without_keys_are_caught"]),
            ("eventbus/src/testkit/event_store", &["concurrent_commands_of_one_key_are_one"]),
            ("eventbus/tests/runtime/once.rs", &["of_32_callers_one_decides_and_all_have_its_answer"]),
        ],
    ),
    (
        "A unique value has one holder",
        &[
            (
                "tests/tests/fire.rs",
                &["an_address_has_one_holder", "writers_that_look_for_the_holder_first_are_caught"],
            ),
            ("eventbus/src/testkit/event_store", &["concurrent_takers_of_a_unique_value_are_one"]),
        ],
    ),
    (
        "A decision about tags holds when its events are stored",
        &[
            (
                "eventbus/src/testkit/event_store/boundaries.rs",
                &[
                    "condition_holds_until_its_boundary_moves",
                    "concurrent_decisions_about_a_tag_are_serial",
                    "condition_on_an_unknown_tag_is_kept",
                    "every_append_counts_its_tags",
                ],
            ),
            (
                "eventbus/tests/runtime/decisions.rs",
                &["a_decision_whose_boundary_moves_is_made_again", "events_are_counted_before_they_are_read"],
            ),
            ("tests/tests/backends/decisions.rs", &["course_subscriptions", "invoice_numbers"]),
            (
                "tests/tests/fire.rs",
                &[
                    "on_postgres_decisions_keep_their_rules",
                    "on_sqlite_decisions_keep_their_rules",
                    "the_statement_of_the_textbook_is_caught",
                ],
            ),
        ],
    ),
    (
        "Redis may restart, be flushed or be restored from an older copy",
        &[
            (
                "tests/tests/relay/main.rs",
                &[
                    "a_redis_that_comes_back_from_a_copy_gets_again_what_it_lacks",
                    "a_redis_that_is_flushed_gets_what_comes_and_is_filled_again_on_request",
                ],
            ),
            ("eventbus-redis/tests/healing", &["a_restart_loses_and_repeats_nothing", "a_group_that_was_destroyed"]),
            ("tests/tests/fire.rs", &["servers_that_crash_and_forget_lose_no_effect"]),
        ],
    ),
    (
        "A store that lost events publishes nothing until somebody decides",
        &[
            (
                "tests/tests/relay/main.rs",
                &[
                    "a_database_restored_from_a_backup_publishes_nothing_until_somebody_says_from_where",
                    "effects_and_progress_stay_of_one_moment_when_an_older_database_takes_over_under_a_running_app",
                ],
            ),
            (
                "eventbus/tests/runtime/relay_stopped.rs",
                &[
                    "a_store_that_goes_back_and_comes_further_while_the_relay_runs_stops_it",
                    "what_was_read_before_the_store_went_back_is_not_published",
                    "a_relay_goes_on_from_the_last_event_that_the_restored_store_and_the_bus_share",
                ],
            ),
            (
                "eventbus/tests/runtime/restored.rs",
                &[
                    "state_in_memory_is_folded_anew_when_the_store_went_back_and_is_unready_meanwhile",
                    "state_in_memory_takes_new_events_at_positions_that_it_had_passed",
                ],
            ),
            (
                "eventstore-redis/tests/store",
                &["a_failover_that_lost_published_events_stops_the_relay_however_far_others_have_come_since"],
            ),
            (
                "eventstore-postgres/tests/store",
                &["after_a_failover_that_lost_commits_each_event_is_of_its_own_stream"],
            ),
        ],
    ),
    (
        "A shutdown drains the deliveries in flight",
        &[
            ("tests/tests/signal.rs", &["sigterm_stops_after_the_delivery_in_hand"]),
            (
                "eventbus-redis/tests/bus/recovery.rs",
                &["what_a_consumer_has_not_begun_when_it_stops_is_taken_over_at_once"],
            ),
        ],
    ),
    (
        "Bad input is a typed error",
        &[
            ("eventbus/src/testkit/event_store/append.rs", &["payload_that_is_no_json_object_is_refused"]),
            ("eventbus-redis/tests/bus/config.rs", &["all_mistakes_are_named_at_once"]),
            ("eventstore-redis/tests/store", &["an_entry_of_the_tutorials_own_code_is_named_by_whoever_meets_it"]),
            ("eventbus-redis/tests/relay", &["what_cannot_be_published_is_refused_by_name_and_nothing_is_sent"]),
        ],
    ),
];

/// Returns the text of a file, or of all files below a folder.
fn text(path: &Path) -> String {
    if path.is_file() {
        return fs::read_to_string(path).unwrap();
    }
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    entries.map(|entry| text(&entry.unwrap().path())).collect()
}

/// Returns `true` if a text has this test. One that takes a store is a test if the macro makes it one on each store.
fn has_test(text: &str, test: &str) -> bool {
    let is_on_each_store = || {
        let listed = text.split("\non_each_store!(").nth(1).and_then(|list| list.split(')').next());
        let makes_tests = |store| text.contains(&format!("on_each_store! {{ @store {store} [$($test),*] }}"));
        listed.is_some_and(|listed| listed.split(',').any(|listed| listed.trim() == test))
            && ["postgres Postgres", "redis Redis", "sqlite Sqlite"].into_iter().all(makes_tests)
    };
    match text.contains(&format!("fn {test}(store: StoreKind)")) {
        true => is_on_each_store(),
        false => text.contains(&format!("fn {test}")),
    }
}

#[test]
fn each_promise_has_tests_that_are_there() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let promised = fs::read_to_string(workspace.join("guide/src/promises.md")).unwrap();
    let mut texts = BTreeMap::new();
    let (mut at, mut missing) = (0, Vec::new());
    for (promise, proofs) in PROMISES {
        let found = promised[at..].find(&format!("\n## {}\n", promise.trim_end_matches(['.', ',', ':'])));
        at += found.unwrap_or_else(|| panic!("the guide does not promise, or not in this order: {promise}"));
        for (place, tests) in *proofs {
            let text = texts.entry(*place).or_insert_with(|| text(&workspace.join(place)));
            let gone = tests.iter().filter(|test| !has_test(text, test));
            missing.extend(gone.map(|test| format!("{promise} {place}: {test}")));
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    let promises = promised.split("\n## How they are attacked").next().unwrap().matches("\n## ").count();
    assert_eq!(promises, PROMISES.len(), "a promise of the guide has no test here");
}
