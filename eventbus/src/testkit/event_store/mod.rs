//! The conformance suite of event stores: one rule per function, each one `#[tokio::test]` of the backend.
//!
//! A backend calls [`event_store_conformance!`](crate::event_store_conformance) with an expression that makes a fresh,
//! empty store; if its data outlives the process, also
//! [`event_store_reopen_conformance!`](crate::event_store_reopen_conformance); if it has tags, also
//! [`event_store_tags_conformance!`](crate::event_store_tags_conformance); if it has transactions, also
//! [`event_store_transactions_conformance!`](crate::event_store_transactions_conformance); if it keeps the progress of
//! handlers, also [`handler_progress_conformance!`](crate::handler_progress_conformance). Its tests need `tokio` with
//! `macros` and `rt-multi-thread`. A failure names the rule that is broken.
//!
//! Invariant: a new rule goes into the list of its macro below, and its author has seen it fail on a store broken on
//! purpose.

mod append;
mod append_many;
mod boundaries;
mod checkpoint;
mod commands;
mod concurrency;
mod event_types;
mod expected_version;
mod feed;
mod filter;
mod follow;
mod handler_progress;
mod idempotency;
mod lease;
mod listings;
mod missing_events;
mod multi_stream_appends;
mod reopen;
mod snapshots;
mod store_under_test;
mod stream;
mod stream_names;
mod transaction;
mod unique_values;
mod validity;

pub use append::*;
pub use append_many::*;
pub use boundaries::*;
pub use checkpoint::*;
pub use commands::*;
pub use concurrency::*;
pub use event_types::*;
pub use expected_version::*;
pub use feed::*;
pub use filter::*;
pub use follow::*;
pub use handler_progress::*;
pub use idempotency::*;
pub use lease::*;
pub use listings::*;
pub use missing_events::*;
pub use multi_stream_appends::*;
pub use reopen::*;
pub use snapshots::*;
pub use stream::*;
pub use stream_names::*;
pub use transaction::*;
pub use unique_values::*;
pub use validity::*;

