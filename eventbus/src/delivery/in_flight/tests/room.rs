//! Room, the time of dispositions, and releases.

use super::*;
use crate::domain::clock::SharedClock;

/// A handler that takes a time, in milliseconds.
fn taking(ms: Arc<std::sync::atomic::AtomicU64>) -> Subscriber {
    Subscriber::new(Name::from_static("taking"), EventFilter::All, move |_| {
        let ms = Arc::clone(&ms);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(ms.load(Ordering::SeqCst))).await;
            Ok(())
        })
    })
}

fn several(numbers: std::ops::Range<u64>) -> impl Iterator<Item = InFlightEntry> {
    numbers.map(|number| entry(&number.to_string(), number))
}

#[tokio::test(start_paused = true)]
async fn what_is_read_ahead_is_what_the_workers_finish_in_a_tenth_of_a_second() {
    let ms = Arc::new(std::sync::atomic::AtomicU64::new(10));
    let subscriber = taking(Arc::clone(&ms)).with_options(options(None, None, Some(2)));
    let limits = Limits { concurrency: 2, ..Limits::default() };
    let mut bench = Bench::with(limits, InFlight::new(1_000, usize::MAX, SharedClock::SYSTEM), [subscriber]);
    run_ready_tasks().await;
    assert_eq!(bench.in_flight.room().await, 4, "two for each worker at first");
    let mut next = 1;
    for _ in 0..50 {
        let room = bench.in_flight.room().await as u64;
        bench.add(several(next..next + room));
        next += room;
        bench.disposed().await;
        bench.write();
    }
    bench.drain().await;
    assert_eq!(bench.in_flight.room().await, 20, "10 ms each, by two workers");
    ms.store(1_000, Ordering::SeqCst);
    bench.add(several(next..next + 4));
    bench.drain().await;
    assert_eq!(bench.in_flight.room().await, 2, "a second each");
}

#[tokio::test(start_paused = true)]
async fn it_begins_anew_after_the_workers_had_nothing_to_do() {
    let ms = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let mut bench = Bench::new([taking(ms)]);
    bench.add(several(1..21));
    bench.drain().await;
    assert_eq!(bench.in_flight.room().await, 21);
    tokio::time::sleep(Duration::from_secs(2)).await;
    bench.add(several(21..22));
    bench.drain().await;
    assert_eq!(bench.in_flight.room().await, 2);
}

