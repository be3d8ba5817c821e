//! Helpers of the tests.
#![allow(dead_code, reason = "each test file uses some of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{path::PathBuf, time::Duration};

use eventbus::testkit::event_bus::SHORT_DELAYS;
use eventbus_file::{ClaimedEvent, FileQueue, FileQueueConfig};
use serde_json::value::RawValue;

/// A folder that is removed when the test's runtime ends.
pub(crate) fn folder() -> PathBuf {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(eventbus_test::unique_name("queue"));
    tokio::spawn(async move {
        let _folder = folder;
        std::future::pending::<()>().await;
    });
    path
}

/// A configuration for a folder: no syncing, and short waits.
pub(crate) fn config(root_dir: impl Into<PathBuf>) -> FileQueueConfig {
    FileQueueConfig {
        sync: false,
        retry: SHORT_DELAYS,
        poll_interval: Duration::from_millis(20),
        ..FileQueueConfig::at(root_dir)
    }
}

/// A queue in a folder of the test's own.
pub(crate) async fn fresh() -> FileQueue {
    FileQueue::open(config(folder())).await.unwrap()
}

/// A second worker of the same queue.
pub(crate) async fn another(queue: &FileQueue) -> FileQueue {
    FileQueue::open(FileQueueConfig { worker_id: None, ..queue.config().clone() }).await.unwrap()
}

/// Claims the next event, which must come.
pub(crate) async fn next_work(queue: &FileQueue) -> ClaimedEvent {
    let next = tokio::time::timeout(Duration::from_secs(60), queue.claim_next()).await;
    next.expect("there is work in time").unwrap()
}

/// Waits until the condition holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(waited.is_ok(), "waited in vain until {what}");
}

/// Returns a text of this many bytes, as JSON: to escape a large one takes long in a build that is not optimized.
pub(crate) fn text_of_bytes(count: usize) -> Box<RawValue> {
    RawValue::from_string(format!("\"{}\"", "x".repeat(count))).unwrap()
}

/// The rules of the event-bus suite that a queue keeps whose events are jobs: it has neither groups nor an order.
macro_rules! jobs_conformance {
    ($name:ident, $fresh:expr, $another:expr) => {
        mod $name {
            use super::*;
            eventbus::event_bus_conformance!(@each $fresh, $another;
                publishing_nothing_does_nothing,
                publish_returns_an_increasing_id_per_event,
                events_published_before_and_after_the_start_are_delivered,
                all_metadata_and_the_payload_survive,
                events_with_one_id_in_different_streams_are_all_delivered,
                typed_subscribers_get_their_types_and_wildcards_everything,
                typed_subscribers_run_before_wildcards,
                a_large_payload_is_delivered,
                a_payload_takes_over_no_identity,
                what_not_every_bus_can_carry_is_refused,
                what_every_bus_can_carry_is_delivered,
                publisher_and_consumer_may_be_apart,
                two_consumers_of_a_group_share_without_repeats,
                a_subscriber_added_while_consuming_gets_later_events,
                a_cancelled_subscription_gets_nothing_more,
                a_delivery_is_pending_until_every_handler_has_succeeded,
                the_other_handlers_of_a_failed_delivery_still_run,
                a_panic_is_a_failure_of_that_delivery_only,
                an_event_that_no_handler_wants_is_acknowledged,
                an_aborted_delivery_comes_again,
                a_failed_delivery_is_tried_again_and_then_a_dead_letter,
                only_failed_handlers_run_again,
                success_after_a_failure_acknowledges,
                a_permanent_error_is_not_tried_again,
                a_handler_that_asks_for_a_delay_gets_it,
                a_handler_that_takes_too_long_is_tried_again,
                a_panic_is_tried_again,
                a_dead_letter_holds_up_nothing,
                a_dead_letter_tells_what_happened,
                a_replay_reaches_only_who_failed,
                a_replay_that_fails_is_a_dead_letter_again,
                recorded_times_survive_a_dead_letter_and_its_replay,
                what_is_discarded_is_gone,
                pages_list_all_dead_letters,
                pages_of_large_dead_letters_end_early,
                stop_waits_for_the_delivery_in_hand,
                start_goes_on_after_a_stop,
                starting_twice_is_refused,
                is_consuming_tells_the_truth,
                after_shutdown_nothing_begins,
                shutdown_does_not_wait_beyond_its_deadline,
                subscribers_are_counted,
                stats_tell_the_story,
            );
        }
    };
}
pub(crate) use jobs_conformance;
