//! Room, what is written down when, and letting go.

use super::*;
use crate::domain::clock::SharedClock;

#[tokio::test(start_paused = true)]
async fn there_is_room_while_few_wait_for_a_worker_and_not_too_many_are_in_hand() {
    let held = Witness::held();
    let mut bench = Bench::with(Limits::default(), Hand::new(4, 2, SharedClock::SYSTEM), [held.subscriber("held")]);
    let room = async |bench: &Bench| tokio::time::timeout(Duration::from_secs(1), bench.hand.room()).await.ok();
    assert_eq!(room(&bench).await, Some(4));
    bench.hand.add([taken("a", 1), taken("a", 2)]);
    settle_down().await;
    assert_eq!(room(&bench).await, Some(2), "one is being handled, one is parked");
    bench.hand.add([taken("b", 3)]);
    assert_eq!(room(&bench).await, Some(1), "one waits for a worker");
    bench.hand.add([taken("c", 4)]);
    assert_eq!((bench.hand.free(), room(&bench).await), (0, None));
    bench.hand.let_go([&id(2)]);
    assert_eq!((bench.hand.free(), room(&bench).await), (1, None), "two wait for a worker");

    let hand = Arc::clone(&bench.hand);
    let waiting = tokio::spawn(async move { hand.room().await });
    settle_down().await;
    assert!(!waiting.is_finished());
    bench.hand.add([taken("a", 5)]);
    held.let_go(1);
    settle_down().await;
    assert!(!waiting.is_finished(), "few wait for a worker, and it is full");
    bench.hand.let_go([&id(5)]);
    settle_down().await;
    assert_eq!(waiting.await.unwrap(), 1, "a worker has taken one of them; the first is not written down");
    bench.write();
    assert_eq!(room(&bench).await, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_takes_an_entry_makes_room() {
    let held = Witness::held();
    let bench = Bench::with(Limits::default(), Hand::new(9, 1, SharedClock::SYSTEM), [held.subscriber("held")]);
    bench.hand.add([taken("a", 1), taken("b", 2)]);
    let hand = Arc::clone(&bench.hand);
    let waiting = tokio::spawn(async move { hand.room().await });
    settle_down().await;
    assert!(!waiting.is_finished(), "one waits for the worker");
    held.let_go(1);
    settle_down().await;
    assert!(waiting.is_finished(), "the worker has it");
}

#[tokio::test(start_paused = true)]
async fn letting_go_and_giving_back_make_room() {
    for gives_back in [false, true] {
        let hand = Arc::new(Hand::new(0, 0, SharedClock::SYSTEM));
        hand.add([taken("a", 1)]);
        let waiting = tokio::spawn({
            let hand = Arc::clone(&hand);
            async move { hand.room().await }
        });
        settle_down().await;
        assert!(!waiting.is_finished());
        match gives_back {
            true => assert_eq!(hand.give_back(), [id(1)]),
            false => hand.let_go([&id(1)]),
        }
        assert_eq!(tokio::time::timeout(Duration::from_secs(1), waiting).await.unwrap().unwrap(), 1, "at least one");
    }
}

#[tokio::test(start_paused = true)]
async fn letting_go_of_a_delivery_cancels_its_handler_and_ignores_what_comes_of_it() {
    let held = Witness::held();
    let mut bench = Bench::new([held.subscriber("held")]);
    bench.hand.add([taken("a", 1), taken("a", 2)]);
    settle_down().await;
    bench.hand.let_go([&id(1)]);
    settle_down().await;
    assert_eq!((held.begun(), held.running()), (vec![1, 2], 1), "the next of its aggregate runs");
    assert!(!bench.hand.contains(&id(1)));

    // it comes back while another one runs: it is another delivery
    bench.hand.add([taken("a", 1)]);
    settle_down().await;
    assert_eq!(held.running(), 1);
    held.let_go(2);
    bench.drain().await;
    assert_eq!(held.begun(), [1, 2, 1]);
    assert_eq!(bench.verdicts(|verdict| matches!(verdict, Verdict::Acknowledge { .. })), [id(2), id(1)]);
    assert_eq!(bench.desk.counters.snapshot().events_processed_success, 2);
}

#[tokio::test(start_paused = true)]
async fn letting_go_of_a_delivery_disturbs_no_later_one_of_the_same_worker() {
    let held = Witness::held();
    let mut bench = Bench::new([held.subscriber("held")]);
    bench.hand.add([taken("a", 1), taken("b", 2)]);
    settle_down().await;
    // the worker is told, and before it hears of it the delivery has ended
    held.let_go(1);
    bench.hand.let_go([&id(1)]);
    settle_down().await;
    assert_eq!((held.begun(), held.running()), (vec![1, 2], 1), "the second goes on");
    held.let_go(1);
    bench.drain().await;
    assert_eq!(bench.verdicts(|verdict| matches!(verdict, Verdict::Acknowledge { .. })), [id(2)]);
}

#[tokio::test(start_paused = true)]
async fn what_came_of_entries_is_told_when_there_is_nothing_else_to_do_or_much_to_write() {
    let held = Witness::held();
    let bench = Bench::with(Limits::default(), Hand::new(1_000, 1_000, SharedClock::SYSTEM), [held.subscriber("held")]);
    let told = async || tokio::time::timeout(Duration::from_millis(1), bench.hand.settled()).await.is_ok();
    bench.hand.add((1..=150).map(|number| taken(&number.to_string(), number)));
    held.let_go(99);
    settle_down().await;
    assert!(!told().await, "there is more to do");
    held.let_go(1);
    settle_down().await;
    assert!(told().await, "it is much");
    assert_eq!(bench.hand.take_settled().len(), 100);
    held.let_go(49);
    settle_down().await;
    assert!(!told().await, "the last is being handled");
    assert!(tokio::time::timeout(Duration::from_secs(2), bench.hand.settled()).await.is_ok(), "it takes long");
    held.let_go(1);
    settle_down().await;
    assert!(told().await, "it was the last");
    assert_eq!(bench.hand.take_settled().len(), 50);
    assert!(tokio::time::timeout(Duration::from_secs(60), bench.hand.settled()).await.is_err(), "nothing came");
}
