//! Room, what is written down when, and letting go.

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
    numbers.map(|number| taken(&number.to_string(), number))
}

#[tokio::test(start_paused = true)]
async fn what_is_read_ahead_is_what_the_workers_finish_in_a_tenth_of_a_second() {
    let ms = Arc::new(std::sync::atomic::AtomicU64::new(10));
    let subscriber = taking(Arc::clone(&ms)).with_options(options(None, None, Some(2)));
    let limits = Limits { concurrency: 2, ..Limits::default() };
    let mut bench = Bench::with(limits, InFlight::new(1_000, usize::MAX, SharedClock::SYSTEM), [subscriber]);
    settle_down().await;
    assert_eq!(bench.in_flight.room().await, 4, "two for each worker at first");
    let mut next = 1;
    for _ in 0..50 {
        let room = bench.in_flight.room().await as u64;
        bench.add(several(next..next + room));
        next += room;
        bench.settled().await;
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
async fn an_idle_worker_makes_room_though_all_that_is_there_is_parked() {
    let held = Witness::held();
    let bench = Bench::new([held.subscriber("held").with_options(options(None, None, Some(3)))]);
    bench.add([taken("a", 1), taken("a", 2), taken("a", 3), taken("a", 4)]);
    settle_down().await;
    assert_eq!(bench.in_flight.room().await, 2, "two workers have nothing to do");
    bench.add([taken("b", 5), taken("c", 6)]);
    settle_down().await;
    assert_eq!((bench.in_flight.room_beside(0), held.running()), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_retry_holds_up_no_reading() {
    let witness = Witness::failing(&[1]);
    let bench = Bench::new([witness.subscriber("a")]);
    bench.add([taken("a", 1), taken("a", 2), taken("a", 3)]);
    settle_down().await;
    assert_eq!(bench.in_flight.room_beside(0), 2);
}

#[tokio::test(start_paused = true)]
async fn no_more_is_held_than_fits_in_number_and_in_bytes() {
    let held = Witness::held();
    let bench = Bench::with(
        Limits { concurrency: 9, ..Limits::default() },
        InFlight::new(4, usize::MAX, SharedClock::SYSTEM),
        [held.subscriber("a")],
    );
    settle_down().await;
    assert_eq!(bench.in_flight.room().await, 4);
    bench.add(several(1..4));
    settle_down().await;
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
    settle_down().await;
    assert_eq!(bench.in_flight.room().await, 2, "as large as the first");
    bench.add([large(2), large(3)]);
    settle_down().await;
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
    let held = Witness::held();
    let bench = Bench::new([held.subscriber("held")]);
    bench.add([taken("a", 1), taken("b", 2)]);
    settle_down().await;
    let in_flight = Arc::clone(&bench.in_flight);
    let waiting = tokio::spawn(async move { in_flight.room().await });
    settle_down().await;
    assert!(!waiting.is_finished(), "one waits for the worker");
    held.let_go(1);
    settle_down().await;
    assert!(waiting.is_finished(), "the worker has it");
}

#[tokio::test(start_paused = true)]
async fn letting_go_and_giving_back_make_room() {
    for gives_back in [false, true] {
        let in_flight = Arc::new(InFlight::new(0, usize::MAX, SharedClock::SYSTEM));
        in_flight.add([taken("a", 1)]);
        let waiting = tokio::spawn({
            let in_flight = Arc::clone(&in_flight);
            async move { in_flight.room().await }
        });
        settle_down().await;
        assert!(!waiting.is_finished());
        match gives_back {
            true => assert_eq!(in_flight.nack_idle(), [id(1)]),
            false => in_flight.release([&id(1)]),
        }
        assert_eq!(tokio::time::timeout(Duration::from_secs(1), waiting).await.unwrap().unwrap(), 1, "at least one");
    }
}

#[tokio::test(start_paused = true)]
async fn letting_go_of_a_delivery_cancels_its_handler_and_ignores_what_comes_of_it() {
    let held = Witness::held();
    let mut bench = Bench::new([held.subscriber("held")]);
    bench.add([taken("a", 1), taken("a", 2)]);
    settle_down().await;
    bench.in_flight.release([&id(1)]);
    settle_down().await;
    assert_eq!((held.begun(), held.running()), (vec![1, 2], 1), "the next of its aggregate runs");
    assert!(!bench.in_flight.contains(&id(1)));

    // it comes back while another one runs: it is another delivery
    bench.add([taken("a", 1)]);
    settle_down().await;
    assert_eq!(held.running(), 1);
    held.let_go(2);
    bench.drain().await;
    assert_eq!(held.begun(), [1, 2, 1]);
    assert_eq!(bench.verdicts(|verdict| matches!(verdict, Disposition::Acknowledge { .. })), [id(2), id(1)]);
    assert_eq!(bench.context.counters.snapshot().events_processed_success, 2);
}

#[tokio::test(start_paused = true)]
async fn letting_go_of_a_delivery_disturbs_no_later_one_of_the_same_worker() {
    let held = Witness::held();
    let mut bench = Bench::new([held.subscriber("held")]);
    bench.add([taken("a", 1), taken("b", 2)]);
    settle_down().await;
    // the worker is told, and before it hears of it the delivery has ended
    held.let_go(1);
    bench.in_flight.release([&id(1)]);
    settle_down().await;
    assert_eq!((held.begun(), held.running()), (vec![1, 2], 1), "the second goes on");
    held.let_go(1);
    bench.drain().await;
    assert_eq!(bench.verdicts(|verdict| matches!(verdict, Disposition::Acknowledge { .. })), [id(2)]);
}

#[tokio::test(start_paused = true)]
async fn what_came_of_an_entry_is_told_at_once_while_the_next_is_handled() {
    let held = Witness::held();
    let bench = Bench::new([held.subscriber("held")]);
    let told = async || tokio::time::timeout(Duration::from_millis(1), bench.settled()).await.is_ok();
    bench.add(several(1..10));
    settle_down().await;
    assert!(!told().await, "nothing came of any");
    held.let_go(1);
    settle_down().await;
    assert!(told().await && told().await, "as long as it is not written down");
    assert_eq!((bench.take_disposed().len(), held.running()), (1, 1));
    assert!(!told().await);
    held.let_go(3);
    settle_down().await;
    assert_eq!(bench.take_disposed().len(), 3, "what came meanwhile is written down together");
}
