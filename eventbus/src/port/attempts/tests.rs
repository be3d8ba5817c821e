//! Retry budgets, delays, and their JSON.

use super::*;
use crate::port::delivery::HandlerError;

const CLOCK: SharedClock = SharedClock::SYSTEM;
const POLICY: RetryPolicy = RetryPolicy {
    retry_for: Duration::MAX,
    max_retries: Some(2),
    first_delay: Duration::from_secs(1),
    max_delay: Duration::from_secs(60),
};

fn failure(handler: &'static str, retries: Option<u32>, error: HandlerError) -> Failure {
    Failure { handler: Name::from_static(handler), retries, error }
}

fn plain(handler: &'static str) -> Failure {
    failure(handler, None, "no".into())
}

#[test]
fn a_handler_runs_once_and_as_often_again_as_its_budget_says() {
    let mut attempts = DeliveryAttempts::default();
    for _ in 0..2 {
        assert!(attempts.fail(&[plain("a")], &[], &POLICY, &CLOCK).is_some());
    }
    assert_eq!(attempts.fail(&[plain("a")], &[], &POLICY, &CLOCK), None);
    assert_eq!((attempts.attempts, attempts.most_attempts()), (3, 3));
    let mut never = DeliveryAttempts::default();
    assert_eq!(never.fail(&[failure("a", Some(0), "no".into())], &[], &POLICY, &CLOCK), None);
}

#[test]
fn a_handler_that_succeeded_or_gave_up_is_left_alone_while_others_are_tried() {
    let mut attempts = DeliveryAttempts::default();
    let permanent = failure("b", None, HandlerError::permanent("never"));
    let next = attempts.fail(&[plain("a"), permanent], &[Name::from_static("c")], &POLICY, &CLOCK);
    assert!(next.is_some(), "a may still succeed");
    assert!(!attempts.is_finished_for("a"));
    assert!(attempts.is_finished_for("b") && attempts.is_finished_for("c"));
    assert_eq!((attempts.handlers(), attempts.errors()), ("a,b".into(), "a: no; b: never".into()));
    assert!(!attempts.succeed(&[Name::from_static("a")]), "b has failed for good");
    assert_eq!((attempts.handlers(), attempts.errors()), ("b".into(), "never".into()));
    assert_eq!(attempts.done, ["a", "c"]);
}

#[test]
fn a_handler_that_recovers_is_no_failure() {
    let mut attempts = DeliveryAttempts::default();
    attempts.fail(&[plain("a"), plain("b")], &[], &POLICY, &CLOCK);
    attempts.fail(&[plain("b")], &[Name::from_static("a")], &POLICY, &CLOCK);
    assert_eq!(attempts.handlers(), "b");
    assert!(attempts.succeed(&[Name::from_static("b")]));
}

#[test]
fn delays_grow_and_a_handler_may_ask_for_its_own() {
    let mut attempts = DeliveryAttempts::default();
    let Some(first) = attempts.fail(&[plain("a")], &[], &POLICY, &CLOCK) else { panic!("gave up") };
    let Some(second) = attempts.fail(&[plain("a")], &[], &POLICY, &CLOCK) else { panic!("gave up") };
    assert!((500..=1_000).contains(&first.as_millis()), "{first:?}");
    assert!((1_000..=2_000).contains(&second.as_millis()), "{second:?}");
    let hour = Duration::from_secs(3_600);
    let asked = failure("a", None, HandlerError::retry_after(hour, "later"));
    assert_eq!(DeliveryAttempts::default().fail(&[asked], &[], &POLICY, &CLOCK), Some(hour));
    let left = attempts.wait(&CLOCK); // in whole milliseconds
    assert!(
        left <= second + Duration::from_millis(1) && left + Duration::from_millis(500) > second,
        "{left:?} of {second:?}"
    );
}

#[test]
fn a_delay_that_no_clock_can_hold_is_cut() {
    let asked = || failure("a", None, HandlerError::retry_after(Duration::MAX, "never"));
    let mut attempts = DeliveryAttempts::default();
    assert_eq!(attempts.fail(&[asked()], &[], &POLICY, &CLOCK), Some(LONGEST));
    assert!(attempts.wait(&CLOCK) > Duration::from_secs(90 * 366 * 86_400), "{:?}", attempts.wait(&CLOCK));
    let policy = RetryPolicy {
        retry_for: Duration::MAX,
        max_retries: Some(9),
        first_delay: Duration::MAX,
        max_delay: Duration::MAX,
    };
    let next = DeliveryAttempts::default().fail(&[plain("a")], &[], &policy, &CLOCK);
    assert!(matches!(next, Some(delay) if (LONGEST / 2..=LONGEST).contains(&delay)), "{next:?}");
}

