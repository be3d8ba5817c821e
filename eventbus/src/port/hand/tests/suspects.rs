//! Entries that a consumer left over which died.

use super::*;
use crate::domain::clock::SharedClock;

fn crashed(crashes: u32) -> Tries {
    Tries { crashes, ..Tries::default() }
}

fn begins(settled: &[Settled]) -> Vec<(MessageId, u32)> {
    let begins = |settled: &Settled| match &settled.verdict {
        Verdict::Begin(tries) => Some((settled.id.clone(), tries.crashes)),
        _ => None,
    };
    settled.iter().filter_map(begins).collect()
}

#[tokio::test(start_paused = true)]
async fn a_suspect_runs_only_when_it_is_written_down_that_it_is_begun() {
    let witness = Witness::willing();
    let mut bench = Bench::new([witness.subscriber("a").with_options(options(None, None, Some(2)))]);
    bench.hand.add([left_over("a", 1, Tries::default()), taken("a", 2), taken("b", 3)]);
    settle_down().await;
    assert_eq!(witness.begun(), [3], "what is no suspect runs");
    assert!(tokio::time::timeout(Duration::from_millis(1), bench.hand.settled()).await.is_ok(), "it is told");
    let settled = bench.hand.take_settled();
    assert_eq!(begins(&settled), [(id(1), 1)]);
    bench.hand.begin([&id(2), &id(4)]); // no suspects
    settle_down().await;
    assert_eq!(witness.begun(), [3]);
    bench.hand.begin([&id(1)]);
    settle_down().await;
    assert_eq!(witness.begun(), [3, 1, 2]);
    bench.hand.begin([&id(1)]); // once more is once too often
    bench.hand.let_go([&id(3)]);
    bench.drain().await;
    assert_eq!(witness.begun(), [3, 1, 2]);
    let acknowledged = bench.verdicts(|verdict| *verdict == Verdict::Acknowledge { has_tries: true });
    assert_eq!(acknowledged, [id(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_single_worker_keeps_the_order_also_while_a_suspect_is_about_to_begin() {
    let witness = Witness::willing();
    let bench = Bench::new([witness.subscriber("a")]);
    bench.hand.add([taken("a", 1), left_over("b", 2, Tries::default()), taken("c", 3)]);
    settle_down().await;
    assert_eq!(witness.begun(), [1], "the one before does not wait");
    bench.hand.begin([&id(2)]);
    settle_down().await;
    assert_eq!(witness.begun(), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn as_many_suspects_are_begun_as_there_are_workers() {
    let held = Witness::held();
    let bench = Bench::new([held.subscriber("held").with_options(options(None, None, Some(2)))]);
    bench.hand.add((1..=4).map(|number| left_over(&number.to_string(), number, Tries::default())));
    settle_down().await;
    assert_eq!(begins(&bench.hand.take_settled()), [(id(1), 1), (id(2), 1)]);
    bench.hand.begin([&id(1), &id(2)]);
    settle_down().await;
    assert!(bench.hand.take_settled().is_empty());
    held.let_go(1);
    settle_down().await;
    assert_eq!(begins(&bench.hand.take_settled()), [(id(3), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_was_begun_in_vain_runs_alone() {
    let held = Witness::held();
    let bench = Bench::new([held.subscriber("held").with_options(options(None, None, Some(3)))]);
    let fresh = |number: u64| left_over(&number.to_string(), number, Tries::default());
    bench.hand.add([fresh(1), left_over("2", 2, crashed(1)), fresh(3)]);
    settle_down().await;
    assert_eq!(begins(&bench.hand.take_settled()), [(id(1), 1)], "nothing beside the first, whose turn it is");
    bench.hand.begin([&id(1)]);
    held.let_go(1);
    settle_down().await;
    let settled = bench.hand.take_settled();
    assert_eq!(begins(&settled), [(id(2), 2)], "nothing beside the second");
    bench.hand.begin([&id(2)]);
    settle_down().await;
    assert!(bench.hand.take_settled().is_empty(), "also while it runs");
    held.let_go(1);
    settle_down().await;
    assert_eq!(begins(&bench.hand.take_settled()), [(id(3), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_suspect_is_given_up_after_its_budget() {
    let witness = Witness::willing();
    let mut bench = Bench::new([witness.subscriber("a")]);
    bench.hand.add([left_over("a", 1, crashed(3)), taken("a", 2), left_over("b", 3, crashed(2))]);
    settle_down().await;
    assert!(witness.begun().is_empty(), "the next waits until it is buried");
    bench.drain().await;
    assert_eq!(witness.begun().len(), 2);
    let [tries] = &bench.buried()[..] else { panic!("not one") };
    assert_eq!(tries.errors(), "the process ended 4 times while the event was handled");
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_was_tried_before_waits_for_its_delay_first() {
    let witness = Witness::willing();
    let mut bench = Bench::new([witness.subscriber("a")]);
    let now = SharedClock::SYSTEM.unix_millis();
    let tries = Tries { attempts: 1, last_failed_at: Some(now), next_at: Some(now + 9_000), ..Tries::default() };
    bench.hand.add([left_over("a", 1, tries)]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(bench.hand.take_settled().is_empty());
    bench.drain().await;
    assert_eq!(witness.begun(), [1]);
    let Verdict::Begin(tries) = &bench.written[0].verdict else { panic!("{:?}", bench.written) };
    assert_eq!((tries.attempts, tries.crashes, tries.next_at), (1, 1, None));
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_fails_is_no_suspect_any_more() {
    let witness = Witness::failing_at_first(&[(1, 1)]);
    let mut bench = Bench::new([witness.subscriber("a")]);
    bench.hand.add([left_over("a", 1, crashed(1))]);
    bench.drain().await;
    let verdicts: Vec<_> = bench.written.iter().map(|settled| &settled.verdict).collect();
    let [Verdict::Begin(begun), Verdict::Retry { tries: failed, .. }, Verdict::Acknowledge { has_tries: true }] =
        &verdicts[..]
    else {
        panic!("{verdicts:?}")
    };
    assert_eq!((begun.crashes, failed.crashes), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn letting_go_of_a_suspect_lets_the_next_begin() {
    let witness = Witness::willing();
    let bench = Bench::new([witness.subscriber("a")]);
    bench.hand.add((1..=3).map(|number| left_over(&number.to_string(), number, Tries::default())));
    settle_down().await;
    assert_eq!(begins(&bench.hand.take_settled()), [(id(1), 1)]);
    bench.hand.let_go([&id(1), &id(2)]);
    settle_down().await;
    assert_eq!(begins(&bench.hand.take_settled()), [(id(3), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_is_given_back_before_anybody_knew_is_not_begun() {
    let bench = Bench::new([Witness::willing().subscriber("a")]);
    bench.hand.add([left_over("a", 1, Tries::default())]);
    settle_down().await;
    assert_eq!(bench.hand.give_back(), [id(1)]);
    assert!(bench.hand.take_settled().is_empty(), "it would count as a crash");
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_is_given_back_before_it_ran_is_not_begun_after_all() {
    let held = Witness::held();
    let (hand, limits) =
        (Hand::new(100, usize::MAX, SharedClock::SYSTEM), Limits { concurrency: 2, ..Limits::default() });
    let bench = Bench::with(limits, hand, [held.subscriber("a")]);
    bench.hand.add([taken("a", 1), taken("b", 2), left_over("c", 3, crashed(1))]);
    settle_down().await;
    assert_eq!(begins(&bench.hand.take_settled()), [(id(3), 2)], "both workers are busy");
    bench.hand.begin([&id(3)]);
    assert_eq!(bench.hand.give_back(), [id(3)]);
    let written = bench.hand.take_settled();
    assert_eq!(written.iter().map(|settled| &settled.id).collect::<Vec<_>>(), [&id(3)]);
    assert_eq!(written[0].verdict, Verdict::Retry { tries: crashed(1), after: Duration::ZERO });
}

#[tokio::test(start_paused = true)]
async fn what_no_handler_wants_is_no_suspect_for_the_next_consumer() {
    let unwilling = Subscriber::new(Name::from_static("none"), EventFilter::Only(&[]), |_| Box::pin(async { Ok(()) }));
    let mut bench = Bench::new([unwilling]);
    bench.hand.add([left_over("a", 1, crashed(1))]);
    bench.drain().await;
    assert!(bench.written.iter().any(|settled| settled.verdict == Verdict::Skip(Tries::default())));
}

/// Workers that ask again and again would keep a paused clock from moving for ever.
#[test]
fn workers_are_idle_while_suspects_wait_for_each_other() {
    let (ended, waiting) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let bench = Bench::new([Witness::willing().subscriber("a").with_options(options(None, None, Some(2)))]);
            bench.hand.add((1..=3).map(|number| left_over(&number.to_string(), number, crashed(1))));
            tokio::time::sleep(Duration::from_secs(1)).await;
            ended.send(begins(&bench.hand.take_settled()).len()).unwrap();
        });
    });
    assert_eq!(waiting.recv_timeout(Duration::from_secs(20)), Ok(1));
}
