//! Rows in a store's own transactions, on SQLite and PostgreSQL: processes that are killed and paused, rebuilds under
//! live traffic, effects of handlers.
//!
//! The killed processes are runs of this test binary, with their role in environment variables.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests; the processes that die report by printing"
)]

mod batches;
mod effects;
mod kinds;
mod live;
mod orders;
mod play;
mod rebuild;
mod set_up;

/// Runs each of these tests on each kind of store.
macro_rules! on_both {
    ($($module:ident::$test:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$module::$test::<super::kinds::Sqlite>().await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$module::$test::<super::kinds::Postgres>().await;
            })*
        }
    };
}

on_both! {
    batches::batches_are_consecutive_events_in_feed_order_and_as_long_as_possible,
    batches::a_failing_event_of_a_batch_is_found_and_those_before_it_are_committed_once,
    batches::an_event_that_fails_at_the_commit_is_found_among_those_of_one_event_methods,
    batches::a_rebuild_by_batches_equals_the_live_rows,
    batches::the_rows_of_one_aggregate_are_rebuilt_by_batches,
    effects::effects_are_made_once_whatever_is_killed,
    live::rows_and_checkpoint_survive_kills_together,
    live::a_paused_owner_writes_nothing_more,
    live::a_missing_table_stops_the_projection_with_an_error_that_names_it,
    rebuild::a_rebuild_under_live_traffic_equals_the_live_rows,
    rebuild::a_killed_rebuild_leaves_the_old_rows_and_is_resumed,
    rebuild::rows_are_replaced_all_or_none,
    rebuild::the_rows_of_one_aggregate_are_made_anew,
    set_up::an_app_creates_its_tables_and_keeps_their_rows_at_the_next_start,
    set_up::apps_that_start_at_once_create_the_tables_once,
    set_up::a_failed_set_up_names_the_projection_and_changes_nothing,
    set_up::a_set_up_that_ends_its_transaction_is_refused,
}
