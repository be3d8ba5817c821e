//! Two hands of one consumer: what one has comes before what the other has, and they share their places.

use super::*;

fn in_flight() -> InFlight {
    InFlight::new(100, usize::MAX, SharedClock::SYSTEM)
}

fn stream(aggregate: &str) -> StreamId {
    StreamId::parse("Order", aggregate).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_aggregate_that_is_held_back_waits_until_it_is_released_and_others_flow() {
    let witness = Witness::willing();
    let mut bench = Bench::with(Limits::default(), in_flight(), [witness.subscriber("a")]);
    bench.in_flight.block_streams([&stream("a"), &stream("b"), &stream("b")]);
    bench.add([taken("a", 1), taken("a", 2), taken("b", 3), taken("c", 4), taken("a", 5)]);
    settle_down().await;
    assert_eq!(witness.begun(), [4]);
    bench.write();
    assert_eq!((bench.in_flight.len(), bench.in_flight.free()), (4, 100), "they are not in flight");
    bench.in_flight.unblock_streams([&stream("a"), &stream("b"), &stream("never")]);
    settle_down().await;
    bench.write();
    settle_down().await;
    bench.write();
    settle_down().await;
    assert_eq!(witness.begun(), [4, 1, 2, 5], "in their order; the other was held back twice");
    bench.in_flight.unblock_streams([&stream("b")]);
    bench.drain().await;
    bench.add([taken("a", 6)]);
    bench.drain().await;
    assert_eq!(witness.begun(), [4, 1, 2, 5, 3, 6]);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_has_begun_is_held_back_and_what_runs_is_not() {
    let witness = Witness::held();
    let mut bench = Bench::with(Limits::default(), in_flight(), [witness.subscriber("a")]);
    bench.add([taken("a", 1), taken("a", 2), taken("b", 3)]);
    settle_down().await;
    bench.in_flight.block_streams([&stream("a"), &stream("b")]);
    witness.let_go(10);
    settle_down().await;
    bench.write();
    settle_down().await;
    assert_eq!(witness.begun(), [1]);
    assert_eq!(bench.in_flight.nack_idle().len(), 2);
    assert!(bench.in_flight.is_empty());
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn hands_with_the_same_places_handle_as_many_at_once_as_one() {
    let (one, other, places) = (Witness::held(), Witness::held(), WorkerSlots::default());
    let limits = Limits { concurrency: 2, ..Limits::default() };
    let mut benches =
        [&one, &other].map(|witness| Bench::with(limits, in_flight().with_slots(&places), [witness.subscriber("a")]));
    for bench in &benches {
        bench.add((1..=20).map(|number| taken(&number.to_string(), number)));
    }
    for _ in 0..20 {
        settle_down().await;
        assert_eq!(one.running() + other.running(), 2);
        one.let_go(1);
        other.let_go(1);
    }
    one.let_go(20);
    other.let_go(20);
    for bench in &mut benches {
        bench.drain().await;
    }
    assert_eq!((one.begun().len(), other.begun().len()), (20, 20));
    for bench in benches {
        bench.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_failed_and_what_is_parked_behind_it_counts_as_retried() {
    let witness = Witness::new(|number| match number {
        1 => Err(HandlerError::retry_after(Duration::from_secs(3_600), "later")),
        _ => Ok(()),
    });
    let bench = Bench::with(Limits::default(), in_flight(), [witness.subscriber("a")]);
    bench.add([taken("a", 1), taken("a", 2), taken("a", 3)]);
    assert_eq!(bench.in_flight.count_retried(), 0);
    settle_down().await;
    assert_eq!((bench.in_flight.count_retried(), bench.in_flight.len()), (3, 3));
    bench.in_flight.block_streams([&stream("b")]);
    bench.add([taken("b", 4)]);
    settle_down().await;
    assert_eq!((bench.in_flight.count_retried(), bench.in_flight.len()), (3, 4), "what is held back is not");
    bench.stop().await;
}