#[test]
fn a_clock_that_is_wrong_lengthens_no_wait() {
    let now = CLOCK.unix_millis();
    let attempts = DeliveryAttempts {
        last_failed_at: Some(now + 3_600_000),
        next_at: Some(now + 3_601_000),
        ..DeliveryAttempts::default()
    };
    assert_eq!(attempts.wait(&CLOCK), Duration::from_secs(1));
}

#[test]
fn a_process_that_ends_of_an_event_ends_five_times_of_it_alone() {
    let clock = SharedClock::SYSTEM;
    let mut attempts = DeliveryAttempts::default();
    assert!(attempts.note_process_end(&clock) && attempts.is_waiting(&clock));
    let mut delays = Vec::new();
    for _ in 0..5 {
        delays.push(attempts.suspect_delay().as_secs());
        attempts.begin(true);
        assert!(!attempts.is_waiting(&clock));
        if !attempts.note_process_end(&clock) {
            break;
        }
    }
    assert_eq!((delays, attempts.ended_alone), (vec![1, 2, 4, 8, 16], 5));
    attempts.give_up_after_process_ends(&clock);
    assert_eq!(attempts.errors(), "the process ended 5 times while this event alone was handled");
    assert!(!attempts.succeed(&[]));
}

#[test]
fn a_long_error_is_cut_between_letters_and_shows_it() {
    let whole = "x".repeat(MAX_ERROR_BYTES);
    assert_eq!(DeliveryAttempts::undecodable(whole.clone(), &CLOCK).errors(), whole);
    let cut = DeliveryAttempts::undecodable(format!("x{}", "é".repeat(MAX_ERROR_BYTES)), &CLOCK).errors();
    assert!(cut.len() <= MAX_ERROR_BYTES + '…'.len_utf8() && cut.ends_with("é…"), "{}", cut.len());
}

