//! Entries that were in flight when their process ended.

use super::{
    super::state::{Bounds, InFlightState, NextSuspect},
    *,
};
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

/// The same, of a suspect that is due a second before the one with the next number, however long adding both takes.
fn due_in_turn(number: u64, alone: u32) -> DeliveryAttempts {
    let next_at = SharedClock::SYSTEM.unix_millis() + 60_000 + 1_000 * number;
    DeliveryAttempts { next_at: Some(next_at), ..waiting(alone) }
}

fn by_disposition<T>(disposed: &[DisposedEntry], of: impl Fn(&Disposition) -> Option<T>) -> Vec<(MessageId, T)> {
    disposed.iter().filter_map(|disposed| Some((disposed.id.clone(), of(&disposed.disposition)?))).collect()
}

/// Returns the entries that begin, with their `ended_alone` from then on.
fn begins(disposed: &[DisposedEntry]) -> Vec<(MessageId, u32)> {
    by_disposition(disposed, |disposition| match disposition {
        Disposition::Begin(attempts) => Some(attempts.ended_alone),
        _ => None,
    })
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
async fn others_run_while_a_suspect_waits_and_nothing_beside_it() {
    let held = RecordingHandler::held();
    let mut bench = several_at_once(&held);
    bench.add([redelivered("a", 1, DeliveryAttempts::default()), entry("b", 2), entry("c", 3)]);
    run_ready_tasks().await;
    assert_eq!((held.begun_sorted(), waits(&bench.take_disposed())), (vec![2, 3], vec![(id(1), (1, 1))]));
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    bench.add([entry("d", 4)]);
    run_ready_tasks().await;
    assert_eq!(held.begun_sorted(), [2, 3], "nothing begins: the suspect waits for those that run");
    held.finish(2);
    run_ready_tasks().await;
    let disposed = bench.take_disposed();
    assert_eq!(
        (held.begun_sorted(), begins(&disposed)),
        (vec![2, 3], vec![(id(1), 1)]),
        "it is written down before it runs"
    );
    bench.in_flight.begin([&id(4), &id(9)]); // no suspects
    bench.in_flight.begin([&id(1)]);
    run_ready_tasks().await;
    assert_eq!((held.begun().last(), held.running()), (Some(&1), 1), "alone");
    held.finish(1);
    run_ready_tasks().await;
    assert_eq!(held.begun()[2..], [1, 4], "then the others");
    held.finish(1);
    bench.in_flight.release([&id(2), &id(3)]);
    bench.drain().await;
    assert_eq!(bench.ids_with(|disposition| *disposition == Disposition::Acknowledge { has_attempts: true }), [id(1)]);
}

#[tokio::test(start_paused = true)]
async fn others_run_beside_a_suspect_whose_run_takes_long() {
    let held = RecordingHandler::held();
    let bench = several_at_once(&held);
    bench.add([redelivered("a", 1, waiting(0))]);
    run_ready_tasks().await;
    bench.in_flight.begin([&id(1)]);
    run_ready_tasks().await;
    bench.add([entry("b", 2)]);
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(held.begun(), [1], "alone");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(held.begun(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn suspects_run_one_at_a_time_the_likely_ones_last() {
    let held = RecordingHandler::held();
    let bench = several_at_once(&held);
    let left = |number: u64, alone| redelivered(&number.to_string(), number, waiting(alone));
    bench.add([left(1, 2), left(2, 0), left(3, 4), left(4, 0)]);
    for (number, alone) in [(2, 1), (4, 1), (1, 3), (3, 5)] {
        run_ready_tasks().await;
        assert_eq!(begins(&bench.take_disposed()), [(id(number), alone)]);
        bench.in_flight.begin([&id(number)]);
        run_ready_tasks().await;
        assert_eq!((held.begun().last(), held.running()), (Some(&number), 1));
        held.finish(1);
    }
    run_ready_tasks().await;
    assert!(begins(&bench.take_disposed()).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_likely_suspect_does_not_run_before_a_less_likely_one_that_is_due_is_read() {
    for (likely, expected) in [(1, 2), (0, 1)] {
        let (mut state, bounds) =
            (InFlightState::new(SharedClock::SYSTEM, 100), Bounds { entries: 100, bytes: usize::MAX });
        let mut now = tokio::time::Instant::now();
        for (number, alone) in [(1, likely), (2, 0)] {
            state.add(redelivered(&number.to_string(), number, due_in_turn(number, alone)), now);
        }
        now += Duration::from_secs(120);
        let mut next = Vec::new();
        for (number, alone) in [(1, likely), (2, 0)] {
            assert_eq!(state.take_due(now, bounds).into_iter().map(|due| due.id).collect::<Vec<_>>(), [id(number)]);
            state.resume(redelivered(&number.to_string(), number, ended(alone)), now);
            if let NextSuspect::Now { number, .. } = state.next_suspect(now, bounds) {
                next.push(number + 1);
            }
        }
        assert_eq!(next.first(), Some(&expected), "{likely} ends alone");
    }
}

#[tokio::test(start_paused = true)]
async fn a_likely_suspect_runs_when_the_one_that_it_waits_for_is_given_back() {
    let context = Bench::new([RecordingHandler::willing().subscriber("a")]).context.clone();
    let in_flight = Arc::new(InFlight::new(100, usize::MAX, SharedClock::SYSTEM));
    let working = Arc::clone(&in_flight);
    tokio::spawn(
        async move { run_workers(&working, &context, &StopSignal::from_token(CancellationToken::new())).await },
    );
    for (number, alone) in [(1, 1), (2, 0)] {
        in_flight.add([redelivered(&number.to_string(), number, due_in_turn(number, alone))]);
    }
    tokio::time::sleep(Duration::from_secs(120)).await;
    let due = || in_flight.take_due().into_iter().map(|due| due.id).collect::<Vec<_>>();
    assert_eq!(due(), [id(1)]);
    in_flight.resume([redelivered("1", 1, ended(1))]);
    assert_eq!(due(), [id(2)]);
    run_ready_tasks().await;
    assert!(begins(&in_flight.take_disposed()).is_empty(), "the bus is reading the other one");
    assert_eq!(in_flight.nack_idle_if(|given| *given == id(2)), [id(2)]);
    run_ready_tasks().await;
    assert_eq!(begins(&in_flight.take_disposed()), [(id(1), 2)]);
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
    assert_eq!((waits(&bench.written), begins(&bench.written)), (vec![], vec![(id(2), 1)]));
}

#[tokio::test(start_paused = true)]
async fn only_the_first_of_an_aggregate_was_in_flight() {
    let handler = RecordingHandler::willing();
    let mut bench = Bench::new([handler.subscriber("a")]);
    bench.add((1..=5).map(|number| redelivered("a", number, DeliveryAttempts::default())));
    bench.drain().await;
    assert_eq!(handler.begun(), [1, 2, 3, 4, 5]);
    assert_eq!((waits(&bench.written).len(), begins(&bench.written).len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_takeover_from_a_living_consumer_is_no_end_of_a_process() {
    let handler = RecordingHandler::willing();
    let mut bench = Bench::new([handler.subscriber("a")]);
    bench.add([entry("a", 1), entry("b", 2).with_attempts(ended(3))]);
    bench.drain().await;
    assert_eq!((waits(&bench.written), begins(&bench.written)), (vec![], vec![(id(2), 3)]), "not the fourth");
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_others_outlast_runs_beside_them_and_that_is_not_counted() {
    let held = RecordingHandler::held();
    let bench = several_at_once(&held);
    bench.add([entry("a", 1)]);
    run_ready_tasks().await;
    bench.add([redelivered("b", 2, waiting(0))]);
    run_ready_tasks().await;
    assert_eq!((held.begun(), bench.take_disposed().len()), (vec![1], 0));
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(begins(&bench.take_disposed()), [(id(2), 0)]);
    bench.in_flight.begin([&id(2)]);
    run_ready_tasks().await;
    assert_eq!((held.begun(), held.running()), (vec![1, 2], 2));
}

#[tokio::test(start_paused = true)]
async fn what_fails_or_is_skipped_has_not_ended_its_process() {
    let handler = RecordingHandler::failing_at_first(&[(1, 1)]);
    let mut bench = Bench::new([handler.subscriber("a")]);
    bench.add([redelivered("a", 1, ended(1))]);
    bench.drain().await;
    let failed = |disposed: &DisposedEntry| match &disposed.disposition {
        Disposition::Retry { attempts, .. } if attempts.attempts > 0 => {
            Some((attempts.process_ends, attempts.ended_alone))
        }
        _ => None,
    };
    assert_eq!(bench.written.iter().filter_map(failed).collect::<Vec<_>>(), [(0, 0)]);

    let other = handler.subscriber("other");
    let shipped = Subscriber::new(other.name().clone(), EventFilter::Only(&[]), |_| Box::pin(async { Ok(()) }));
    let mut bench = Bench::new([shipped]);
    bench.add([redelivered("a", 1, ended(1))]);
    bench.drain().await;
    let has_ended = |disposition: &Disposition| matches!(disposition, Disposition::Skip(attempts) if attempts.process_ends + attempts.ended_alone == 0);
    assert_eq!(bench.ids_with(has_ended), [id(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_is_given_back_before_it_ran_has_not_begun() {
    let handler = RecordingHandler::willing();
    let bench = Bench::new([handler.subscriber("a")]);
    bench.add([redelivered("a", 1, waiting(2))]);
    run_ready_tasks().await;
    assert_eq!(bench.in_flight.nack_idle_if(|_| true), [id(1)]);
    assert!(begins(&bench.take_disposed()).is_empty(), "the worker did not see it yet");

    bench.add([redelivered("a", 1, waiting(2))]);
    run_ready_tasks().await;
    assert_eq!(begins(&bench.take_disposed()), [(id(1), 3)]);
    assert_eq!(bench.in_flight.nack_idle_if(|_| true), [id(1)]);
    let disposed = bench.take_disposed();
    let Disposition::Retry { attempts, .. } = &disposed[0].disposition else { panic!("{disposed:?}") };
    assert_eq!(attempts.ended_alone, 2);
    assert!(attempts.is_waiting(&SharedClock::SYSTEM), "nor was it in flight");
    assert!(handler.begun().is_empty());
}

#[tokio::test(start_paused = true)]
async fn letting_go_of_a_suspect_lets_the_next_begin() {
    let handler = RecordingHandler::willing();
    let bench = Bench::new([handler.subscriber("a")]);
    bench.add((1..=3).map(|number| redelivered(&number.to_string(), number, waiting(0))));
    run_ready_tasks().await;
    assert_eq!(begins(&bench.take_disposed()), [(id(1), 1)]);
    bench.in_flight.release([&id(1), &id(2)]);
    run_ready_tasks().await;
    assert_eq!(begins(&bench.take_disposed()), [(id(3), 1)]);
}

#[tokio::test(start_paused = true)]
async fn suspects_of_one_group_wait_for_the_deliveries_of_another_of_the_bus() {
    let (held, willing) = (RecordingHandler::held(), RecordingHandler::willing());
    let one = Bench::new([held.subscriber("one")]);
    let context = GroupContext {
        run_lock: one.context.run_lock.clone(),
        subscribers: Subscribers::default(),
        ..one.context.clone()
    };
    context.subscribers.add(GROUP.clone(), willing.subscriber("other"));
    let in_flight = Arc::new(InFlight::new(9, usize::MAX, SharedClock::SYSTEM));
    let stop = CancellationToken::new();
    let working = tokio::spawn({
        let (in_flight, context, stop) =
            (Arc::clone(&in_flight), context.clone(), StopSignal::from_token(stop.clone()));
        async move { run_workers(&in_flight, &context, &stop).await }
    });
    one.in_flight.add([entry("a", 1)]);
    run_ready_tasks().await;
    in_flight.add([redelivered("b", 2, waiting(0))]);
    run_ready_tasks().await;
    assert!(begins(&in_flight.take_disposed()).is_empty());
    held.finish(1);
    run_ready_tasks().await;
    assert_eq!(begins(&in_flight.take_disposed()), [(id(2), 1)]);
    stop.cancel();
    working.await.unwrap();
}

/// Persists the dispositions of `bench` until it has no entry in flight, and returns the time that this took.
async fn time_to_drain(bench: &mut Bench) -> Duration {
    let began = tokio::time::Instant::now();
    bench.drain().await;
    began.elapsed()
}

/// Creates a bench whose group shares its bus with a group that always has a run.
async fn beside_a_long_run(handler: &RecordingHandler) -> (Bench, Bench) {
    let held = RecordingHandler::held().subscriber("long").with_options(options(None, Some(3_600_000), None));
    let long = Bench::new([held]);
    long.add([entry("long", 1_000)]);
    run_ready_tasks().await;
    let in_flight = InFlight::new(1_000, usize::MAX, SharedClock::SYSTEM);
    let run_lock = long.context.run_lock.clone();
    (long, Bench::beside(run_lock, Limits::default(), in_flight, [handler.subscriber("suspects")]))
}

#[tokio::test(start_paused = true)]
async fn a_long_run_of_another_group_delays_the_suspects_once_and_not_each() {
    let handler = RecordingHandler::willing();
    let (_long, mut bench) = beside_a_long_run(&handler).await;
    bench.add((1..=300).map(|number| redelivered(&number.to_string(), number, waiting(0))));
    let took = time_to_drain(&mut bench).await;
    assert_eq!(handler.begun().len(), 300);
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(begins(&bench.written).iter().all(|(_, alone)| *alone == 0), "each ran beside the long run");
}

#[tokio::test(start_paused = true)]
async fn likely_suspects_and_those_with_a_longer_delay_wait_also_after_others_have_waited_in_vain() {
    let likely = DeliveryAttempts { ended_alone: 1, ..waiting(0) };
    let more_ends = DeliveryAttempts { process_ends: 3, ..waiting(0) };
    for (attempts, delay) in [(waiting(0), 0), (likely, 1), (more_ends, 4)] {
        let handler = RecordingHandler::willing();
        let (_long, mut bench) = beside_a_long_run(&handler).await;
        bench.add([redelivered("a", 1, waiting(0))]);
        assert!(time_to_drain(&mut bench).await >= Duration::from_secs(1));
        bench.add([redelivered("b", 2, attempts)]);
        let took = time_to_drain(&mut bench).await;
        assert_eq!((took.as_secs(), handler.begun()), (delay, vec![1, 2]));
    }
}

#[tokio::test(start_paused = true)]
async fn ten_seconds_after_a_wait_in_vain_suspects_run_alone_again() {
    let handler = RecordingHandler::willing();
    let (long, mut bench) = beside_a_long_run(&handler).await;
    bench.add([redelivered("a", 1, waiting(0))]);
    bench.drain().await;
    long.in_flight.release([&id(1_000)]);
    tokio::time::sleep(Duration::from_secs(11)).await;
    bench.add([redelivered("b", 2, waiting(0))]);
    bench.drain().await;
    assert_eq!(begins(&bench.written), [(id(1), 0), (id(2), 1)]);
}

/// Fails if the suspects of a group give up running alone because one of another group does.
#[tokio::test(start_paused = true)]
async fn a_wait_for_another_suspect_that_runs_alone_is_not_in_vain() {
    let handler = RecordingHandler::willing();
    let mut bench = Bench::new([handler.subscriber("suspects")]);
    let alone = bench.context.run_lock.exclusive().await;
    bench.add([redelivered("a", 1, waiting(0))]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    drop(alone);
    bench.drain().await;
    bench.add([redelivered("b", 2, waiting(0))]);
    bench.drain().await;
    assert_eq!(begins(&bench.written), [(id(1), 0), (id(2), 1)]);
}

/// Fails if a wait counts as one for a suspect because another wait is queued behind it: the suspects of several groups
/// would keep all deliveries waiting in turn.
#[tokio::test(start_paused = true)]
async fn a_wait_for_a_long_run_is_in_vain_though_another_one_is_queued() {
    let (clock, delay) = (SharedClock::SYSTEM, Duration::from_secs(1));
    let run_lock = RunLock::default();
    let _long_run = run_lock.shared().await;
    let second = async {
        tokio::time::sleep(delay / 2).await;
        run_lock.exclusive_within(delay, &clock).await
    };
    let mut second = Box::pin(second);
    tokio::select! {
        first = run_lock.exclusive_within(delay, &clock) => assert!(first.is_none()),
        _ = &mut second => panic!("it waits for longer"),
    }
    assert!(run_lock.is_busy(delay, &clock));
}

/// Fails if the task of suspects waits on for the entry, and keeps all deliveries of the bus waiting meanwhile.
#[tokio::test(start_paused = true)]
async fn letting_go_of_the_only_suspect_while_it_begins_lets_other_groups_go_on() {
    let willing = RecordingHandler::willing();
    let one = Bench::new([willing.subscriber("one")]);
    let context = GroupContext { subscribers: Subscribers::default(), ..one.context.clone() };
    context.subscribers.add(GROUP.clone(), willing.subscriber("other"));
    let in_flight = Arc::new(InFlight::new(9, usize::MAX, SharedClock::SYSTEM));
    let (stop, working) = (CancellationToken::new(), Arc::clone(&in_flight));
    let signal = StopSignal::from_token(stop.clone());
    let working = tokio::spawn(async move { run_workers(&working, &context, &signal).await });
    one.add([redelivered("a", 1, waiting(0))]);
    run_ready_tasks().await;
    assert_eq!(begins(&one.take_disposed()), [(id(1), 1)]);
    in_flight.add([entry("b", 2)]);
    run_ready_tasks().await;
    assert!(willing.begun().is_empty(), "the suspect is to run alone");
    one.in_flight.release([&id(1)]);
    run_ready_tasks().await;
    assert_eq!(willing.begun(), [2]);
    stop.cancel();
    working.await.unwrap();
}