/// Makes a module of tests, one per rule, that a store must pass.
///
/// The first argument is the module's name, the second a future that makes a fresh, empty store. Each rule evaluates it
/// once, in the scope of the macro call.
///
/// # Examples
/// ```
/// use eventbus::InMemoryEventStore;
/// eventbus::event_store_conformance!(memory, async { InMemoryEventStore::new() });
/// ```
#[macro_export]
macro_rules! event_store_conformance {
    ($name:ident, $fresh_store:expr $(,)?) => {
        mod $name {
            #[allow(unused_imports, reason = "the expression may use items of the calling module")]
            use super::*;

            $crate::event_store_conformance! {
                @each $fresh_store;
                versions_start_at_one_and_are_contiguous,
                positions_grow_in_append_order,
                append_returns_what_is_read_back,
                payloads_are_kept_byte_for_byte,
                times_are_kept_to_the_microsecond,
                recorded_times_are_kept_and_found,
                original_recorded_times_are_kept,
                empty_append_does_nothing,
                several_events_are_stored_all_or_none,
                payload_that_is_no_json_object_is_refused,
                large_appends_are_stored_whole,
                payload_that_hides_the_envelope_is_refused,
                what_not_every_store_can_keep_is_refused,
                what_every_store_can_keep_is_kept,
                no_stream_accepts_only_a_new_stream,
                stream_exists_accepts_only_an_existing_stream,
                exact_accepts_only_that_version,
                exact_none_is_no_stream,
                any_accepts_every_stream,
                conflict_stores_nothing,
                refused_events_can_be_appended_later,
                repeat_returns_the_first_result,
                repeat_is_known_at_every_expectation,
                repeat_is_known_after_other_events,
                repeat_does_not_overwrite,
                concurrent_repeats_are_stored_once,
                partly_known_ids_are_refused,
                streams_may_share_an_event_id,
                id_twice_in_one_append_is_refused,
                any_never_conflicts,
                one_writer_creates_the_stream,
                one_writer_appends_at_a_version,
                readers_never_see_half_an_append,
                failing_appends_harm_no_other,
                each_of_many_appends_has_its_result,
                failing_append_harms_no_other_of_its_call,
                appends_to_one_stream_are_made_in_order,
                repeats_among_many_return_the_first_result,
                many_streams_are_appended_to_at_once,
                aggregate_types_do_not_mix,
                tenants_do_not_mix,
                context_of_another_tenant_is_refused,
                natural_keys_are_kept_apart,
                type_and_id_do_not_run_together,
                reads_forward_from_a_version,
                reads_backward_from_a_version,
                missing_stream_is_empty,
                long_streams_are_read_whole,
                visits_show_what_reads_do,
                open_read_holds_up_no_writer,
                feed_starts_after_a_position,
                long_feeds_are_read_whole,
                events_are_read_at_positions,
                feeds_are_read_around_skipped_positions,
                appends_do_not_break_an_open_feed,
                head_is_at_or_after_the_last_event,
                feed_never_skips_repeats_or_reorders,
                nothing_appears_at_or_below_the_head,
                pages_are_read_after_their_end,
                pages_reach_as_far_as_they_say,
                append_wakes_who_watches,
                following_has_no_seam,
                following_a_part_keeps_up_with_the_rest,
                following_pauses_resumes_and_stops,
                unsaved_checkpoint_is_none,
                checkpoint_is_what_was_saved_last,
                a_deleted_checkpoint_is_none,
                checkpoint_names_are_independent,
                checkpoints_are_saved_beside_appends,
                a_note_is_what_was_saved_last,
                notes_are_listed_by_prefix_until_they_are_removed,
                filters_ask_for_types_and_tenant,
                slots_divide_the_feed,
                long_filtered_feeds_are_read_whole,
                feeds_end_at_a_position,
                as_many_events_are_counted_as_are_read,
                lease_has_one_owner,
                lease_names_its_owner,
                lease_runs_out_and_epochs_grow,
                renewed_lease_is_kept_and_a_passed_one_is_not,
                seizing_fences_the_former_owner,
                release_lets_the_next_one_in,
                leases_of_roles_are_independent,
                one_of_racing_owners_gets_the_lease,
                streams_are_listed_page_by_page,
                a_stream_is_listed_at_its_last_version,
                checkpoints_and_leases_are_listed,
                event_types_are_listed_by_appends,
                refused_appends_list_no_event_types,
                racing_first_appends_list_their_type_once,
                snapshot_is_read_back_with_the_events_after_it,
                snapshots_of_any_size_are_kept,
                newer_snapshot_replaces_an_older_one,
                snapshots_of_folds_streams_and_tenants_are_independent,
                snapshot_beyond_its_stream_is_refused,
                removed_snapshot_is_gone,
                snapshots_of_a_fold_are_removed_together,
                stream_without_a_snapshot_is_read_whole,
                long_streams_are_read_after_a_snapshot,
                concurrent_savers_leave_the_highest_version,
                snapshots_are_read_beside_writers,
                unique_value_is_held_by_one_stream,
                unique_values_are_of_a_tenant_a_type_and_a_name,
                unique_value_is_given_back,
                repeated_append_changes_no_unique_value,
                appends_of_one_call_take_their_unique_values,
                multi_stream_append_changes_unique_values_together,
                concurrent_takers_of_a_unique_value_are_one,
                unique_value_is_assigned_to_a_stored_stream,
                unique_values_are_compared_byte_by_byte,
                assigning_beside_saves_leaves_one_value,
                multi_stream_append_stores_the_events_of_all_streams,
                multi_stream_append_takes_effect_whole_or_not_at_all,
                conflict_of_a_group_names_its_first_stream,
                stream_that_was_checked_to_be_absent_can_be_created,
                repeat_of_a_group_returns_the_first_result,
                partly_stored_group_is_refused,
                multi_stream_append_that_no_store_takes_is_refused,
                large_groups_are_stored_whole,
                delivery_takes_effect_once,
                deliveries_of_two_streams_are_two,
                old_deliveries_are_forgotten,
                concurrent_groups_are_serial,
                checked_stream_is_as_it_was_seen,
                command_takes_effect_once,
                command_without_events_takes_effect_once,
                refused_command_is_not_noted,
                command_keys_are_those_of_a_tenant,
                concurrent_commands_of_one_key_are_one,
                concurrent_commands_of_one_key_and_value_are_one,
                commands_are_forgotten,
                command_keys_and_answers_are_texts,
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn stores_are_told_apart_by_their_ids() {
                $crate::testkit::event_store::stores_are_told_apart_by_their_ids($fresh_store.await, $fresh_store.await)
                    .await;
            }
        }
    };
    (@each $fresh_store:expr; $($rule:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                $crate::testkit::event_store::$rule($fresh_store.await).await;
            }
        )*
    };
}

