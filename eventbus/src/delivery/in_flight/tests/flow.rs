//! The order of runs: ordering keys, blocked entries, workers, stopping.

use super::*;
use crate::domain::clock::SharedClock;

#[tokio::test(start_paused = true)]
async fn entries_of_one_aggregate_run_in_order_while_others_flow() {
    let slow = RecordingHandler::held();
    let mut bench = Bench::new([slow.subscriber("slow").with_options(options(None, None, Some(3)))]);
    bench.add([entry("a", 1), entry("a", 2), entry("b", 3), entry("c", 4), entry("d", 5), entry("a", 6)]);
    run_ready_tasks().await;
    assert_eq!(slow.begun_sorted(), [1, 3, 4], "three at once, one of each");
    slow.finish(6);
    bench.drain().await;
    let of_a: Vec<_> = slow.begun().into_iter().filter(|number| [1, 2, 6].contains(number)).collect();
    assert_eq!(of_a, [1, 2, 6]);
    assert_eq!(slow.begun().len(), 6);
    let acknowledged = bench.ids_with(|disposition| *disposition == Disposition::Acknowledge { has_attempts: false });
    assert_eq!(acknowledged.len(), 6);
    let stats = bench.context.counters.snapshot();
    assert_eq!((stats.events_consumed, stats.events_processed_success), (6, 6));
    bench.stop().await;
}

/// The handler of the next entry may block the thread.
#[tokio::test(start_paused = true)]
async fn a_bus_that_waits_for_outcomes_takes_one_before_the_next_entry_runs() {
    let steps = Arc::new(Mutex::new(Vec::new()));
    let handled = Arc::clone(&steps);
    let handler = RecordingHandler::new(move |number| {
        handled.lock().unwrap().push(format!("handled {number}"));
        Ok(())
    });
    let bench = Bench::new([handler.subscriber("one").with_options(options(None, None, Some(1)))]);
    // the bench would take the dispositions of its own entries
    let in_flight = Arc::new(InFlight::new(100, usize::MAX, SharedClock::SYSTEM));
    let (worker, context) = (Arc::clone(&in_flight), bench.context.clone());
    let stop = StopSignal::from_token(CancellationToken::new());
    let working = tokio::spawn(async move { run_workers(&worker, &context, &stop).await });
    let (added, taken) = (Arc::clone(&in_flight), Arc::clone(&steps));
    let bus = tokio::spawn(async move {
        loop {
            in_flight.disposed().await;
            for disposed in in_flight.take_disposed() {
                taken.lock().unwrap().push(format!("took {}", disposed.id));
                in_flight.release([&disposed.id]);
            }
        }
    });
    run_ready_tasks().await;
    added.add([entry("a", 1), entry("b", 2)]);
    run_ready_tasks().await;
    bus.abort();
    working.abort();
    assert_eq!(*steps.lock().unwrap(), ["handled 1", "took 1-0", "handled 2", "took 2-0"]);
}

