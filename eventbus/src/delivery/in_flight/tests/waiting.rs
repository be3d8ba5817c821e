//! Waiting entries: they take no room, and their number and their bytes are limited.

use super::*;
use crate::port::health::{Health, HealthThresholds};

/// Fails at the first attempt, with a retry after an hour.
fn failing_once(numbers: std::ops::Range<u64>) -> RecordingHandler {
    let failed = Mutex::new(std::collections::HashSet::new());
    RecordingHandler::new(move |number| match numbers.contains(&number) && failed.lock().unwrap().insert(number) {
        true => Err(HandlerError::retry_after(Duration::from_secs(3_600), "later")),
        false => Ok(()),
    })
}

fn bench(handler: &RecordingHandler, in_flight: InFlight) -> Bench {
    Bench::with(Limits::default(), in_flight, [handler.subscriber("a")])
}

fn of(aggregate: u64, number: u64) -> InFlightEntry {
    entry(&aggregate.to_string(), number)
}

#[tokio::test(start_paused = true)]
async fn others_flow_though_far_more_wait_than_fit_in_hand() {
    let handler = failing_once(1..501);
    let mut bench = bench(&handler, InFlight::new(4, 40_000, SharedClock::SYSTEM));
    for number in 1..=1_000 {
        assert!(bench.in_flight.room().await >= 1);
        bench.add([of(number % 250, number)]);
        run_ready_tasks().await;
        bench.write();
    }
    // 250 wait; the next 250, which would fail, and all later ones are blocked behind them
    assert_eq!((handler.begun().len(), bench.in_flight.len(), bench.in_flight.free()), (250, 1_000, 4));
    bench.add([of(1_001, 1_001)]);
    run_ready_tasks().await;
    assert_eq!(handler.begun().last(), Some(&1_001));
    bench.drain().await;
    let first = |number: &u64| *number % 250 == 3;
    let of_one: Vec<u64> = handler.begun().into_iter().filter(first).collect();
    assert_eq!(of_one, [3, 3, 253, 253, 503, 753], "in their order");
}

#[tokio::test(start_paused = true)]
async fn no_more_is_read_while_too_many_wait_and_health_says_since_when() {
    let handler = failing_once(1..11);
    let mut bench = bench(&handler, InFlight::new(100, usize::MAX, SharedClock::SYSTEM).with_max_waiting(10));
    let alerts = |bench: &Bench| {
        bench.context.subscribers.report(Health::connected(true, 0, 0)).alerts(&HealthThresholds::default())
    };
    for number in 1..=10 {
        assert!(bench.in_flight.room().await > 0);
        assert!(alerts(&bench).is_empty());
        bench.add([of(number, number)]);
        run_ready_tasks().await;
        bench.write();
    }
    assert_eq!((bench.in_flight.room_beside(0), bench.in_flight.is_crowded()), (0, true));
    let said = alerts(&bench);
    assert!(said[0].starts_with("`group` reads no more events since 20") && said[0].contains(": 10 wait"), "{said:?}");
    let in_flight = Arc::clone(&bench.in_flight);
    let waiting = tokio::spawn(async move { in_flight.room().await });
    tokio::time::sleep(Duration::from_secs(1_800)).await;
    assert!(!waiting.is_finished());
    bench.drain().await;
    assert!(waiting.await.unwrap() > 0 && alerts(&bench).is_empty());
    assert_eq!(handler.begun().len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_is_due_sooner_than_the_others_does_not_wait_for_them() {
    let delay = |number| Duration::from_secs(if number == 1 { 3_600 } else { 10 });
    let handler = RecordingHandler::new(move |number| Err(HandlerError::retry_after(delay(number), "later")));
    let mut bench = bench(&handler, InFlight::new(100, usize::MAX, SharedClock::SYSTEM));
    for number in [1, 2] {
        bench.add([of(number, number)]);
        run_ready_tasks().await;
        bench.write();
    }
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(handler.begun(), [1, 2, 2]);
}

/// Fails without the limit of bytes.
#[tokio::test(start_paused = true)]
async fn no_more_is_read_while_too_many_bytes_wait() {
    let handler = failing_once(1..100);
    let mut bench = bench(&handler, InFlight::new(100, 1_000, SharedClock::SYSTEM));
    let mut number = 0;
    while !bench.in_flight.is_crowded() {
        number += 1;
        bench.add([of(number, number)]);
        run_ready_tasks().await;
        bench.write();
        assert!(number < 100);
    }
    assert!((16..=32).contains(&number), "16 times 1,000 bytes: {number}");
    assert_eq!(bench.in_flight.room_beside(0), 0);
    bench.drain().await;
    assert!(bench.in_flight.room_beside(0) > 0);
}
