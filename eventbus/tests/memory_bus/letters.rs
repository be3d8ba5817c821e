//! Dead letters of the in-process bus on a store: they are rows, and the checkpoint passes them.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use eventbus::{
    InMemoryEventBus, Name, NewEvent, Position, RecordedEvent, StreamId, Version,
    delivery::DeliveryAttempts,
    port::{
        DeadLetter, DeadLetterError, DeadLetterFilter, DeadLetters, EventBus, MessageId, UnfinishedDeliveries as _,
        UnfinishedDelivery,
    },
};
use time::OffsetDateTime;

use crate::kit::{Kept, NEVER, Worker, bus, feed, pending, start, until};

/// A bus that resumed, and has made a dead letter of the second of three events.
async fn with_dead_letter(kept: &Arc<Kept>) -> (InMemoryEventBus, Worker, MessageId) {
    let (bus, worker) = (bus(NEVER), Worker::new().failing(&[2]));
    worker.join(&bus, "a");
    bus.resume_from(kept.clone()).await.unwrap();
    feed(&bus, &kept.after(Position::START).await).await;
    start(&bus).await;
    until("one is given up", async || bus.stream_info().await.dlq_messages == 1).await;
    until("the others are handled", async || worker.got().len() == 3 && pending(&bus, "a").await == 0).await;
    until("the checkpoint has passed it", async || kept.get("group:a") == Some(Position::new(3))).await;
    assert_eq!(kept.rows("a").await, (vec![], vec![2]));
    let info = bus.stream_info().await;
    assert_eq!((info.dlq_messages, info.pending_messages), (1, 0));
    worker.failing.lock().unwrap().clear();
    let letters = letters_of(&bus).await;
    let id = letters[0].id.clone();
    (bus, worker, id)
}

/// A dead letter of the group `a`, which a former process has left.
async fn put_dead_letter(kept: &Kept, position: u64) {
    let dead_since = Some(OffsetDateTime::UNIX_EPOCH);
    let dead =
        UnfinishedDelivery { position: Position::new(position), attempts: DeliveryAttempts::default(), dead_since };
    kept.put(&Name::from_static("a"), vec![dead]).await;
}

async fn letters_of(bus: &InMemoryEventBus) -> Vec<DeadLetter> {
    bus.list_dead_letters(&DeadLetterFilter::default(), None, 10).await.unwrap().letters
}

/// Three events of three aggregates.
async fn three() -> Arc<Kept> {
    Kept::with(&["1", "2", "3"]).await
}

/// The deliveries of a new process until its group is settled, with its bus.
async fn restarted(kept: &Arc<Kept>) -> (InMemoryEventBus, Worker) {
    let (bus, worker) = (bus(NEVER), Worker::new());
    worker.join(&bus, "a");
    let from = bus.resume_from(kept.clone()).await.unwrap().unwrap();
    feed(&bus, &kept.after(from).await).await;
    start(&bus).await;
    settled(&bus).await;
    (bus, worker)
}

async fn settled(bus: &InMemoryEventBus) {
    let group = Name::from_static("a");
    until("the group is settled", async || bus.progress(&group).await.unwrap().is_settled()).await;
}

#[tokio::test]
async fn a_restart_delivers_no_dead_letter_and_nothing_that_came_after_it() {
    let kept = three().await;
    let (bus, _, id) = with_dead_letter(&kept).await;
    bus.stop_consuming().await;
    let (bus, worker) = restarted(&kept).await;
    assert_eq!(worker.got(), Vec::<u64>::new());
    let letters = letters_of(&bus).await;
    let [letter] = &letters[..] else { panic!("{letters:#?}") };
    assert_eq!(letter.id, id, "another process calls it the same");
    assert_eq!(letter.record.as_ref().and_then(RecordedEvent::position), Some(Position::new(2)));
    let described = (letter.handler.as_deref(), letter.error.as_deref(), letter.attempts, letter.group.as_deref());
    assert_eq!(described, (Some("worker"), Some("told to fail"), Some(1), Some("a")));
    assert!(bus.find_dead_letter(&id).await.unwrap().is_some());
    assert_eq!(bus.stream_info().await.dlq_messages, 1);
    assert!(bus.replay(&id).await.unwrap());
    settled(&bus).await;
    assert_eq!(worker.got(), [2]);
    assert_eq!(kept.rows("a").await, (vec![], vec![]));
    assert!(!bus.replay(&id).await.unwrap() && !bus.discard(&id).await.unwrap());
}

