//! Properties of the in-process bus alone: checkpoints, back-pressure, dropping of old entries.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(unreachable_pub, reason = "modules of one test binary")]

mod kit;
mod letters;
#[path = "../lines/mod.rs"]
mod lines;
mod rolling;
mod room;
mod unfinished;

use std::sync::{Arc, atomic::Ordering};

use eventbus::{
    InMemoryEventBus, Name, NewEvent, Position, StreamId, Version,
    clock::SharedClock,
    event::EventFilter,
    port::{Checkpoints, EventBus, Subscriber},
};

use self::kit::{Kept, NEVER, SOON, Worker, bus, event, events, feed, start, until};

#[tokio::test]
async fn a_restart_resumes_after_the_checkpoint() {
    let kept = Kept::with_events(100).await;
    let (bus, worker) = (InMemoryEventBus::new(), Worker::new());
    worker.join(&bus, "a");
    assert_eq!(bus.resume_from(kept.clone()).await.unwrap(), Some(Position::START));
    feed(&bus, &events(1..=100)).await;
    let consumer = start(&bus).await;
    until("all is handled", async || worker.got().len() == 100).await;
    bus.stop_consuming().await;
    consumer.await.unwrap();
    assert_eq!(kept.get("group:a"), Some(Position::new(100)));

    let saved = kept.saved.load(Ordering::SeqCst);
    let consumer = start(&bus).await;
    bus.stop_consuming().await;
    consumer.await.unwrap();
    assert_eq!(kept.saved.load(Ordering::SeqCst), saved, "there is nothing new to save");

    // a new process, whose feed begins slightly too early
    let (bus, worker) = (InMemoryEventBus::new(), Worker::new());
    worker.join(&bus, "a");
    assert_eq!(bus.resume_from(kept.clone()).await.unwrap(), Some(Position::new(100)));
    start(&bus).await;
    feed(&bus, &events(95..=102)).await;
    until("the rest is handled", async || worker.got().len() == 2).await;
    assert_eq!(worker.got(), [101, 102]);
    assert_eq!(bus.stats().events_consumed, 2, "skipped is not consumed");
}

#[tokio::test]
async fn a_new_group_that_gets_stored_events_is_a_warning() {
    let text = "the group begins with the oldest event, so its handlers run for the stored events; if it was renamed, stop \
                the process and give it the former name; `start = \"now\"` on all its handlers skips them group=a";
    for (stored, count) in [(0, 0), (7, 1)] {
        let lines = lines::Lines::default();
        let _here = lines.capture("eventbus=info");
        let kept = Kept::with_events(stored).await;
        let (bus, worker) = (InMemoryEventBus::new(), Worker::new());
        worker.join(&bus, "a");
        bus.resume_from(kept.clone()).await.unwrap();
        let log = lines.text();
        let warnings = log.lines().filter(|line| line.contains("WARN") && line.contains(text));
        assert_eq!(warnings.count(), count, "{log}");
        assert_eq!(log.matches("the group begins with the oldest event").count(), 1, "{log}");
        // not once it has a checkpoint
        kept.save_checkpoint(&Name::from_static("group:a"), Position::START).await.unwrap();
        bus.resume_from(kept).await.unwrap();
        assert_eq!(lines.text().matches("the group begins with the oldest event").count(), 1, "{}", lines.text());
    }
}

#[tokio::test]
async fn the_lowest_checkpoint_decides_from_where_the_feed_is_published() {
    let kept = Kept::with_events(7).await;
    let bus = InMemoryEventBus::new();
    assert_eq!(bus.resume_from(kept.clone()).await.unwrap(), None, "no groups");
    let [a, b] = ["group:a", "group:b"].map(Name::from_static);
    kept.save_checkpoint(&a, Position::new(7)).await.unwrap();
    kept.save_checkpoint(&b, Position::new(4)).await.unwrap();
    let (of_a, of_b) = (Worker::new(), Worker::new());
    of_a.join(&bus, "a");
    of_b.join(&bus, "b");
    assert_eq!(bus.resume_from(kept.clone()).await.unwrap(), Some(Position::new(4)));
    start(&bus).await;
    feed(&bus, &events(5..=8)).await;
    until("both groups have got theirs", async || of_a.got() == [8] && of_b.got() == [5, 6, 7, 8]).await;
}