#[tokio::test(start_paused = true)]
async fn an_idle_worker_makes_room_though_all_that_is_there_is_waiting() {
    let held = RecordingHandler::held();
    let bench = Bench::new([held.subscriber("held").with_options(options(None, None, Some(3)))]);
    bench.add([entry("a", 1), entry("a", 2), entry("a", 3), entry("a", 4)]);
    run_ready_tasks().await;
    assert_eq!(bench.in_flight.room().await, 2, "two workers have nothing to do");
    bench.add([entry("b", 5), entry("c", 6)]);
    run_ready_tasks().await;
    assert_eq!((bench.in_flight.room_beside(0), held.running()), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_retry_holds_up_no_reading() {
    let handler = RecordingHandler::failing(&[1]);
    let bench = Bench::new([handler.subscriber("a")]);
    bench.add([entry("a", 1), entry("a", 2), entry("a", 3)]);
    run_ready_tasks().await;
    assert_eq!(bench.in_flight.room_beside(0), 2);
}

#[tokio::test(start_paused = true)]
async fn no_more_is_held_than_fits_in_number_and_in_bytes() {
    let held = RecordingHandler::held();
    let bench = Bench::with(
        Limits { concurrency: 9, ..Limits::default() },
        InFlight::new(4, usize::MAX, SharedClock::SYSTEM),
        [held.subscriber("a")],
    );
    run_ready_tasks().await;
    assert_eq!(bench.in_flight.room().await, 4);
    bench.add(several(1..4));
    run_ready_tasks().await;
    assert_eq!((bench.in_flight.free(), bench.in_flight.room().await), (1, 1));

    let large = |number: u64| {
        let stream = StreamId::parse("Order", &number.to_string()).unwrap();
        let payload = format!(r#"{{"text":"{}"}}"#, "x".repeat(10_000));
        let event = NewEvent::new(Name::from_static("OrderCreated"), 1, payload);
        InFlightEntry::new(id(number), event.recorded_as(stream, Version::new(number), None))
    };
    let limits = Limits { concurrency: 9, ..Limits::default() };
    let bench = Bench::with(limits, InFlight::new(1_000, 40_000, SharedClock::SYSTEM), [held.subscriber("b")]);
    bench.add([large(1)]);
    run_ready_tasks().await;
    assert_eq!(bench.in_flight.room().await, 2, "as large as the first");
    bench.add([large(2), large(3)]);
    run_ready_tasks().await;
    assert_eq!(bench.in_flight.room_beside(0), 0);
    bench.in_flight.release([&id(1), &id(2), &id(3)]);
    assert_eq!(bench.in_flight.room_beside(0), 3);
    let narrow = Bench::with(Limits::default(), InFlight::new(1_000, 1, SharedClock::SYSTEM), [held.subscriber("c")]);
    assert_eq!(narrow.in_flight.room().await, 1, "one event, however large");
    narrow.add([large(1)]);
    assert_eq!(narrow.in_flight.room_beside(0), 0);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_takes_or_ends_an_entry_makes_room() {
    let held = RecordingHandler::held();
    let bench = Bench::new([held.subscriber("held")]);
    bench.add([entry("a", 1), entry("b", 2)]);
    run_ready_tasks().await;
    let in_flight = Arc::clone(&bench.in_flight);
    let waiting = tokio::spawn(async move { in_flight.room().await });
    run_ready_tasks().await;
    assert!(!waiting.is_finished(), "one waits for the worker");
    held.finish(1);
    run_ready_tasks().await;
    assert!(waiting.is_finished(), "the worker runs it");
}

#[tokio::test(start_paused = true)]
async fn letting_go_and_giving_back_make_room() {
    for nacks in [false, true] {
        let in_flight = Arc::new(InFlight::new(0, usize::MAX, SharedClock::SYSTEM));
        in_flight.add([entry("a", 1)]);
        let waiting = tokio::spawn({
            let in_flight = Arc::clone(&in_flight);
            async move { in_flight.room().await }
        });
        run_ready_tasks().await;
        assert!(!waiting.is_finished());
        match nacks {
            true => assert_eq!(in_flight.nack_unfinished(), [id(1)]),
            false => in_flight.release([&id(1)]),
        }
        assert_eq!(tokio::time::timeout(Duration::from_secs(1), waiting).await.unwrap().unwrap(), 1, "at least one");
    }
}

#[tokio::test(start_paused = true)]
async fn letting_go_of_a_delivery_cancels_its_handler_and_ignores_what_comes_of_it() {
    let held = RecordingHandler::held();
    let mut bench = Bench::new([held.subscriber("held")]);
    bench.add([entry("a", 1), entry("a", 2)]);
    run_ready_tasks().await;
    bench.in_flight.release([&id(1)]);
    run_ready_tasks().await;
    assert_eq!((held.begun(), held.running()), (vec![1, 2], 1), "the next of its aggregate runs");
    assert!(!bench.in_flight.contains(&id(1)));

    // redelivered while the next one runs: it is a new delivery
    bench.add([entry("a", 1)]);
    run_ready_tasks().await;
    assert_eq!(held.running(), 1);
    held.finish(2);
    bench.drain().await;
    assert_eq!(held.begun(), [1, 2, 1]);
    assert_eq!(bench.ids_with(|disposition| matches!(disposition, Disposition::Acknowledge { .. })), [id(2), id(1)]);
    assert_eq!(bench.context.counters.snapshot().events_processed_success, 2);
}

#[tokio::test(start_paused = true)]
async fn letting_go_of_a_delivery_disturbs_no_later_one_of_the_same_worker() {
    let held = RecordingHandler::held();
    let mut bench = Bench::new([held.subscriber("held")]);
    bench.add([entry("a", 1), entry("b", 2)]);
    run_ready_tasks().await;
    // the worker is notified, and the delivery ends before it sees that
    held.finish(1);
    bench.in_flight.release([&id(1)]);
    run_ready_tasks().await;
    assert_eq!((held.begun(), held.running()), (vec![1, 2], 1), "the second goes on");
    held.finish(1);
    bench.drain().await;
    assert_eq!(bench.ids_with(|disposition| matches!(disposition, Disposition::Acknowledge { .. })), [id(2)]);
}

#[tokio::test(start_paused = true)]
async fn what_came_of_an_entry_is_told_at_once_while_the_next_is_handled() {
    let held = RecordingHandler::held();
    let bench = Bench::new([held.subscriber("held")]);
    let is_ready = async || tokio::time::timeout(Duration::from_millis(1), bench.disposed()).await.is_ok();
    bench.add(several(1..10));
    run_ready_tasks().await;
    assert!(!is_ready().await, "no run has ended");
    held.finish(1);
    run_ready_tasks().await;
    assert!(is_ready().await && is_ready().await, "as long as it is not persisted");
    assert_eq!((bench.take_disposed().len(), held.running()), (1, 1));
    assert!(!is_ready().await);
    held.finish(3);
    run_ready_tasks().await;
    assert_eq!(bench.take_disposed().len(), 3, "the dispositions that came meanwhile are persisted together");
}
