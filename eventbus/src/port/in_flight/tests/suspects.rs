//! Entries that were in flight when their process ended.

use super::{
    super::{
        state::{Bounds, InFlightState},
        suspect::NextSuspect,
    },
    *,
};
use crate::domain::clock::SharedClock;

/// One that ran alone so often in vain, and was to begin.
fn ended(alone: u32) -> DeliveryAttempts {
    DeliveryAttempts { process_ends: alone + 1, ended_alone: alone, ..DeliveryAttempts::default() }
}

/// One that waits for its turn since its process ended.
fn waiting(alone: u32) -> DeliveryAttempts {
    let now = Some(SharedClock::SYSTEM.unix_millis());
    DeliveryAttempts { next_at: now, last_failed_at: now, ..ended(alone) }
}

fn of_verdicts<T>(settled: &[DisposedEntry], of: impl Fn(&Disposition) -> Option<T>) -> Vec<(MessageId, T)> {
    settled.iter().filter_map(|settled| Some((settled.id.clone(), of(&settled.disposition)?))).collect()
}

/// Those that begin, and how often they would then have ended alone.
fn begins(settled: &[DisposedEntry]) -> Vec<(MessageId, u32)> {
    of_verdicts(settled, |verdict| match verdict {
        Disposition::Begin(tries) => Some(tries.ended_alone),
        _ => None,
    })
}

/// Those that are to wait, how often their process ended, and for how many seconds.
fn waits(settled: &[DisposedEntry]) -> Vec<(MessageId, (u32, u64))> {
    of_verdicts(settled, |verdict| match verdict {
        Disposition::Retry { attempts: tries, after } => Some((tries.process_ends, after.as_secs())),
        _ => None,
    })
}

fn several_at_once(witness: &Witness) -> Bench {
    Bench::new([witness.subscriber("several").with_options(options(None, None, Some(3)))])
}

#[tokio::test(start_paused = true)]
async fn what_was_in_flight_waits_and_the_delay_doubles_up_to_a_minute() {
    let bench = Bench::new([]);
    let after = |ends| DeliveryAttempts { process_ends: ends, ..DeliveryAttempts::default() };
    let ends = [0, 1, 2, 5, 6, 60];
    bench.add(ends.iter().zip(1..).map(|(ends, number)| left_over(&number.to_string(), number, after(*ends))));
    let told = tokio::time::timeout(Duration::from_millis(1), bench.settled()).await;
    assert!(told.is_ok(), "it is to be written down");
    let waits: Vec<_> = waits(&bench.take_disposed()).into_iter().map(|(_, wait)| wait).collect();
    assert_eq!(waits, [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (61, 60)]);
}

#[tokio::test(start_paused = true)]
async fn others_run_while_a_suspect_waits_and_nothing_beside_it() {
    let held = Witness::held();
    let mut bench = several_at_once(&held);
    bench.add([left_over("a", 1, DeliveryAttempts::default()), taken("b", 2), taken("c", 3)]);
    settle_down().await;
    assert_eq!((held.begun_sorted(), waits(&bench.take_disposed())), (vec![2, 3], vec![(id(1), (1, 1))]));
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    bench.add([taken("d", 4)]);
    settle_down().await;
    assert_eq!(held.begun_sorted(), [2, 3], "nothing begins: the suspect waits for those that run");
    held.let_go(2);
    settle_down().await;
    let settled = bench.take_disposed();
    assert_eq!(
        (held.begun_sorted(), begins(&settled)),
        (vec![2, 3], vec![(id(1), 1)]),
        "it is written down before it runs"
    );
    bench.in_flight.begin([&id(4), &id(9)]); // no suspects
    bench.in_flight.begin([&id(1)]);
    settle_down().await;
    assert_eq!((held.begun().last(), held.running()), (Some(&1), 1), "alone");
    held.let_go(1);
    settle_down().await;
    assert_eq!(held.begun()[2..], [1, 4], "then the others");
    held.let_go(1);
    bench.in_flight.release([&id(2), &id(3)]);
    bench.drain().await;
    assert_eq!(bench.verdicts(|verdict| *verdict == Disposition::Acknowledge { has_attempts: true }), [id(1)]);
}

