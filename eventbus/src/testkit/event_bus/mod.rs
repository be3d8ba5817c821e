//! The conformance suite of event buses: one rule per function, each one test of the backend.
//!
//! A backend's whole `conformance.rs` is one call of [`event_bus_conformance!`](crate::event_bus_conformance).
//!
//! Invariant: a new rule goes into the list of the macro below; a rule that is not listed never runs.

use std::time::Duration;

use crate::port::retry::RetryPolicy;

mod dead_letters;
mod delivery;
mod failures;
mod fixtures;
mod groups;
mod lifecycle;
mod reporting;
mod retry;
mod validity;

pub use dead_letters::*;
pub use delivery::*;
pub use failures::*;
pub use groups::*;
pub use lifecycle::*;
pub use reporting::*;
pub use retry::*;
pub use validity::*;

/// Delays short enough for the suite: the retry policy of buses under test.
pub const SHORT_DELAYS: RetryPolicy = RetryPolicy {
    retry_for: Duration::MAX,
    max_retries: Some(3),
    first_delay: Duration::from_millis(10),
    max_delay: Duration::from_millis(100),
};

/// A bus under test.
#[doc(hidden)]
pub type Bus = std::sync::Arc<dyn crate::port::EventBus>;

/// Fails the rule if it takes longer than a minute.
#[doc(hidden)]
pub async fn within_a_minute(rule: &str, test: impl Future<Output = ()>) {
    let minute = Duration::from_secs(60);
    let ended = tokio::time::timeout(minute, test).await;
    assert!(ended.is_ok(), "rule `{rule}` hangs");
}

/// Makes a module with one test per rule of the event-bus suite.
///
/// `$fresh_bus` is a future that makes a bus with [short delays](SHORT_DELAYS) on a new stream; each test evaluates it
/// once. `$another` takes a reference to that bus, and makes a second bus object on the same stream, as a second
/// process would. Omit it for a bus that exists in one object only: the suite then uses a clone.
///
/// # Examples
/// ```
/// use eventbus::{InMemoryEventBus, event_bus_conformance, testkit::event_bus::SHORT_DELAYS};
/// event_bus_conformance!(in_process, async { InMemoryEventBus::builder().retry(SHORT_DELAYS).build() });
/// # fn main() {}
/// ```
/// For a bus on a server:
/// ```ignore
/// event_bus_conformance!(redis, connect(unique_config()), async |bus: &RedisEventBus| {
///     connect(another_consumer_of(bus.config())).await
/// });
/// ```
#[macro_export]
macro_rules! event_bus_conformance {
    ($name:ident, $fresh_bus:expr $(,)?) => {
        $crate::event_bus_conformance!($name, $fresh_bus, async |bus: &_| ::core::clone::Clone::clone(bus));
    };
    ($name:ident, $fresh_bus:expr, $another:expr $(,)?) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            $crate::event_bus_conformance!(@of_jobs $fresh_bus, $another);
            $crate::event_bus_conformance!(@each $fresh_bus, $another;
                order_is_kept_within_a_group,
                one_publish_of_a_thousand_events_is_delivered,
                every_group_gets_every_event,
                a_group_added_while_consuming_gets_what_is_held,
                a_new_group_whose_handlers_start_now_gets_what_comes,
                a_retry_holds_up_its_own_aggregate_only,
                what_waits_for_a_retry_keeps_others_from_nothing,
                an_event_that_fails_for_long_is_an_alert_until_it_is_finished,
                concurrency_is_for_different_aggregates,
                a_delivery_of_one_tenant_blocks_no_stream_of_another,
                a_delivery_that_waits_for_its_retry_comes_again_after_a_restart,
                stream_info_tells_the_story,
                progress_tells_the_story,
            );
        }
    };
    // what holds also on a queue whose events are jobs, without groups and without an order
    (@of_jobs $fresh_bus:expr, $another:expr) => {
        $crate::event_bus_conformance!(@each $fresh_bus, $another;
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
    };
    (@each $fresh_bus:expr, $another:expr; $($rule:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $rule() {
                $crate::testkit::event_bus::within_a_minute(stringify!($rule), async {
                    let bus = $fresh_bus.await;
                    let other = ($another)(&bus).await;
                    let (bus, other) = (::std::sync::Arc::new(bus), ::std::sync::Arc::new(other));
                    $crate::testkit::event_bus::$rule(bus, other).await;
                })
                .await;
            }
        )*
    };
}
