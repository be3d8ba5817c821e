//! Failures: retries, budgets, dead letters.

use super::*;
use crate::domain::clock::SharedClock;

fn retries(bench: &Bench) -> Vec<MessageId> {
    bench.ids_with(|disposition| matches!(disposition, Disposition::Retry { .. }))
}

#[tokio::test(start_paused = true)]
async fn a_retry_holds_up_its_aggregate_only() {
    let handler = RecordingHandler::failing_at_first(&[(1, 1)]);
    let mut bench = Bench::new([handler.subscriber("a")]);
    bench.add([entry("a", 1), entry("a", 2), entry("b", 3)]);
    run_ready_tasks().await;
    assert_eq!(handler.begun(), [1, 3], "the second of `a` is blocked");
    bench.add([entry("a", 4), entry("c", 5)]);
    let began = tokio::time::Instant::now();
    bench.drain().await;
    assert_eq!(handler.begun(), [1, 3, 5, 1, 2, 4]);
    assert_eq!(*handler.attempts.lock().unwrap(), [1, 1, 1, 2, 1, 1]);
    let took = began.elapsed();
    assert!((500..=1_100).contains(&took.as_millis()), "{took:?}");
    assert_eq!(retries(&bench), [id(1)]);
    let acknowledged = bench.ids_with(|disposition| *disposition == Disposition::Acknowledge { has_attempts: true });
    assert_eq!(acknowledged, [id(1)], "its attempts were persisted before");
    let stats = bench.context.counters.snapshot();
    let counted = (stats.events_consumed, stats.events_processed_failed, stats.handler_errors);
    assert_eq!((counted, stats.events_processed_success), ((6, 1, 1), 5));
}