#[tokio::test]
async fn a_discarded_dead_letter_is_gone_for_ever() {
    let kept = three().await;
    let (bus, worker, id) = with_dead_letter(&kept).await;
    assert!(bus.discard(&id).await.unwrap());
    assert!(!bus.discard(&id).await.unwrap());
    assert_eq!(worker.got(), [1, 2, 3]);
    assert_eq!(kept.rows("a").await, (vec![], vec![]));
    assert_eq!(restarted(&kept).await.1.got(), Vec::<u64>::new());
}

/// After a restart the feed brings all events after the checkpoint, dead letters too: the end of a dead letter that the
/// feed has not brought passes no earlier event.
#[tokio::test]
async fn a_dead_letter_that_is_ended_before_the_feed_brings_it_does_not_overtake_it() {
    for is_again in [true, false] {
        let kept = three().await;
        kept.save_checkpoint_of("a", 1).await;
        put_dead_letter(&kept, 3).await;
        let (bus, worker) = (bus(NEVER), Worker::new());
        worker.join(&bus, "a");
        let from = bus.resume_from(kept.clone()).await.unwrap().unwrap();
        start(&bus).await;
        let letters = letters_of(&bus).await;
        let id = &letters[0].id;
        assert!(if is_again { bus.replay(id).await.unwrap() } else { bus.discard(id).await.unwrap() });
        settled(&bus).await;
        feed(&bus, &kept.after(from).await).await;
        let wanted: &[u64] = if is_again { &[2, 3] } else { &[2] };
        until("the feed is handled", async || kept.get("group:a") == Some(Position::new(3))).await;
        settled(&bus).await;
        assert_eq!(worker.got(), wanted);
        assert_eq!(kept.rows("a").await, (vec![], vec![]));
    }
}

#[tokio::test]
async fn a_dead_letter_that_is_not_saved_yet_is_ended_where_it_is() {
    for is_again in [true, false] {
        let kept = three().await;
        let (bus, worker) = (bus(NEVER), Worker::new().failing(&[2]));
        worker.join(&bus, "a");
        bus.resume_from(kept.clone()).await.unwrap();
        kept.broken.store(true, Ordering::SeqCst);
        feed(&bus, &kept.after(Position::START).await).await;
        start(&bus).await;
        until("saving was refused", async || worker.got().len() == 3 && kept.refused.load(Ordering::SeqCst) > 0).await;
        let letters = letters_of(&bus).await;
        assert_eq!(letters.len(), 1);
        worker.failing.lock().unwrap().clear();
        let id = &letters[0].id;
        assert!(if is_again { bus.replay(id).await.unwrap() } else { bus.discard(id).await.unwrap() });
        kept.broken.store(false, Ordering::SeqCst);
        settled(&bus).await;
        assert_eq!(worker.got().len(), if is_again { 4 } else { 3 });
        assert_eq!((kept.rows("a").await, kept.get("group:a")), ((vec![], vec![]), Some(Position::new(3))));
    }
}

#[tokio::test]
async fn a_replay_whose_answer_is_lost_is_delivered() {
    let kept = three().await;
    let (bus, worker, id) = with_dead_letter(&kept).await;
    kept.mute.store(true, Ordering::SeqCst);
    let unknown = bus.replay(&id).await.unwrap_err();
    assert!(matches!(unknown, DeadLetterError::OutcomeUnknown { .. }), "{unknown:?}");
    kept.mute.store(false, Ordering::SeqCst);
    is_delivered_once_more(&kept, &bus, &worker).await;
}