#[tokio::test(start_paused = true)]
async fn one_aggregate_of_two_types_is_two() {
    let handler = RecordingHandler::held();
    let bench = Bench::new([handler.subscriber("a").with_options(options(None, None, Some(2)))]);
    let other = StreamId::parse("Parcel", "a").unwrap();
    let parcel = NewEvent::new(Name::from_static("Sent"), 1, "{}").recorded_as(other, Version::new(2), None);
    bench.add([entry("a", 1), InFlightEntry::new(id(2), parcel)]);
    run_ready_tasks().await;
    assert_eq!(handler.begun_sorted(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn handlers_that_say_nothing_never_run_more_than_the_limit_at_once() {
    let limits = Limits { concurrency: 2, ..Limits::default() };
    let (plain, wide) = (RecordingHandler::held(), RecordingHandler::held());
    let wide_one = wide.subscriber("wide").with_options(options(None, None, Some(5)));
    let mut bench =
        Bench::with(limits, InFlight::new(100, usize::MAX, SharedClock::SYSTEM), [wide_one, plain.subscriber("plain")]);
    bench.add((1..=9).map(|number| entry(&number.to_string(), number)));
    run_ready_tasks().await;
    assert_eq!((wide.running(), plain.running()), (5, 0), "as many workers as the widest handler wants");
    wide.finish(9);
    run_ready_tasks().await;
    assert_eq!(plain.running(), 2, "the other runs wait for a permit");
    plain.finish(9);
    bench.drain().await;
    assert_eq!((wide.most.load(Ordering::SeqCst), plain.most.load(Ordering::SeqCst)), (5, 2));
}

#[tokio::test(start_paused = true)]
async fn there_are_no_more_workers_than_entries_it_holds() {
    let (wide, limits) = (RecordingHandler::held(), Limits { concurrency: usize::MAX, ..Limits::default() });
    let bench = Bench::with(limits, InFlight::new(3, usize::MAX, SharedClock::SYSTEM), [wide.subscriber("wide")]);
    bench.add((1..=5).map(|number| entry(&number.to_string(), number)));
    run_ready_tasks().await;
    assert_eq!(wide.running(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_bus_may_allow_more_workers_than_handlers_ask_for() {
    let (narrow, limits) = (RecordingHandler::held(), Limits { concurrency: 3, ..Limits::default() });
    let subscriber = narrow.subscriber("narrow").with_options(options(None, None, Some(1)));
    let other = RecordingHandler::held();
    let bench = Bench::with(
        limits,
        InFlight::new(100, usize::MAX, SharedClock::SYSTEM),
        [other.subscriber("other"), subscriber],
    );
    bench.add((1..=4).map(|number| entry(&number.to_string(), number)));
    run_ready_tasks().await;
    assert_eq!(other.running(), 3);
    other.finish(3);
    run_ready_tasks().await;
    assert_eq!(narrow.running(), 1, "a handler that says it is taken at its word");
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_joins_is_heard_from_the_next_delivery_on_and_one_that_leaves_no_more() {
    let (first, second) = (RecordingHandler::held(), RecordingHandler::held());
    let mut bench = Bench::new([]);
    bench.add([entry("a", 1), entry("b", 2), entry("c", 3), entry("d", 4)]);
    run_ready_tasks().await;
    let leaving = bench.join(first.subscriber("first"));
    run_ready_tasks().await;
    assert_eq!(first.begun(), [1], "the entries wait for a handler");
    bench.join(second.subscriber("second").with_options(options(None, None, Some(2))));
    first.finish(9);
    run_ready_tasks().await;
    assert_eq!(second.begun_sorted(), [2, 3], "it wants two at once, and so there are two workers");
    leaving.cancel();
    second.finish(9);
    bench.drain().await;
    assert_eq!((first.begun_sorted(), second.begun_sorted()), (vec![1, 2, 3], vec![2, 3, 4]));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_while_a_group_has_no_subscribers() {
    let (first, second) = (RecordingHandler::willing(), RecordingHandler::willing());
    let mut bench = Bench::new([]);
    let leaving = bench.join(first.subscriber("first"));
    bench.add([entry("a", 1)]);
    bench.drain().await;
    leaving.cancel();
    bench.add([entry("a", 2), entry("b", 3)]);
    run_ready_tasks().await;
    assert_eq!(bench.take_disposed().len(), 0);
    bench.join(second.subscriber("second"));
    bench.drain().await;
    assert_eq!((first.begun(), second.begun()), (vec![1], vec![2, 3]));
}

#[tokio::test(start_paused = true)]
async fn what_no_handler_wants_is_skipped() {
    let unwilling = Subscriber::new(Name::from_static("none"), EventFilter::Only(&[]), |_| Box::pin(async { Ok(()) }));
    let mut bench = Bench::new([unwilling]);
    bench.add([entry("a", 1), entry("a", 2)]);
    bench.drain().await;
    assert_eq!(bench.ids_with(|disposition| matches!(disposition, Disposition::Skip)), [id(1), id(2)]);
    assert_eq!(bench.written[0].record.as_ref().unwrap().version(), Version::new(1));
    let stats = bench.context.counters.snapshot();
    assert_eq!((stats.events_skipped, stats.events_processed_success), (0, 0), "another consumer may want them");
}

#[tokio::test(start_paused = true)]
async fn an_entry_in_hand_is_taken_in_once() {
    let held = RecordingHandler::held();
    let bench = Bench::new([held.subscriber("held")]);
    assert_eq!(bench.add([entry("a", 1), entry("a", 1), entry("b", 2)]), 2);
    run_ready_tasks().await;
    assert_eq!(bench.add([entry("a", 1), entry("b", 2), entry("c", 3)]), 1);
    bench.in_flight.add_dead_letter(id(1), DeliveryAttempts::undecodable("x".into(), &SharedClock::SYSTEM));
    assert!(bench.take_disposed().is_empty(), "it is in flight and an event");
    assert!(bench.in_flight.contains(&id(3)) && !bench.in_flight.contains(&id(4)));
    let mut ids = bench.in_flight.ids();
    ids.sort_by_key(ToString::to_string);
    assert_eq!((ids, bench.in_flight.len()), (vec![id(1), id(2), id(3)], 3));
    held.finish(9);
    run_ready_tasks().await;
    assert_eq!(held.begun(), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn delayed_entries_go_on_after_success_though_it_is_not_written_down() {
    let handler = RecordingHandler::willing();
    let bench = Bench::new([handler.subscriber("a")]);
    bench.add([entry("a", 1), entry("a", 2)]);
    run_ready_tasks().await;
    assert_eq!((handler.begun(), bench.in_flight.len()), (vec![1, 2], 2));
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_after_the_deliveries_in_hand() {
    let held = RecordingHandler::held();
    let mut bench = Bench::new([held.subscriber("held").with_options(options(None, None, Some(2)))]);
    bench.add([entry("a", 1), entry("b", 2), entry("c", 3), entry("a", 4)]);
    run_ready_tasks().await;
    bench.stop.cancel();
    run_ready_tasks().await;
    assert!(!bench.working.is_finished());
    held.finish(1);
    run_ready_tasks().await;
    assert!(!bench.working.is_finished(), "the other one is being handled");
    held.finish(9);
    (&mut bench.working).await.unwrap();
    assert_eq!(held.begun_sorted(), [1, 2]);
    assert_eq!(bench.take_disposed().len(), 2, "their dispositions are ready to persist");
    let mut back = bench.in_flight.nack_unfinished();
    back.sort_by_key(ToString::to_string);
    assert_eq!((back, bench.in_flight.len()), (vec![id(3), id(4)], 2));
}

#[tokio::test(start_paused = true)]
async fn idle_workers_stop_at_once() {
    let bench = Bench::new([RecordingHandler::willing().subscriber("a")]);
    run_ready_tasks().await;
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_mistake_of_ours_is_seen() {
    let mut bench = Bench::new([]);
    bench.stop.cancel();
    bench.context.span = Arc::new(|_, _| panic!("as the test wants it"));
    bench.join(RecordingHandler::willing().subscriber("a"));
    bench.add([entry("a", 1)]);
    let (in_flight, context) = (Arc::clone(&bench.in_flight), bench.context.clone());
    let stop = StopSignal::from_token(CancellationToken::new());
    let working = tokio::spawn(async move { run_workers(&in_flight, &context, &stop).await });
    assert!(working.await.unwrap_err().is_panic());
}
