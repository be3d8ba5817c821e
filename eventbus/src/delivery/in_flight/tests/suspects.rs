//! Entries that were in flight when their process ended.

use super::*;
use crate::domain::clock::SharedClock;

/// The attempts of a suspect that may begin; its process ended `alone` times while it ran alone.
fn ended(alone: u32) -> DeliveryAttempts {
    DeliveryAttempts { process_ends: alone + 1, ended_alone: alone, ..DeliveryAttempts::default() }
}

/// The same, of a suspect that has waited since its process ended.
fn waiting(alone: u32) -> DeliveryAttempts {
    let now = Some(SharedClock::SYSTEM.unix_millis());
    DeliveryAttempts { next_at: now, last_failed_at: now, ..ended(alone) }
}

fn by_disposition<T>(disposed: &[DisposedEntry], of: impl Fn(&Disposition) -> Option<T>) -> Vec<(MessageId, T)> {
    disposed.iter().filter_map(|disposed| Some((disposed.id.clone(), of(&disposed.disposition)?))).collect()
}

/// Returns the suspects whose run was counted, with their `ended_alone` since.
fn begins(bench: &Bench) -> Vec<(MessageId, u32)> {
    std::mem::take(&mut *bench.bus.begun.lock().unwrap())
}

/// Returns the entries that wait, with their `process_ends` and their delay in seconds.
fn waits(disposed: &[DisposedEntry]) -> Vec<(MessageId, (u32, u64))> {
    by_disposition(disposed, |disposition| match disposition {
        Disposition::Retry { attempts, after, .. } => Some((attempts.process_ends, after.as_secs())),
        _ => None,
    })
}

fn several_at_once(handler: &RecordingHandler) -> Bench {
    Bench::new([handler.subscriber("several").with_options(options(None, None, Some(3)))])
}

#[tokio::test(start_paused = true)]
async fn what_was_in_flight_waits_and_the_delay_doubles_up_to_a_minute() {
    let bench = Bench::new([]);
    let after = |ends| DeliveryAttempts { process_ends: ends, ..DeliveryAttempts::default() };
    let ends = [0, 1, 2, 5, 6, 60];
    bench.add(ends.iter().zip(1..).map(|(ends, number)| redelivered(&number.to_string(), number, after(*ends))));
    let ready = tokio::time::timeout(Duration::from_millis(1), bench.disposed()).await;
    assert!(ready.is_ok(), "the bus must persist it");
    let waits: Vec<_> = waits(&bench.take_disposed()).into_iter().map(|(_, wait)| wait).collect();
    assert_eq!(waits, [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (61, 60)]);
}

#[tokio::test(start_paused = true)]
async fn others_run_while_a_suspect_waits_and_beside_it() {
    let held = RecordingHandler::held();
    let mut bench = several_at_once(&held);
    bench.add([redelivered("a", 1, DeliveryAttempts::default()), entry("b", 2)]);
    run_ready_tasks().await;
    bench.write();
    assert_eq!((held.begun(), waits(&bench.written)), (vec![2], vec![(id(1), (1, 1))]));
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!((held.begun(), begins(&bench)), (vec![2, 1], vec![(id(1), 1)]));
    bench.add([entry("c", 3)]);
    run_ready_tasks().await;
    assert_eq!((held.begun(), held.running()), (vec![2, 1, 3], 3));
    held.finish(3);
    bench.drain().await;
    assert_eq!(bench.ids_with(|disposition| *disposition == Disposition::Acknowledge { has_attempts: true }), [id(1)]);
}