#[tokio::test]
async fn a_replay_whose_caller_is_gone_is_delivered() {
    let kept = three().await;
    let (bus, worker, id) = with_dead_letter(&kept).await;
    kept.holds_ends.send_replace(true);
    let caller = tokio::spawn({
        let bus = bus.clone();
        async move { bus.replay(&id).await }
    });
    until("the store is asked", async || kept.ends.load(Ordering::SeqCst) == 1).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    kept.holds_ends.send_replace(false);
    is_delivered_once_more(&kept, &bus, &worker).await;
}

async fn is_delivered_once_more(kept: &Kept, bus: &InMemoryEventBus, worker: &Worker) {
    until("it is delivered again", async || worker.got().get(3) == Some(&2)).await;
    settled(bus).await;
    assert_eq!(worker.got().len(), 4);
    assert_eq!(kept.rows("a").await, (vec![], vec![]));
}

#[tokio::test]
async fn a_dead_letter_that_is_discarded_after_a_replay_without_an_answer_is_not_delivered() {
    let kept = three().await;
    let (bus, worker, id) = with_dead_letter(&kept).await;
    kept.broken.store(true, Ordering::SeqCst);
    kept.unreadable.store(true, Ordering::SeqCst);
    bus.replay(&id).await.unwrap_err();
    kept.broken.store(false, Ordering::SeqCst);
    assert!(bus.discard(&id).await.unwrap());
    kept.unreadable.store(false, Ordering::SeqCst);
    let loads = kept.loads.load(Ordering::SeqCst);
    until("the rows are read", async || kept.loads.load(Ordering::SeqCst) > loads).await;
    settled(&bus).await;
    assert_eq!(worker.got().len(), 3);
}

#[tokio::test]
async fn a_discard_whose_answer_is_lost_says_so() {
    let kept = three().await;
    let (bus, _, id) = with_dead_letter(&kept).await;
    kept.mute.store(true, Ordering::SeqCst);
    let unknown = bus.discard(&id).await.unwrap_err();
    assert!(matches!(unknown, DeadLetterError::OutcomeUnknown { .. }), "{unknown:?}");
    assert_eq!(kept.rows("a").await, (vec![], vec![]));
}

/// The load has read the rows before the replay, and takes them over after it.
#[tokio::test]
async fn a_dead_letter_that_is_replayed_while_its_group_loads_is_delivered() {
    let kept = three().await;
    kept.save_checkpoint_of("a", 3).await;
    put_dead_letter(&kept, 2).await;
    let (bus, worker) = (bus(NEVER), Worker::new());
    bus.resume_from(kept.clone()).await.unwrap();
    kept.holds_loads.send_replace(true);
    worker.join(&bus, "a");
    start(&bus).await;
    until("the group loads", async || kept.loads.load(Ordering::SeqCst) > 0).await;
    let letters = letters_of(&bus).await;
    assert!(bus.replay(&letters[0].id).await.unwrap());
    kept.holds_loads.send_replace(false);
    until("it is delivered", async || worker.got() == [2]).await;
    settled(&bus).await;
    assert_eq!(kept.rows("a").await, (vec![], vec![]));
}

#[tokio::test]
async fn a_replayed_dead_letter_that_fails_is_one_again() {
    let kept = three().await;
    let (bus, worker, id) = with_dead_letter(&kept).await;
    worker.failing.lock().unwrap().insert(2);
    assert!(bus.replay(&id).await.unwrap());
    until("it is given up again", async || bus.stats().messages_sent_to_dlq == 2).await;
    settled(&bus).await;
    assert_eq!(kept.rows("a").await, (vec![], vec![2]));
    assert!(!bus.replay(&id).await.unwrap(), "it is another one now");
    worker.failing.lock().unwrap().clear();
    assert_eq!(bus.replay_all(&DeadLetterFilter::default()).await.unwrap(), 1);
    settled(&bus).await;
    assert_eq!(worker.got(), [1, 2, 3, 2, 2]);
    assert_eq!(bus.discard_all(&DeadLetterFilter::default()).await.unwrap(), 0);
}