#[test]
fn what_is_written_is_read() {
    let mut attempts = DeliveryAttempts::default();
    attempts.fail(&[plain("a")], &[Name::from_static("b")], &POLICY, &CLOCK);
    let json = serde_json::to_string(&attempts).unwrap();
    assert_eq!(serde_json::from_str::<DeliveryAttempts>(&json).unwrap(), attempts);
    assert_eq!(serde_json::from_str::<DeliveryAttempts>(r#"{"later":1}"#).unwrap(), DeliveryAttempts::default());
}

#[cfg(feature = "testkit")]
mod for_a_time {
    use super::*;
    use crate::testkit::ManualClock;

    const HOUR: Duration = Duration::from_secs(3_600);
    const FOR_TWO_HOURS: RetryPolicy =
        RetryPolicy { retry_for: Duration::from_secs(7_200), max_retries: None, first_delay: HOUR, max_delay: HOUR };

    fn clock() -> (ManualClock, SharedClock) {
        let manual = ManualClock::new();
        (manual.clone(), SharedClock::new(manual))
    }

    #[test]
    fn without_a_number_it_is_tried_for_as_long_as_the_policy_says() {
        let (manual, clock) = clock();
        let (policy, mut attempts, mut runs) = (RetryPolicy::default(), DeliveryAttempts::default(), 0);
        let waited = loop {
            runs += 1;
            match attempts.fail(&[plain("a")], &[], &policy, &clock) {
                Some(delay) => manual.advance(delay),
                next => break (next, attempts.last_failed_at.unwrap() - attempts.first_failed_at.unwrap()),
            }
        };
        let hours = 3_600 * 1_000;
        assert_eq!(waited.0, None);
        assert!((4 * hours..4 * hours + 300_000).contains(&waited.1), "{waited:?}");
        assert!((48..120).contains(&runs), "{runs} runs: minutes apart in the end");
    }

    #[test]
    fn each_handler_has_its_own_time_and_keeps_it_when_the_tries_are_written_and_read() {
        let (manual, clock) = clock();
        let mut attempts = DeliveryAttempts::default();
        attempts.fail(&[plain("a")], &[], &FOR_TWO_HOURS, &clock);
        manual.advance(HOUR);
        attempts.fail(&[plain("a"), plain("b")], &[], &FOR_TWO_HOURS, &clock);
        // a second consumer takes over
        let mut attempts = DeliveryAttempts::from_json(&attempts.to_json()).unwrap();
        manual.advance(HOUR);
        attempts.next_at = None; // it was read again, and runs: the delay counts all the same
        let next = attempts.fail(&[plain("a"), plain("b")], &[], &FOR_TWO_HOURS, &clock);
        assert!(next.is_some(), "b may still succeed");
        assert!(attempts.is_finished_for("a") && !attempts.is_finished_for("b"));
        manual.advance(HOUR);
        assert_eq!(attempts.fail(&[plain("b")], &[], &FOR_TWO_HOURS, &clock), None);
    }

    #[test]
    fn the_number_of_retries_ends_it_before_the_time_is_over() {
        let (_, clock) = clock();
        let policy = RetryPolicy { max_retries: Some(1), ..FOR_TWO_HOURS };
        let mut attempts = DeliveryAttempts::default();
        assert!(attempts.fail(&[plain("a")], &[], &policy, &clock).is_some());
        assert_eq!(attempts.fail(&[plain("a")], &[], &policy, &clock), None);
    }

    #[test]
    fn deliveries_to_others_count_where_there_is_a_number_and_never_as_time() {
        let (manual, clock) = clock();
        let delivered = || DeliveryAttempts { elsewhere: 5, ..DeliveryAttempts::default() };
        let by_number = RetryPolicy { max_retries: Some(5), ..FOR_TWO_HOURS };
        assert_eq!(delivered().fail(&[plain("a")], &[], &by_number, &clock), None);
        let mut attempts = delivered();
        assert!(attempts.fail(&[plain("a")], &[], &FOR_TWO_HOURS, &clock).is_some());
        manual.advance(HOUR);
        assert!(attempts.fail(&[plain("a")], &[], &FOR_TWO_HOURS, &clock).is_some());
    }

    #[test]
    fn time_in_which_the_database_had_a_fault_does_not_count() {
        let (manual, clock) = clock();
        let fault = || {
            let fault = crate::port::ServerFault::new("SQLSTATE 53100");
            failure("a", None, HandlerError::from("no").with_server_fault(fault))
        };
        let mut attempts = DeliveryAttempts::default();
        attempts.fail(&[plain("a")], &[], &FOR_TWO_HOURS, &clock);
        let mut delay = HOUR;
        for _ in 0..5 {
            manual.advance(HOUR);
            delay = attempts.fail(&[fault()], &[], &FOR_TWO_HOURS, &clock).unwrap();
        }
        manual.advance(delay);
        for _ in 0..2 {
            assert!(attempts.fail(&[plain("a")], &[], &FOR_TWO_HOURS, &clock).is_some());
            manual.advance(HOUR);
        }
        assert_eq!(attempts.fail(&[plain("a")], &[], &FOR_TWO_HOURS, &clock), None);
    }

    /// Fails if a fault of the database right after the restart uses up the night.
    #[test]
    fn of_a_time_without_a_process_a_quarter_of_the_time_counts() {
        let (manual, clock) = clock();
        let fault = || HandlerError::from("no").with_server_fault(crate::port::ServerFault::new("SQLSTATE 57P03"));
        for (was_in_flight, has_fault, is_of_earlier_release) in
            [(false, false, false), (true, false, false), (true, true, false), (false, false, true)]
        {
            let mut attempts = DeliveryAttempts::default();
            attempts.fail(&[plain("a")], &[], &FOR_TWO_HOURS, &clock);
            // the planned delay of an hour, and half an hour of the night
            manual.advance(12 * HOUR);
            let mut attempts = DeliveryAttempts::from_json(&attempts.to_json()).unwrap();
            match is_of_earlier_release {
                true => attempts.counts_until = None,
                false => attempts.next_at = None, // it was read again, and runs
            }
            if was_in_flight {
                assert!(attempts.note_process_end(&clock));
                attempts.begin(true);
            }
            if has_fault {
                manual.advance(Duration::from_secs(1));
                assert!(attempts.fail(&[failure("a", None, fault())], &[], &FOR_TWO_HOURS, &clock).is_some());
            }
            assert!(attempts.fail(&[plain("a")], &[], &FOR_TWO_HOURS, &clock).is_some());
            assert!(!attempts.is_finished_for("a"));
            manual.advance(HOUR);
            assert_eq!(attempts.fail(&[plain("a")], &[], &FOR_TWO_HOURS, &clock), None);
        }
    }

    #[test]
    fn faults_of_the_database_are_tried_again_after_100_ms_and_after_5_minutes_at_most() {
        let (manual, clock) = clock();
        let (mut attempts, mut delays) = (DeliveryAttempts::default(), Vec::new());
        for fault in 0..40 {
            let error = HandlerError::from("no").with_server_fault(crate::port::ServerFault::new("SQLSTATE 53100"));
            let next = attempts.fail(&[failure("a", Some(0), error)], &[], &POLICY, &clock);
            let Some(delay) = next else { panic!("{next:?} after {fault} faults") };
            let longest = Duration::from_millis(100 << fault.min(20)).min(Duration::from_secs(300));
            assert!((longest / 2..=longest).contains(&delay), "{delay:?} after {fault} faults");
            let wait = attempts.wait(&clock); // in whole milliseconds
            assert!(wait <= delay && delay - wait < Duration::from_millis(1), "{wait:?} of {delay:?}");
            manual.advance(delay);
            assert!(!attempts.is_waiting(&clock));
            delays.push(delay);
        }
        delays.sort();
        delays.dedup();
        assert!(delays.len() > 30, "they differ: {delays:?}");
        assert_eq!(attempts.attempts, 40);
        assert_eq!(attempts.failed["a"].attempts, 0, "none of them is an attempt of the handler");
    }
}
