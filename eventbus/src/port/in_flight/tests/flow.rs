//! Who runs when: order, parking, workers, stopping.

use super::*;
use crate::domain::clock::SharedClock;

#[tokio::test(start_paused = true)]
async fn entries_of_one_aggregate_run_in_order_while_others_flow() {
    let slow = Witness::held();
    let mut bench = Bench::new([slow.subscriber("slow").with_options(options(None, None, Some(3)))]);
    bench.add([taken("a", 1), taken("a", 2), taken("b", 3), taken("c", 4), taken("d", 5), taken("a", 6)]);
    settle_down().await;
    assert_eq!(slow.begun_sorted(), [1, 3, 4], "three at once, one of each");
    slow.let_go(6);
    bench.drain().await;
    let of_a: Vec<_> = slow.begun().into_iter().filter(|number| [1, 2, 6].contains(number)).collect();
    assert_eq!(of_a, [1, 2, 6]);
    assert_eq!(slow.begun().len(), 6);
    let acknowledged = bench.verdicts(|verdict| *verdict == Disposition::Acknowledge { has_attempts: false });
    assert_eq!(acknowledged.len(), 6);
    let stats = bench.context.counters.snapshot();
    assert_eq!((stats.events_consumed, stats.events_processed_success), (6, 6));
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_aggregate_of_two_types_is_two() {
    let witness = Witness::held();
    let bench = Bench::new([witness.subscriber("a").with_options(options(None, None, Some(2)))]);
    let other = StreamId::parse("Parcel", "a").unwrap();
    let parcel = NewEvent::new(Name::from_static("Sent"), 1, "{}").recorded_as(other, Version::new(2), None);
    bench.add([taken("a", 1), InFlightEntry::new(id(2), parcel)]);
    settle_down().await;
    assert_eq!(witness.begun_sorted(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn handlers_that_say_nothing_never_run_more_than_the_limit_at_once() {
    let limits = Limits { concurrency: 2, ..Limits::default() };
    let (plain, wide) = (Witness::held(), Witness::held());
    let wide_one = wide.subscriber("wide").with_options(options(None, None, Some(5)));
    let mut bench =
        Bench::with(limits, InFlight::new(100, usize::MAX, SharedClock::SYSTEM), [wide_one, plain.subscriber("plain")]);
    bench.add((1..=9).map(|number| taken(&number.to_string(), number)));
    settle_down().await;
    assert_eq!((wide.running(), plain.running()), (5, 0), "as many workers as the widest handler wants");
    wide.let_go(9);
    settle_down().await;
    assert_eq!(plain.running(), 2, "the others wait for their turn");
    plain.let_go(9);
    bench.drain().await;
    assert_eq!((wide.most.load(Ordering::SeqCst), plain.most.load(Ordering::SeqCst)), (5, 2));
}

#[tokio::test(start_paused = true)]
async fn there_are_no_more_workers_than_entries_it_holds() {
    let (wide, limits) = (Witness::held(), Limits { concurrency: usize::MAX, ..Limits::default() });
    let bench = Bench::with(limits, InFlight::new(3, usize::MAX, SharedClock::SYSTEM), [wide.subscriber("wide")]);
    bench.add((1..=5).map(|number| taken(&number.to_string(), number)));
    settle_down().await;
    assert_eq!(wide.running(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_bus_may_allow_more_workers_than_handlers_ask_for() {
    let (narrow, limits) = (Witness::held(), Limits { concurrency: 3, ..Limits::default() });
    let subscriber = narrow.subscriber("narrow").with_options(options(None, None, Some(1)));
    let other = Witness::held();
    let bench = Bench::with(
        limits,
        InFlight::new(100, usize::MAX, SharedClock::SYSTEM),
        [other.subscriber("other"), subscriber],
    );
    bench.add((1..=4).map(|number| taken(&number.to_string(), number)));
    settle_down().await;
    assert_eq!(other.running(), 3);
    other.let_go(3);
    settle_down().await;
    assert_eq!(narrow.running(), 1, "a handler that says it is taken at its word");
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_joins_is_heard_from_the_next_delivery_on_and_one_that_leaves_no_more() {
    let (first, second) = (Witness::held(), Witness::held());
    let mut bench = Bench::new([]);
    bench.add([taken("a", 1), taken("b", 2), taken("c", 3), taken("d", 4)]);
    settle_down().await;
    let leaving = bench.join(first.subscriber("first"));
    settle_down().await;
    assert_eq!(first.begun(), [1], "kept while there was nobody");
    bench.join(second.subscriber("second").with_options(options(None, None, Some(2))));
    first.let_go(9);
    settle_down().await;
    assert_eq!(second.begun_sorted(), [2, 3], "it wants two at once, and so there are two workers");
    leaving.cancel();
    second.let_go(9);
    bench.drain().await;
    assert_eq!((first.begun_sorted(), second.begun_sorted()), (vec![1, 2, 3], vec![2, 3, 4]));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_while_a_group_has_no_subscribers() {
    let (first, second) = (Witness::willing(), Witness::willing());
    let mut bench = Bench::new([]);
    let leaving = bench.join(first.subscriber("first"));
    bench.add([taken("a", 1)]);
    bench.drain().await;
    leaving.cancel();
    bench.add([taken("a", 2), taken("b", 3)]);
    settle_down().await;
    assert_eq!(bench.take_disposed().len(), 0);
    bench.join(second.subscriber("second"));
    bench.drain().await;
    assert_eq!((first.begun(), second.begun()), (vec![1], vec![2, 3]));
}

#[tokio::test(start_paused = true)]
async fn what_no_handler_wants_is_skipped() {
    let unwilling = Subscriber::new(Name::from_static("none"), EventFilter::Only(&[]), |_| Box::pin(async { Ok(()) }));
    let mut bench = Bench::new([unwilling]);
    bench.add([taken("a", 1), taken("a", 2)]);
    bench.drain().await;
    assert_eq!(bench.verdicts(|verdict| matches!(verdict, Disposition::Skip(_))), [id(1), id(2)]);
    assert_eq!(bench.written[0].record.as_ref().unwrap().version(), Version::new(1));
    let stats = bench.context.counters.snapshot();
    assert_eq!((stats.events_skipped, stats.events_processed_success), (0, 0), "another consumer may want them");
}

#[tokio::test(start_paused = true)]
async fn what_was_skipped_is_handled_by_a_handler_that_came_before_that_was_written_down() {
    let unwilling = Subscriber::new(Name::from_static("none"), EventFilter::Only(&[]), |_| Box::pin(async { Ok(()) }));
    let (mut bench, late) = (Bench::new([unwilling]), Witness::willing());
    let tries = DeliveryAttempts { attempts: 2, ..DeliveryAttempts::default() };
    bench.add([taken("a", 1).with_attempts(tries), taken("a", 2), taken("a", 3), taken("b", 4)]);
    bench.settled().await;
    settle_down().await;
    bench.join(late.subscriber("late"));
    bench.add([taken("a", 5)]);
    bench.drain().await;
    let skipped = bench.verdicts(|verdict| matches!(verdict, Disposition::Skip(_)));
    let of_a: Vec<_> = late.begun().into_iter().filter(|number| *number != 4).collect();
    assert_eq!((of_a, late.begun().len(), skipped), (vec![1, 2, 3, 5], 5, vec![]));
    assert_eq!(late.attempts.lock().unwrap().iter().max(), Some(&3), "it keeps its attempts");
}

#[tokio::test(start_paused = true)]
async fn an_entry_in_hand_is_taken_in_once() {
    let held = Witness::held();
    let bench = Bench::new([held.subscriber("held")]);
    assert_eq!(bench.add([taken("a", 1), taken("a", 1), taken("b", 2)]), 2);
    settle_down().await;
    assert_eq!(bench.add([taken("a", 1), taken("b", 2), taken("c", 3)]), 1);
    bench.in_flight.add_undecodable(id(1), DeliveryAttempts::undecodable("x".into(), &SharedClock::SYSTEM));
    assert!(bench.take_disposed().is_empty(), "it is in hand and an event");
    assert!(bench.in_flight.contains(&id(3)) && !bench.in_flight.contains(&id(4)));
    let mut ids = bench.in_flight.ids();
    ids.sort_by_key(ToString::to_string);
    assert_eq!((ids, bench.in_flight.len()), (vec![id(1), id(2), id(3)], 3));
    held.let_go(9);
    settle_down().await;
    assert_eq!(held.begun(), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn parked_entries_go_on_after_success_though_it_is_not_written_down() {
    let witness = Witness::willing();
    let bench = Bench::new([witness.subscriber("a")]);
    bench.add([taken("a", 1), taken("a", 2)]);
    settle_down().await;
    assert_eq!((witness.begun(), bench.in_flight.len()), (vec![1, 2], 2));
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_after_the_deliveries_in_hand() {
    let held = Witness::held();
    let mut bench = Bench::new([held.subscriber("held").with_options(options(None, None, Some(2)))]);
    bench.add([taken("a", 1), taken("b", 2), taken("c", 3), taken("a", 4)]);
    settle_down().await;
    bench.stop.cancel();
    settle_down().await;
    assert!(!bench.working.is_finished());
    held.let_go(1);
    settle_down().await;
    assert!(!bench.working.is_finished(), "the other one is being handled");
    held.let_go(9);
    (&mut bench.working).await.unwrap();
    assert_eq!(held.begun_sorted(), [1, 2]);
    assert_eq!(bench.take_disposed().len(), 2, "what came of them is to be written down");
    let mut back = bench.in_flight.nack_idle();
    back.sort_by_key(ToString::to_string);
    assert_eq!((back, bench.in_flight.len()), (vec![id(3), id(4)], 2));
}

#[tokio::test(start_paused = true)]
async fn idle_workers_stop_at_once() {
    let bench = Bench::new([Witness::willing().subscriber("a")]);
    settle_down().await;
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_mistake_of_ours_is_seen() {
    let mut bench = Bench::new([]);
    bench.stop.cancel();
    bench.context.span = Arc::new(|_, _| panic!("as the test wants it"));
    bench.join(Witness::willing().subscriber("a"));
    bench.add([taken("a", 1)]);
    let (in_flight, context) = (Arc::clone(&bench.in_flight), bench.context.clone());
    let stop = StopSignal::from_token(CancellationToken::new());
    let working = tokio::spawn(async move { in_flight.work(&context, &stop).await });
    assert!(working.await.unwrap_err().is_panic());
}