#[tokio::test(start_paused = true)]
async fn suspects_run_one_at_a_time_the_likely_ones_last() {
    let held = Witness::held();
    let bench = several_at_once(&held);
    let left = |number: u64, alone| left_over(&number.to_string(), number, waiting(alone));
    bench.add([left(1, 2), left(2, 0), left(3, 4), left(4, 0)]);
    for (number, alone) in [(2, 1), (4, 1), (1, 3), (3, 5)] {
        settle_down().await;
        assert_eq!(begins(&bench.take_disposed()), [(id(number), alone)]);
        bench.in_flight.begin([&id(number)]);
        settle_down().await;
        assert_eq!((held.begun().last(), held.running()), (Some(&number), 1));
        held.let_go(1);
    }
    settle_down().await;
    assert!(begins(&bench.take_disposed()).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_likely_suspect_does_not_run_before_a_less_likely_one_that_is_due_is_read() {
    let waiting =
        |alone| DeliveryAttempts { next_at: Some(SharedClock::SYSTEM.unix_millis() + 60_000), ..waiting(alone) };
    for (likely, expected) in [(1, 2), (0, 1)] {
        let (mut state, bounds) =
            (InFlightState::new(SharedClock::SYSTEM, 100), Bounds { entries: 100, bytes: usize::MAX });
        let mut now = tokio::time::Instant::now();
        for (number, alone) in [(1, likely), (2, 0)] {
            state.add(left_over(&number.to_string(), number, waiting(alone)), now);
        }
        now += Duration::from_secs(120);
        let mut next = Vec::new();
        for (number, alone) in [(1, likely), (2, 0)] {
            assert_eq!(state.take_due(now, bounds).into_iter().map(|due| due.id).collect::<Vec<_>>(), [id(number)]);
            state.resume(left_over(&number.to_string(), number, ended(alone)), now);
            if let NextSuspect::Now(number, _) = state.next_suspect(now, bounds) {
                next.push(number + 1);
            }
        }
        assert_eq!(next.first(), Some(&expected), "{likely} ends alone");
    }
}

#[tokio::test(start_paused = true)]
async fn a_likely_suspect_runs_when_the_one_that_it_waits_for_is_given_back() {
    let context = Bench::new([Witness::willing().subscriber("a")]).context.clone();
    let in_flight = Arc::new(InFlight::new(100, usize::MAX, SharedClock::SYSTEM));
    let working = Arc::clone(&in_flight);
    tokio::spawn(async move { working.work(&context, &StopSignal::from_token(CancellationToken::new())).await });
    for (number, alone) in [(1, 1), (2, 0)] {
        let waits = DeliveryAttempts { next_at: Some(SharedClock::SYSTEM.unix_millis() + 60_000), ..waiting(alone) };
        in_flight.add([left_over(&number.to_string(), number, waits)]);
    }
    tokio::time::sleep(Duration::from_secs(61)).await;
    let due = || in_flight.take_due().into_iter().map(|due| due.id).collect::<Vec<_>>();
    assert_eq!(due(), [id(1)]);
    in_flight.resume([left_over("1", 1, ended(1))]);
    assert_eq!(due(), [id(2)]);
    settle_down().await;
    assert!(begins(&in_flight.take_disposed()).is_empty(), "the other one is being read");
    assert_eq!(in_flight.nack_idle_if(|given| *given == id(2)), [id(2)]);
    settle_down().await;
    assert_eq!(begins(&in_flight.take_disposed()), [(id(1), 2)]);
}

#[tokio::test(start_paused = true)]
async fn what_ends_its_process_five_times_alone_becomes_a_dead_letter() {
    let witness = Witness::willing();
    let mut bench = Bench::new([witness.subscriber("a")]);
    bench.add([left_over("a", 1, ended(5)), taken("a", 2), left_over("b", 3, ended(4))]);
    settle_down().await;
    assert!(witness.begun().is_empty(), "the next of its aggregate waits until it is one");
    bench.drain().await;
    assert_eq!(witness.begun(), [2, 3]);
    let [tries] = &bench.dead_lettered()[..] else { panic!("not one") };
    assert_eq!(tries.errors(), "the process ended 5 times while this event alone was handled");
}

#[tokio::test(start_paused = true)]
async fn what_waited_when_its_process_ended_is_no_more_suspect_than_before() {
    let witness = Witness::willing();
    let mut bench = Bench::new([witness.subscriber("a")]);
    let now = SharedClock::SYSTEM.unix_millis();
    let retry = DeliveryAttempts {
        attempts: 1,
        last_failed_at: Some(now),
        next_at: Some(now + 9_000),
        ..DeliveryAttempts::default()
    };
    bench.add([left_over("a", 1, retry), left_over("b", 2, waiting(0))]);
    bench.drain().await;
    assert_eq!(witness.begun(), [2, 1]);
    assert_eq!((waits(&bench.written), begins(&bench.written)), (vec![], vec![(id(2), 1)]));
}

#[tokio::test(start_paused = true)]
async fn only_the_first_of_an_aggregate_was_in_flight() {
    let witness = Witness::willing();
    let mut bench = Bench::new([witness.subscriber("a")]);
    bench.add((1..=5).map(|number| left_over("a", number, DeliveryAttempts::default())));
    bench.drain().await;
    assert_eq!(witness.begun(), [1, 2, 3, 4, 5]);
    assert_eq!((waits(&bench.written).len(), begins(&bench.written).len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_takeover_from_a_living_consumer_is_no_end_of_a_process() {
    let witness = Witness::willing();
    let mut bench = Bench::new([witness.subscriber("a")]);
    bench.add([taken("a", 1), taken("b", 2).with_attempts(ended(3))]);
    bench.drain().await;
    assert_eq!((waits(&bench.written), begins(&bench.written)), (vec![], vec![(id(2), 3)]), "not the fourth");
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_others_outlast_runs_beside_them_and_that_is_not_counted() {
    let held = Witness::held();
    let bench = several_at_once(&held);
    bench.add([taken("a", 1)]);
    settle_down().await;
    bench.add([left_over("b", 2, waiting(0))]);
    settle_down().await;
    assert_eq!((held.begun(), bench.take_disposed().len()), (vec![1], 0));
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(begins(&bench.take_disposed()), [(id(2), 0)]);
    bench.in_flight.begin([&id(2)]);
    settle_down().await;
    assert_eq!((held.begun(), held.running()), (vec![1, 2], 2));
}

#[tokio::test(start_paused = true)]
async fn what_fails_or_is_skipped_has_not_ended_its_process() {
    let witness = Witness::failing_at_first(&[(1, 1)]);
    let mut bench = Bench::new([witness.subscriber("a")]);
    bench.add([left_over("a", 1, ended(1))]);
    bench.drain().await;
    let failed = |settled: &DisposedEntry| match &settled.disposition {
        Disposition::Retry { attempts, .. } if attempts.attempts > 0 => {
            Some((attempts.process_ends, attempts.ended_alone))
        }
        _ => None,
    };
    assert_eq!(bench.written.iter().filter_map(failed).collect::<Vec<_>>(), [(0, 0)]);

    let other = witness.subscriber("other");
    let shipped = Subscriber::new(other.name().clone(), EventFilter::Only(&[]), |_| Box::pin(async { Ok(()) }));
    let mut bench = Bench::new([shipped]);
    bench.add([left_over("a", 1, ended(1))]);
    bench.drain().await;
    let has_ended = |verdict: &Disposition| matches!(verdict, Disposition::Skip(tries) if tries.process_ends + tries.ended_alone == 0);
    assert_eq!(bench.verdicts(has_ended), [id(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_is_given_back_before_it_ran_has_not_begun() {
    let witness = Witness::willing();
    let bench = Bench::new([witness.subscriber("a")]);
    bench.add([left_over("a", 1, waiting(2))]);
    settle_down().await;
    assert_eq!(bench.in_flight.nack_idle(), [id(1)]);
    assert!(begins(&bench.take_disposed()).is_empty(), "the worker did not know yet");

    bench.add([left_over("a", 1, waiting(2))]);
    settle_down().await;
    assert_eq!(begins(&bench.take_disposed()), [(id(1), 3)]);
    assert_eq!(bench.in_flight.nack_idle(), [id(1)]);
    let settled = bench.take_disposed();
    let Disposition::Retry { attempts, .. } = &settled[0].disposition else { panic!("{settled:?}") };
    assert_eq!(attempts.ended_alone, 2);
    assert!(attempts.is_waiting(&SharedClock::SYSTEM), "nor was it in flight");
    assert!(witness.begun().is_empty());
}

#[tokio::test(start_paused = true)]
async fn letting_go_of_a_suspect_lets_the_next_begin() {
    let witness = Witness::willing();
    let bench = Bench::new([witness.subscriber("a")]);
    bench.add((1..=3).map(|number| left_over(&number.to_string(), number, waiting(0))));
    settle_down().await;
    assert_eq!(begins(&bench.take_disposed()), [(id(1), 1)]);
    bench.in_flight.release([&id(1), &id(2)]);
    settle_down().await;
    assert_eq!(begins(&bench.take_disposed()), [(id(3), 1)]);
}

#[tokio::test(start_paused = true)]
async fn suspects_of_one_group_wait_for_the_deliveries_of_another_of_the_bus() {
    let (held, willing) = (Witness::held(), Witness::willing());
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
        async move { in_flight.work(&context, &stop).await }
    });
    one.in_flight.add([taken("a", 1)]);
    settle_down().await;
    in_flight.add([left_over("b", 2, waiting(0))]);
    settle_down().await;
    assert!(begins(&in_flight.take_disposed()).is_empty());
    held.let_go(1);
    settle_down().await;
    assert_eq!(begins(&in_flight.take_disposed()), [(id(2), 1)]);
    stop.cancel();
    working.await.unwrap();
}