#[tokio::test]
async fn dead_letters_of_the_store_and_of_no_store_are_listed_together() {
    let kept = Kept::with(&["1", "2", "3", "4", "5"]).await;
    let (bus, worker) = (bus(NEVER), Worker::new().failing(&[0, 1, 2, 3, 4, 5]));
    worker.join(&bus, "a");
    bus.resume_from(kept.clone()).await.unwrap();
    start(&bus).await;
    for stored in kept.after(Position::START).await {
        feed(&bus, &[stored]).await;
        settled(&bus).await;
        bus.publish(&[by_hand()]).await.unwrap();
        settled(&bus).await;
    }
    assert_eq!(bus.stream_info().await.dlq_messages, 10);
    for limit in [1, 3, 10, 20] {
        let (mut after, mut found) = (None, Vec::new());
        loop {
            let page = bus.list_dead_letters(&DeadLetterFilter::default(), after.as_ref(), limit).await.unwrap();
            found.extend(page.letters.iter().map(|letter| letter.record.as_ref().and_then(RecordedEvent::position)));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let wanted: Vec<_> = (1..=5).flat_map(|position| [Some(Position::new(position)), None]).collect();
        assert_eq!(found, wanted, "pages of {limit}");
    }
    worker.failing.lock().unwrap().clear();
    assert_eq!(bus.replay_all(&DeadLetterFilter::default()).await.unwrap(), 10);
    settled(&bus).await;
    assert_eq!(bus.stream_info().await.dlq_messages, 0);
}

#[tokio::test]
async fn a_dead_letter_whose_event_is_lost_keeps_no_other_from_being_replayed() {
    let kept = three().await;
    let (bus, worker, _) = with_dead_letter(&kept).await;
    let lost = UnfinishedDelivery {
        position: Position::new(9),
        attempts: DeliveryAttempts::default(),
        dead_since: Some(OffsetDateTime::UNIX_EPOCH),
    };
    kept.put(&Name::from_static("a"), vec![lost]).await;
    let letters = letters_of(&bus).await;
    assert!(letters.len() == 2 && letters[0].record.is_none());
    let refused = bus.replay(&letters[0].id).await;
    assert!(matches!(refused, Err(DeadLetterError::Empty { .. })), "{refused:?}");
    assert_eq!(bus.replay_all(&DeadLetterFilter::default()).await.unwrap(), 1);
    settled(&bus).await;
    assert_eq!(worker.got(), [1, 2, 3, 2]);
    assert_eq!(bus.discard_all(&DeadLetterFilter::default()).await.unwrap(), 1);
}

/// An event that is in no store.
fn by_hand() -> RecordedEvent {
    let stream = StreamId::parse("Order", "by hand").unwrap();
    NewEvent::new(Name::from_static("OrderCreated"), 1, "{}").recorded_as(stream, Version::FIRST, None)
}

#[tokio::test]
async fn what_is_replayed_while_nobody_consumes_is_pending() {
    let (bus, worker, id) = with_dead_letter(&three().await).await;
    bus.stop_consuming().await;
    assert!(bus.replay(&id).await.unwrap());
    assert!(!bus.replay(&id).await.unwrap());
    assert_eq!(pending(&bus, "a").await, 1);
    start(&bus).await;
    until("it is handled", async || worker.got() == [1, 2, 3, 2]).await;
}

#[tokio::test]
async fn ids_of_others_are_refused_and_a_closed_bus_says_so() {
    let (bus, _, id) = with_dead_letter(&three().await).await;
    let foreign = MessageId::new("1795157844243-0");
    for refused in [bus.replay(&foreign).await, bus.discard(&foreign).await] {
        assert!(matches!(refused, Err(DeadLetterError::InvalidId { .. })), "{refused:?}");
    }
    let after = bus.list_dead_letters(&DeadLetterFilter::default(), Some(&foreign), 1).await;
    assert!(matches!(after, Err(DeadLetterError::InvalidId { .. })), "{after:?}");
    let shown = bus.list_dead_letters(&DeadLetterFilter::default(), None, 0).await.unwrap();
    assert_eq!(shown.letters.len(), 1, "at least one, if there is one");
    bus.shutdown(Duration::from_secs(10)).await.unwrap();
    let closed = bus.discard(&id).await;
    assert!(matches!(closed, Err(DeadLetterError::ShutDown { .. })), "{closed:?}");
}

#[tokio::test]
async fn what_is_replayed_is_read_back_part_by_part() {
    const LETTERS: u64 = 300;
    let names: Vec<_> = (1..=LETTERS).map(|name| name.to_string()).collect();
    let kept = Kept::with(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    kept.save_checkpoint_of("a", LETTERS).await;
    kept.put(&Name::from_static("a"), (1..=LETTERS).map(|position| dead_since(position, position)).collect()).await;
    let (bus, worker) =
        (InMemoryEventBus::builder().retry(NEVER).capacity(20).max_in_flight(10).build(), Worker::held());
    worker.join(&bus, "a");
    bus.resume_from(kept.clone()).await.unwrap();
    start(&bus).await;
    assert_eq!(bus.replay_all(&DeadLetterFilter::default()).await.unwrap(), LETTERS);
    // one more counts as pending until the group's announcement is saved
    until("all are pending", async || pending(&bus, "a").await == LETTERS).await;
    for handled in 1..=LETTERS {
        worker.let_one();
        until("one more is handled", async || worker.got().len() as u64 == handled).await;
        let held = bus.stream_info().await.stream.length;
        assert!(held < 150, "{held} events are held in memory");
    }
    settled(&bus).await;
    let mut got = worker.got();
    got.sort_unstable();
    assert_eq!(got, (1..=LETTERS).collect::<Vec<_>>());
    assert_eq!(kept.rows("a").await, (vec![], vec![]));
}

/// A dead letter made so many seconds after 1970.
fn dead_since(position: u64, seconds: u64) -> UnfinishedDelivery {
    let dead_since = Some(OffsetDateTime::UNIX_EPOCH + Duration::from_secs(seconds));
    UnfinishedDelivery { position: Position::new(position), attempts: DeliveryAttempts::default(), dead_since }
}

#[tokio::test]
async fn dead_letters_of_the_future_are_ended_once_where_the_clock_was_set_back() {
    for is_again in [true, false] {
        let kept = three().await;
        kept.save_checkpoint_of("a", 3).await;
        let next_century = 150 * 365 * 86_400;
        kept.put(&Name::from_static("a"), vec![dead_since(1, 1), dead_since(2, next_century)]).await;
        let (bus, worker) = (bus(NEVER), Worker::new().failing(&[2]));
        worker.join(&bus, "a");
        bus.resume_from(kept.clone()).await.unwrap();
        start(&bus).await;
        let all = DeadLetterFilter::default();
        let ended = if is_again { bus.replay_all(&all).await } else { bus.discard_all(&all).await };
        assert_eq!(ended.unwrap(), 2);
        settled(&bus).await;
        if is_again {
            until("it is a dead letter again", async || kept.rows("a").await == (vec![], vec![2])).await;
            let again = kept.dead_delivery(&Name::from_static("a"), Position::new(2)).await.unwrap().unwrap();
            let first = dead_since(2, next_century).dead_since.unwrap();
            assert!(again.dead_since > first, "it is listed behind those that were there");
        }
    }
}