#[tokio::test]
async fn a_group_is_settled_when_its_checkpoint_is_saved_and_not_before() {
    let kept = Arc::new(Kept::default());
    let (bus, worker) = (InMemoryEventBus::new(), Worker::new());
    worker.join(&bus, "a");
    bus.resume_from(kept.clone()).await.unwrap();
    kept.broken.store(true, Ordering::SeqCst);
    start(&bus).await;
    feed(&bus, &events(1..=3)).await;
    let a = Name::from_static("a");
    let refused = || kept.refused.load(Ordering::SeqCst);
    until("all is handled", async || worker.got().len() == 3 && refused() > 0).await;
    assert!(!bus.progress(&a).await.unwrap().is_settled(), "the next start would deliver the events again");
    let before = refused();
    until("saving is tried again though nothing happens", async || refused() > before).await;
    kept.broken.store(false, Ordering::SeqCst);
    until("it is settled", async || bus.progress(&a).await.unwrap().is_settled()).await;
    assert_eq!(kept.get("group:a"), Some(Position::new(3)));
}

#[tokio::test]
async fn the_checkpoint_passes_an_event_that_waits() {
    let kept = Kept::with(&["1", "2", "3"]).await;
    let bus = bus(SOON);
    let worker = Worker::new().failing(&[2]);
    worker.join(&bus, "a");
    bus.resume_from(kept.clone()).await.unwrap();
    feed(&bus, &kept.after(Position::START).await).await;
    start(&bus).await;
    until("it was tried again", async || worker.tries.load(Ordering::SeqCst) > 2).await;
    until("the checkpoint has passed it", async || kept.get("group:a") == Some(Position::new(3))).await;
    until("it has a row", async || kept.rows("a").await == (vec![2], vec![])).await;
    let a = Name::from_static("a");
    assert!(!bus.progress(&a).await.unwrap().is_settled());
    worker.failing.lock().unwrap().clear();
    until("it is settled", async || bus.progress(&a).await.unwrap().is_settled()).await;
    assert_eq!(kept.rows("a").await, (vec![], vec![]));
    assert_eq!(bus.stats().messages_sent_to_dlq, 0);
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_saved_is_saved_later() {
    let kept = Arc::new(Kept::default());
    kept.broken.store(true, Ordering::SeqCst);
    let (bus, worker) = (InMemoryEventBus::new(), Worker::new());
    worker.join(&bus, "a");
    bus.resume_from(kept.clone()).await.unwrap();
    let consumer = start(&bus).await;
    feed(&bus, &[event(1)]).await;
    until("the event is handled", async || worker.got() == [1]).await;
    until("saving was tried", async || kept.refused.load(Ordering::SeqCst) > 0).await;
    kept.broken.store(false, Ordering::SeqCst);
    bus.stop_consuming().await;
    consumer.await.unwrap();
    assert_eq!(kept.get("group:a"), Some(Position::new(1)));
}

#[tokio::test]
async fn a_group_that_came_too_late_for_some_events_saves_no_checkpoint() {
    let kept = Arc::new(Kept::default());
    let bus = InMemoryEventBus::with_capacity(2);
    let (early, late) = (Worker::new(), Worker::new());
    early.join(&bus, "early");
    bus.resume_from(kept.clone()).await.unwrap();
    let consumer = start(&bus).await;
    for position in 1..=5 {
        feed(&bus, &[event(position)]).await;
    }
    until("the early group is done", async || early.got().len() == 5).await;
    until("the first are gone", async || bus.stream_info().await.stream.length == 2).await;
    late.join(&bus, "late");
    until("the late group is done", async || late.got() == [4, 5]).await;
    bus.stop_consuming().await;
    consumer.await.unwrap();
    assert_eq!(kept.get("group:early"), Some(Position::new(5)));
    assert_eq!(kept.get("group:late"), None, "1 to 3 would be lost to it");
}

#[tokio::test]
async fn an_event_in_hand_of_a_group_without_handlers_is_not_acknowledged() {
    use eventbus::{
        delivery::{ActiveSubscriber, DeliveryAttempts, Limits, Outcome, dispatch, handler_span},
        handler::Delivery,
    };
    let event = NewEvent::new(Name::from_static("Counted"), 1, "{}");
    let stream = StreamId::parse("Counter", "1").unwrap();
    let record = event.recorded_as(stream, Version::FIRST, Some(Position::new(1)));
    let delivery = Delivery::new(record, Name::from_static("default"));
    assert!(matches!(
        dispatch(&[], &delivery, &DeliveryAttempts::default(), &Limits::default(), &SharedClock::SYSTEM, &handler_span)
            .await,
        Outcome::Unattended
    ));
    let other = Subscriber::new(Name::from_static("other"), EventFilter::Only(&[]), |_| Box::pin(async { Ok(()) }));
    assert!(matches!(
        dispatch(
            &[Arc::new(ActiveSubscriber::new(Name::from_static("default"), other))],
            &delivery,
            &DeliveryAttempts::default(),
            &Limits::default(),
            &SharedClock::SYSTEM,
            &handler_span
        )
        .await,
        Outcome::Skipped
    ));
}

#[tokio::test]
async fn an_event_that_nobody_attended_to_goes_to_whoever_subscribes_next() {
    let (bus, worker) = (InMemoryEventBus::new(), Worker::new());
    let subscription = worker.join(&bus, "a");
    start(&bus).await;
    bus.publish(&[event(1)]).await.unwrap();
    until("the first is handled", async || worker.got() == [1]).await;

    // this thread runs, in this order: the consumer, the new subscriber, the task that stops idle consumers
    bus.publish(&[event(2)]).await.unwrap();
    let (next, there) = (worker.clone(), bus.clone());
    let joining = tokio::spawn(async move { next.join(&there, "a") });
    subscription.cancel();
    joining.await.unwrap();
    until("the second is handled", async || worker.got() == [1, 2]).await;
    assert_eq!(worker.tries.load(Ordering::SeqCst), 1, "nobody tried it before");
}

#[tokio::test]
async fn a_group_that_comes_back_saves_no_checkpoint_past_what_it_missed() {
    let kept = Arc::new(Kept::default());
    let bus = InMemoryEventBus::with_capacity(2);
    let (gone, other) = (Worker::new(), Worker::new());
    let subscription = gone.join(&bus, "gone");
    other.join(&bus, "other");
    bus.resume_from(kept.clone()).await.unwrap();
    let consumer = start(&bus).await;
    feed(&bus, &[event(1)]).await;
    until("the first checkpoint is saved", async || kept.get("group:gone") == Some(Position::new(1))).await;
    subscription.cancel();
    for position in 2..=6 {
        feed(&bus, &[event(position)]).await;
    }
    until("only two are held", async || bus.stream_info().await.stream.length == 2).await;
    gone.join(&bus, "gone");
    until("it gets what is held", async || gone.got() == [1, 5, 6]).await;
    bus.stop_consuming().await;
    consumer.await.unwrap();
    assert_eq!(kept.get("group:other"), Some(Position::new(6)));
    let saved = kept.get("group:gone");
    assert_eq!(saved, Some(Position::new(1)), "2 to 4 would be lost to it");
}

#[tokio::test]
async fn a_bus_that_resumes_on_another_feed_forgets_the_former_one() {
    let (former, kept) = (Arc::new(Kept::default()), Kept::with_events(1).await);
    let bus = InMemoryEventBus::builder().capacity(4).retry(NEVER).build();
    let failing = Worker::new().failing(&[2]);
    let [late, back, again] = [Worker::new(), Worker::new(), Worker::new()];
    failing.join(&bus, "failing");
    let subscriptions = [back.join(&bus, "back"), again.join(&bus, "again")];
    bus.resume_from(former.clone()).await.unwrap();
    let consumer = start(&bus).await;
    for position in 1..=8 {
        feed(&bus, &[event(position)]).await;
        until("it was tried", async || {
            [&failing, &back, &again].map(|worker| worker.got().len() as u64) == [position; 3]
        })
        .await;
    }
    late.join(&bus, "late"); // some are dropped already: without a checkpoint
    until("the late group got what is held", async || late.got().last() == Some(&8)).await;
    bus.stop_consuming().await;
    consumer.await.unwrap();
    feed(&bus, &[event(9)]).await;
    for subscription in subscriptions {
        subscription.cancel();
    }

    // now the same numbers are positions in a second feed, whose first event all groups but one have handled
    for group in ["group:failing", "group:late", "group:again"].map(Name::from_static) {
        kept.save_checkpoint(&group, Position::new(1)).await.unwrap();
    }
    bus.resume_from(kept.clone()).await.unwrap();
    failing.failing.lock().unwrap().clear();
    let workers = [&failing, &back, &late, &again];
    for worker in workers {
        worker.got.lock().unwrap().clear();
    }
    start(&bus).await;
    let settled = async |group: &'static str| {
        let progress = bus.progress(&Name::from_static(group)).await.unwrap();
        progress.unread == 0 && progress.pending == 0
    };
    until("the rest of the former feed is handled", async || settled("failing").await && settled("late").await).await;
    back.join(&bus, "back");
    again.join(&bus, "again");
    for position in 2..=4 {
        feed(&bus, &[event(position)]).await;
    }
    for worker in workers {
        until("the other feed is handled", async || worker.got().ends_with(&[2, 3, 4])).await;
    }
    assert_eq!(failing.got(), [9, 2, 3, 4]);
    assert_eq!(bus.stream_info().await.dlq_messages, 0, "the dead letter of the former feed is none of this one");
    assert_eq!(former.rows("failing").await, (vec![], vec![2]));
    for group in ["group:failing", "group:late", "group:again"] {
        until(group, async || kept.get(group) == Some(Position::new(4))).await;
    }
    assert_eq!(kept.get("group:back"), None, "1 would be lost to it");
}