/// Makes a module of tests, one per rule, that a store must pass if its events outlive the process.
///
/// The second argument is a future of a place without a store (a path, an address), the third an async closure that
/// opens a store there. The rules close and reopen that store several times.
///
/// # Examples
/// ```ignore
/// eventbus::event_store_reopen_conformance!(reopened, temporary_file(), async |path: PathBuf| open(&path).await);
/// ```
#[macro_export]
macro_rules! event_store_reopen_conformance {
    ($name:ident, $fresh_place:expr, $open:expr $(,)?) => {
        mod $name {
            #[allow(unused_imports, reason = "the expressions may use items of the calling module")]
            use super::*;

            $crate::event_store_reopen_conformance! {
                @each $fresh_place, $open;
                events_and_checkpoints_survive_reopening,
                repeats_are_known_after_reopening,
                two_handles_are_one_store,
                delivery_state_survives_reopening,
                event_types_survive_reopening,
            }
        }
    };
    (@each $fresh_place:expr, $open:expr; $($rule:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                $crate::testkit::event_store::$rule($fresh_place.await, $open).await;
            }
        )*
    };
}

/// Makes a module of tests, one per rule, that a store must pass if handlers can take part in its transactions.
///
/// Takes the arguments of [`event_store_conformance!`](crate::event_store_conformance).
///
/// # Examples
/// ```ignore
/// eventbus::event_store_transactions_conformance!(transactions, open(&temporary_file()));
/// ```
#[macro_export]
macro_rules! event_store_transactions_conformance {
    ($name:ident, $fresh_store:expr $(,)?) => {
        mod $name {
            #[allow(unused_imports, reason = "the expression may use items of the calling module")]
            use super::*;

            $crate::event_store_conformance! {
                @each $fresh_store;
                committed_transaction_is_kept_whole,
                dropped_transaction_leaves_nothing,
                checkpoint_advances_only_from_where_it_is,
                former_owner_moves_nothing,
                takeover_sees_what_was_committed,
                deliveries_are_first_once_per_handler,
                deliveries_are_first_once_per_stream,
                same_delivery_waits_for_the_other_one,
                one_of_racing_advances_is_made,
                taken_value_leaves_the_transaction_as_it_was,
                committed_transaction_counts_its_tags,
            }
        }
    };
}

/// Makes a module of tests, one per rule, that a store must pass if it has [tags](crate::store::Boundaries).
///
/// Takes the arguments of [`event_store_conformance!`](crate::event_store_conformance).
///
/// # Examples
/// ```
/// use eventbus::InMemoryEventStore;
/// eventbus::event_store_tags_conformance!(tags, async { InMemoryEventStore::new() });
/// ```
#[macro_export]
macro_rules! event_store_tags_conformance {
    ($name:ident, $fresh_store:expr $(,)?) => {
        mod $name {
            #[allow(unused_imports, reason = "the expression may use items of the calling module")]
            use super::*;

            $crate::event_store_conformance! {
                @each $fresh_store;
                events_are_found_by_their_tags,
                long_feeds_of_tagged_events_are_read_whole,
                boundary_is_read_with_its_condition,
                condition_holds_until_its_boundary_moves,
                item_moves_if_all_its_tags_do,
                every_append_counts_its_tags,
                repeat_is_known_after_its_boundary_moved,
                moved_boundary_notes_no_command,
                moved_boundary_comes_before_a_taken_value,
                concurrent_decisions_about_a_tag_are_serial,
                condition_on_an_unknown_tag_is_kept,
                tags_are_compared_byte_by_byte,
                tag_is_added_to_a_stored_event,
            }
        }
    };
}