#[tokio::test(start_paused = true)]
async fn delayed_entries_go_on_when_a_burial_is_confirmed_and_not_before() {
    let handler = RecordingHandler::failing(&[1]);
    let bench = Bench::new([handler.subscriber("a").with_options(options(Some(0), None, None))]);
    bench.add([entry("a", 1), entry("a", 2)]);
    run_ready_tasks().await;
    let [disposed] = &bench.take_disposed()[..] else { panic!("not one") };
    let Disposition::DeadLetter(attempts) = &disposed.disposition else { panic!("{disposed:?}") };
    assert_eq!((attempts.attempts, attempts.handlers(), attempts.errors()), (1, "a".into(), "no".into()));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(handler.begun(), [1]);
    assert!(bench.in_flight.contains(&id(1)), "it is not yet a dead letter");
    bench.in_flight.release([&id(1)]);
    run_ready_tasks().await;
    assert_eq!(handler.begun(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn only_handlers_that_have_not_succeeded_run_again_each_with_its_own_budget() {
    let (good, one, five) =
        (RecordingHandler::willing(), RecordingHandler::failing(&[1]), RecordingHandler::failing_at_first(&[(1, 4)]));
    let mut bench = Bench::new([
        good.subscriber("good"),
        one.subscriber("one"),
        five.subscriber("five").with_options(options(Some(5), None, None)),
    ]);
    bench.add([entry("a", 1)]);
    bench.drain().await;
    assert_eq!((good.begun().len(), one.begun().len(), five.begun().len()), (1, 2, 5));
    let [attempts] = &bench.dead_lettered()[..] else { panic!("not one") };
    assert_eq!((attempts.handlers(), attempts.most_attempts(), attempts.attempts), ("one".into(), 2, 4));
    assert_eq!(attempts.done, ["five", "good"]);
    assert_eq!(bench.context.counters.snapshot().handler_errors, 6);
}

#[tokio::test(start_paused = true)]
async fn a_permanent_error_is_not_tried_again() {
    let handler = RecordingHandler::new(|_| Err(HandlerError::permanent("never")));
    let mut bench = Bench::new([handler.subscriber("a")]);
    bench.add([entry("a", 1)]);
    bench.drain().await;
    assert_eq!(handler.begun(), [1]);
    assert_eq!(bench.dead_lettered()[0].errors(), "never");
}

#[tokio::test(start_paused = true)]
async fn panics_and_timeouts_are_tried_again() {
    let panics = RecordingHandler::new(|_| panic!("as the test wants it"));
    let hangs = RecordingHandler::held();
    let mut bench = Bench::new([
        panics.subscriber("panics"),
        hangs.subscriber("hangs").with_options(options(None, Some(2_000), None)),
    ]);
    bench.add([entry("a", 1), entry("b", 2)]);
    bench.drain().await;
    assert_eq!((panics.begun().len(), hangs.begun().len(), hangs.running()), (4, 4, 0));
    let errors = bench.dead_lettered()[0].errors();
    assert_eq!(errors, "hangs: handler took longer than 2s; panics: handler panicked: as the test wants it");
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_a_turn_is_no_part_of_a_timeout() {
    let slow = RecordingHandler::new(|_| Ok(()));
    let sleeps = Subscriber::new(Name::from_static("sleeps"), EventFilter::All, |_| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok(())
        })
    });
    let sleeps = sleeps.with_options(options(None, Some(3_000), Some(1)));
    let wide = slow.subscriber("wide").with_options(options(None, None, Some(4)));
    let mut bench = Bench::new([wide, sleeps]);
    bench.add((1..=4).map(|number| entry(&number.to_string(), number)));
    bench.drain().await;
    assert_eq!(bench.context.counters.snapshot().events_processed_failed, 0);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_asks_for_a_delay_gets_it() {
    let asked = Mutex::new(false);
    let hour = Duration::from_secs(3_600);
    let handler = RecordingHandler::new(move |_| match std::mem::replace(&mut *asked.lock().unwrap(), true) {
        false => Err(HandlerError::retry_after(hour, "later")),
        true => Ok(()),
    });
    let mut bench = Bench::new([handler.subscriber("a")]);
    bench.add([entry("a", 1)]);
    let began = tokio::time::Instant::now();
    bench.drain().await;
    assert!(began.elapsed() >= hour && began.elapsed() < hour * 2);
    assert_eq!(handler.begun(), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_was_to_wait_still_waits_when_another_consumer_has_it() {
    let handler = RecordingHandler::willing();
    let mut bench = Bench::new([handler.subscriber("a")]);
    let now = SharedClock::SYSTEM.unix_millis();
    let attempts = |ms| DeliveryAttempts {
        attempts: 2,
        last_failed_at: Some(now),
        next_at: Some(now + ms),
        ..DeliveryAttempts::default()
    };
    let waiting = |number: u64, ms| InFlightEntry { attempts: attempts(ms), ..entry(&number.to_string(), number) };
    bench.add([waiting(1, 60_000), waiting(2, 30_000), entry("1", 3), entry("4", 4)]);
    tokio::time::sleep(Duration::from_secs(25)).await;
    bench.write();
    assert_eq!(handler.begun(), [4]);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(handler.begun(), [4, 2]);
    bench.drain().await;
    assert_eq!(handler.begun(), [4, 2, 1, 3]);
    assert_eq!(*handler.attempts.lock().unwrap(), [1, 3, 3, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_delay_ends_though_the_worker_that_failed_is_busy_since() {
    let (failing, busy) = (RecordingHandler::failing_at_first(&[(1, 1)]), RecordingHandler::held());
    let both = failing.or_if(2, &busy);
    let bench = Bench::new([both.with_options(options(None, None, Some(2)))]);
    bench.add([entry("a", 1), entry("b", 2)]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((failing.begun(), busy.begun()), (vec![1, 1], vec![2]));
    bench.add([entry("c", 3), entry("d", 4)]);
    run_ready_tasks().await;
    assert_eq!(bench.take_disposed().len(), 4, "all but the busy one, and a retry");
}

#[tokio::test(start_paused = true)]
async fn a_delayed_entry_that_is_to_wait_does_so_when_the_one_before_is_let_go() {
    let held = RecordingHandler::held();
    let bench = Bench::new([held.subscriber("held").with_options(options(None, None, Some(2)))]);
    let now = SharedClock::SYSTEM.unix_millis();
    let attempts = DeliveryAttempts {
        attempts: 1,
        last_failed_at: Some(now),
        next_at: Some(now + 30_000),
        ..DeliveryAttempts::default()
    };
    bench.add([entry("a", 1), entry("b", 2), InFlightEntry { attempts, ..entry("c", 4) }]);
    let mut third = entry("a", 3);
    third.attempts =
        DeliveryAttempts { next_at: Some(now + 20_000), last_failed_at: Some(now), ..DeliveryAttempts::default() };
    bench.add([third]);
    run_ready_tasks().await;
    bench.in_flight.release([&id(1), &id(4)]);
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(held.begun().last(), Some(&3));
    assert_eq!(held.begun_sorted(), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_given_back_and_its_tries_are_still_written_down() {
    let handler = RecordingHandler::failing(&[1]);
    let bench = Bench::new([handler.subscriber("a")]);
    bench.add([entry("a", 1), entry("a", 2)]);
    run_ready_tasks().await;
    let mut back = bench.in_flight.nack_unfinished();
    back.sort_by_key(ToString::to_string);
    assert_eq!(back, [id(1), id(2)]);
    let disposed = bench.take_disposed();
    assert!(
        matches!(&disposed[0].disposition, Disposition::Retry { attempts, .. } if attempts.attempts == 1),
        "{disposed:?}"
    );
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((handler.begun(), bench.in_flight.is_empty()), (vec![1], true));
}

#[tokio::test(start_paused = true)]
async fn letting_go_of_what_waits_ends_it_and_frees_its_aggregate() {
    let handler = RecordingHandler::failing(&[1]);
    let bench = Bench::new([handler.subscriber("a")]);
    bench.add([entry("a", 1), entry("a", 2)]);
    run_ready_tasks().await;
    bench.in_flight.release([&id(1)]);
    run_ready_tasks().await;
    assert_eq!(handler.begun(), [1, 2]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(handler.begun(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_event_is_buried_at_once() {
    let mut bench = Bench::new([]);
    bench.in_flight.add_dead_letter(id(1), DeliveryAttempts::undecodable("not an event".into(), &SharedClock::SYSTEM));
    bench.drain().await;
    assert!(bench.written[0].record.is_none());
    let attempts = &bench.dead_lettered()[0];
    assert_eq!((attempts.errors(), attempts.handlers(), attempts.attempts), ("not an event".into(), String::new(), 0));
}