/// Fails if the group takes the checkpoint of the save for one of the second feed: it would skip the events up to there.
#[tokio::test]
async fn a_save_that_ends_after_the_bus_resumed_on_another_feed_counts_for_the_former_one() {
    let (former, kept) = (Kept::with_events(100).await, Kept::with_events(3).await);
    let (bus, worker) = (InMemoryEventBus::new(), Worker::new());
    worker.join(&bus, "a");
    bus.resume_from(former.clone()).await.unwrap();
    let consumer = start(&bus).await;
    former.holds_saves.send_replace(true);
    feed(&bus, &events(1..=100)).await;
    until("a save is in progress", async || former.saved.load(Ordering::SeqCst) > 0).await;
    bus.resume_from(kept.clone()).await.unwrap();
    former.holds_saves.send_replace(false);
    feed(&bus, &kept.after(Position::START).await).await;
    until("the second feed is handled", async || worker.got().ends_with(&[1, 2, 3])).await;
    until("its progress is saved", async || kept.get("group:a") == Some(Position::new(3))).await;
    bus.stop_consuming().await;
    consumer.await.unwrap();
}

#[tokio::test]
async fn of_a_second_writer_it_is_told_once_on_each_store() {
    let lines = lines::Lines::default();
    let _here = lines.capture("eventbus=warn");
    let (bus, worker) = (InMemoryEventBus::new(), Worker::new());
    worker.join(&bus, "a");
    for stores in 1..=2 {
        let kept = Arc::new(Kept::default());
        bus.resume_from(kept.clone()).await.unwrap();
        let consumer = start(&bus).await;
        for position in 1..=2 {
            kept.save_checkpoint_of("a", 7).await;
            feed(&bus, &[event(position)]).await;
            until("it is saved", async || kept.get("group:a") == Some(Position::new(position))).await;
        }
        bus.stop_consuming().await;
        consumer.await.unwrap();
        let log = lines.text();
        assert_eq!(log.matches("a second app consumes this store's events").count(), stores, "{log}");
    }
}