/// Makes a module of tests, one per rule, that a store must pass if it keeps the [progress of
/// handlers](crate::port::handler_progress).
///
/// Takes the arguments of [`event_store_conformance!`](crate::event_store_conformance).
///
/// # Examples
/// ```
/// use eventbus::InMemoryEventStore;
/// eventbus::handler_progress_conformance!(handlers, async { InMemoryEventStore::new() });
/// ```
#[macro_export]
macro_rules! handler_progress_conformance {
    ($name:ident, $fresh_store:expr $(,)?) => {
        mod $name {
            #[allow(unused_imports, reason = "the expression may use items of the calling module")]
            use super::*;

            $crate::event_store_conformance! {
                @each $fresh_store;
                a_declared_handler_gets_its_shards,
                new_types_are_left_by_each_shard,
                lists_of_types_keep_their_numbers,
                declaring_again_changes_nothing,
                concurrent_declarations_are_one,
                a_shard_has_one_owner,
                an_own_shard_is_acquired_again,
                one_of_racing_processes_gets_a_shard,
                a_released_shard_is_free_at_once,
                a_shard_of_a_dead_owner_is_free,
                deaths_are_counted_until_a_shard_progresses,
                renewed_shards_are_kept,
                a_former_owner_saves_nothing,
                progress_is_saved_together,
                no_progress_is_saved_after_the_store_went_back,
                rows_that_wait_or_are_held_are_live,
                dead_rows_are_listed_oldest_first,
                a_dead_row_ends_once,
                a_look_shows_free_shards_and_members,
                members_that_end_are_gone,
                groups_are_paused_until_they_are_resumed,
                a_created_handler_begins_after_its_position,
                a_retired_handler_is_gone,
                names_of_handlers_are_compared_byte_by_byte,
                concurrent_saves_of_the_same_shards_end,
            }
        }
    };
}

#[cfg(test)]
mod tests {
    /// A rule that is not listed never runs, and one with a wrong name misleads.
    #[test]
    fn every_rule_is_listed_and_names_itself() {
        let lists = include_str!("mod.rs");
        let mut rules = 0;
        for file in [
            include_str!("append.rs"),
            include_str!("boundaries.rs"),
            include_str!("checkpoint.rs"),
            include_str!("commands.rs"),
            include_str!("event_types.rs"),
            include_str!("expected_version.rs"),
            include_str!("feed.rs"),
            include_str!("filter.rs"),
            include_str!("lease.rs"),
            include_str!("listings.rs"),
            include_str!("missing_events.rs"),
            include_str!("follow.rs"),
            include_str!("handler_progress.rs"),
            include_str!("multi_stream_appends.rs"),
            include_str!("append_many.rs"),
            include_str!("stream_names.rs"),
            include_str!("concurrency.rs"),
            include_str!("validity.rs"),
            include_str!("reopen.rs"),
            include_str!("snapshots.rs"),
            include_str!("idempotency.rs"),
            include_str!("stream.rs"),
            include_str!("transaction.rs"),
            include_str!("unique_values.rs"),
        ] {
            for rule in file.split("pub async fn ").skip(1) {
                let name = rule.split(['<', '(']).next().unwrap();
                // backends whose clock can be set back, or whose events other software can remove, call it directly
                let is_called_directly = ["set_clock_back", "remove_event"]
                    .iter()
                    .any(|argument| rule.starts_with(&format!("{name}<S: EventStore>(store: S, {argument}")));
                if is_called_directly {
                    continue;
                }
                assert!(
                    lists.contains(&format!(" {name},\n")) || lists.contains(&format!("async fn {name}()")),
                    "{name} is not listed"
                );
                let body = rule.split("\npub async fn").next().unwrap();
                assert!(body.contains(&format!("\"{name}\"")), "{name} does not name itself");
                rules += 1;
            }
        }
        assert_eq!(rules, 187);
    }
}