#[tokio::test(start_paused = true)]
async fn suspects_run_one_at_a_time_the_likely_ones_last() {
    let held = RecordingHandler::held();
    let bench = several_at_once(&held);
    let left = |number: u64, alone| redelivered(&number.to_string(), number, waiting(alone));
    bench.add([left(1, 2), left(2, 0), left(3, 4), left(4, 0)]);
    for (number, alone) in [(2, 1), (4, 1), (1, 3), (3, 5)] {
        run_ready_tasks().await;
        assert_eq!(begins(&bench), [(id(number), alone)]);
        assert_eq!((held.begun().last(), held.running()), (Some(&number), 1));
        held.finish(1);
    }
    run_ready_tasks().await;
    assert!(begins(&bench).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_runs_for_ten_seconds_lets_the_next_run() {
    let held = RecordingHandler::held();
    let bench = several_at_once(&held);
    bench.add([redelivered("a", 1, waiting(0)), redelivered("b", 2, waiting(0))]);
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(held.begun(), [1]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((held.begun(), held.running()), (vec![1, 2], 2));
}

#[tokio::test(start_paused = true)]
async fn suspects_of_two_groups_of_a_bus_run_one_at_a_time() {
    let (held, willing) = (RecordingHandler::held(), RecordingHandler::willing());
    let one = Bench::new([held.subscriber("one")]);
    let lock = one.context.suspect_lock.clone();
    let in_flight = InFlight::new(9, usize::MAX, SharedClock::SYSTEM);
    let other = Bench::beside(lock, Limits::default(), in_flight, [willing.subscriber("other")]);
    one.add([redelivered("a", 1, waiting(0))]);
    run_ready_tasks().await;
    other.add([redelivered("b", 2, waiting(0)), entry("c", 3)]);
    run_ready_tasks().await;
    assert_eq!((held.begun(), willing.begun()), (vec![1], vec![3]));
    held.finish(1);
    run_ready_tasks().await;
    assert_eq!(willing.begun(), [3, 2]);
}

/// Fails if a consumer keeps the turn for a suspect that it does not have any more.
#[tokio::test(start_paused = true)]
async fn a_released_suspect_leaves_its_turn_to_other_groups() {
    let (held, willing) = (RecordingHandler::held(), RecordingHandler::willing());
    let one = Bench::new([held.subscriber("one")]);
    let lock = one.context.suspect_lock.clone();
    let in_flight = InFlight::new(9, usize::MAX, SharedClock::SYSTEM);
    let other = Bench::beside(lock, Limits::default(), in_flight, [willing.subscriber("other")]);
    one.add([redelivered("a", 1, waiting(0))]);
    run_ready_tasks().await;
    other.add([redelivered("b", 2, waiting(0))]);
    one.in_flight.release([&id(1)]);
    run_ready_tasks().await;
    assert_eq!((held.running(), willing.begun()), (0, vec![2]));
}

#[tokio::test(start_paused = true)]
async fn what_ends_its_process_five_times_alone_becomes_a_dead_letter() {
    let handler = RecordingHandler::willing();
    let mut bench = Bench::new([handler.subscriber("a")]);
    bench.add([redelivered("a", 1, ended(5)), entry("a", 2), redelivered("b", 3, ended(4))]);
    run_ready_tasks().await;
    assert!(handler.begun().is_empty(), "the next of its aggregate waits until it is one");
    bench.drain().await;
    assert_eq!(handler.begun(), [2, 3]);
    let [attempts] = &bench.dead_lettered()[..] else { panic!("not one") };
    assert_eq!(attempts.errors(), "the process ended 5 times while this event alone was handled");
}

#[tokio::test(start_paused = true)]
async fn what_waited_when_its_process_ended_is_no_more_suspect_than_before() {
    let handler = RecordingHandler::willing();
    let mut bench = Bench::new([handler.subscriber("a")]);
    let now = SharedClock::SYSTEM.unix_millis();
    let retry = DeliveryAttempts {
        attempts: 1,
        last_failed_at: Some(now),
        next_at: Some(now + 9_000),
        ..DeliveryAttempts::default()
    };
    bench.add([redelivered("a", 1, retry), redelivered("b", 2, waiting(0))]);
    bench.drain().await;
    assert_eq!(handler.begun(), [2, 1]);
    assert_eq!((waits(&bench.written), begins(&bench)), (vec![], vec![(id(2), 1)]));
}

#[tokio::test(start_paused = true)]
async fn only_the_first_of_an_aggregate_was_in_flight() {
    let handler = RecordingHandler::willing();
    let mut bench = Bench::new([handler.subscriber("a")]);
    bench.add((1..=5).map(|number| redelivered("a", number, DeliveryAttempts::default())));
    bench.drain().await;
    assert_eq!(handler.begun(), [1, 2, 3, 4, 5]);
    assert_eq!((waits(&bench.written).len(), begins(&bench).len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_takeover_from_a_living_consumer_is_no_end_of_a_process() {
    let handler = RecordingHandler::willing();
    let mut bench = Bench::new([handler.subscriber("a")]);
    bench.add([entry("a", 1), entry("b", 2).with_attempts(ended(3))]);
    bench.drain().await;
    assert_eq!((waits(&bench.written), begins(&bench)), (vec![], vec![(id(2), 3)]), "not the fourth");
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_fails_has_not_ended_its_process() {
    let handler = RecordingHandler::failing_at_first(&[(1, 1)]);
    let mut bench = Bench::new([handler.subscriber("a")]);
    bench.add([redelivered("a", 1, waiting(1))]);
    bench.drain().await;
    let failed = |disposed: &DisposedEntry| match &disposed.disposition {
        Disposition::Retry { attempts, .. } if attempts.attempts > 0 => {
            Some((attempts.process_ends, attempts.ended_alone))
        }
        _ => None,
    };
    assert_eq!(bench.written.iter().filter_map(failed).collect::<Vec<_>>(), [(0, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_is_given_back_while_it_runs_has_not_begun() {
    let held = RecordingHandler::held();
    let bench = Bench::new([held.subscriber("a")]);
    bench.add([redelivered("a", 1, waiting(2)), redelivered("b", 2, waiting(2))]);
    run_ready_tasks().await;
    assert_eq!((held.running(), begins(&bench)), (1, vec![(id(1), 3)]));
    let mut back = bench.in_flight.nack_unfinished();
    back.sort_by_key(ToString::to_string);
    assert_eq!(back, [id(1), id(2)]);
    let disposed = bench.take_disposed();
    let undone = by_disposition(&disposed, |disposition| match disposition {
        Disposition::Retry { attempts, .. } => Some((attempts.ended_alone, attempts.is_waiting(&SharedClock::SYSTEM))),
        _ => None,
    });
    assert_eq!(undone, [(id(1), (2, true))], "nor was it in flight");
}
