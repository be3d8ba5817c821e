//! Two sets of in-flight entries of one consumer: entries of the first block those of the second, and both share slots.

use super::*;

fn in_flight() -> InFlight {
    InFlight::new(100, usize::MAX, SharedClock::SYSTEM)
}

fn stream(aggregate: &str) -> StreamId {
    StreamId::parse("Order", aggregate).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_aggregate_that_is_held_back_waits_until_it_is_released_and_others_flow() {
    let handler = RecordingHandler::willing();
    let mut bench = Bench::with(Limits::default(), in_flight(), [handler.subscriber("a")]);
    bench.in_flight.block_streams([&stream("a"), &stream("b"), &stream("b")]);
    bench.add([entry("a", 1), entry("a", 2), entry("b", 3), entry("c", 4), entry("a", 5)]);
    run_ready_tasks().await;
    assert_eq!(handler.begun(), [4]);
    bench.write();
    assert_eq!((bench.in_flight.len(), bench.in_flight.free()), (4, 100), "they take no room");
    bench.in_flight.unblock_streams([&stream("a"), &stream("b"), &stream("never")]);
    run_ready_tasks().await;
    bench.write();
    run_ready_tasks().await;
    bench.write();
    run_ready_tasks().await;
    assert_eq!(handler.begun(), [4, 1, 2, 5], "in their order; the other one was blocked twice");
    bench.in_flight.unblock_streams([&stream("b")]);
    bench.drain().await;
    bench.add([entry("a", 6)]);
    bench.drain().await;
    assert_eq!(handler.begun(), [4, 1, 2, 5, 3, 6]);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_has_begun_is_held_back_and_what_runs_is_not() {
    let handler = RecordingHandler::held();
    let mut bench = Bench::with(Limits::default(), in_flight(), [handler.subscriber("a")]);
    bench.add([entry("a", 1), entry("a", 2), entry("b", 3)]);
    run_ready_tasks().await;
    bench.in_flight.block_streams([&stream("a"), &stream("b")]);
    handler.finish(10);
    run_ready_tasks().await;
    bench.write();
    run_ready_tasks().await;
    assert_eq!(handler.begun(), [1]);
    assert_eq!(bench.in_flight.nack_idle_if(|_| true).len(), 2);
    assert!(bench.in_flight.is_empty());
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn hands_with_the_same_places_handle_as_many_at_once_as_one() {
    let (one, other, slots) = (RecordingHandler::held(), RecordingHandler::held(), WorkerSlots::default());
    let limits = Limits { concurrency: 2, ..Limits::default() };
    let mut benches =
        [&one, &other].map(|handler| Bench::with(limits, in_flight().with_slots(&slots), [handler.subscriber("a")]));
    for bench in &benches {
        bench.add((1..=20).map(|number| entry(&number.to_string(), number)));
    }
    for _ in 0..20 {
        run_ready_tasks().await;
        assert_eq!(one.running() + other.running(), 2);
        one.finish(1);
        other.finish(1);
    }
    one.finish(20);
    other.finish(20);
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
    let handler = RecordingHandler::new(|number| match number {
        1 => Err(HandlerError::retry_after(Duration::from_secs(3_600), "later")),
        _ => Ok(()),
    });
    let bench = Bench::with(Limits::default(), in_flight(), [handler.subscriber("a")]);
    bench.add([entry("a", 1), entry("a", 2), entry("a", 3)]);
    assert_eq!(bench.in_flight.count_retried(), 0);
    run_ready_tasks().await;
    assert_eq!((bench.in_flight.count_retried(), bench.in_flight.len()), (3, 3));
    bench.in_flight.block_streams([&stream("b")]);
    bench.add([entry("b", 4)]);
    run_ready_tasks().await;
    assert_eq!((bench.in_flight.count_retried(), bench.in_flight.len()), (3, 4), "a blocked one is not retried");
    bench.stop().await;
}
