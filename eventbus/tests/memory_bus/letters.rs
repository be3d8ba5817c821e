//! Dead letters of the in-process bus, and the checkpoint that waits for them.

use std::{sync::Arc, time::Duration};

use eventbus::{
    InMemoryEventBus, Position,
    port::{DeadLetterError, DeadLetterFilter, DeadLetters, EventBus, MessageId},
};

use crate::kit::{Kept, NEVER, Worker, bus, event, events, feed, pending, start, until};

/// A bus that resumed, and has given up the second of three events.
async fn with_dead_letter(kept: &Arc<Kept>) -> (InMemoryEventBus, Worker, MessageId) {
    let (bus, worker) = (bus(NEVER), Worker::new().failing(&[2]));
    worker.join(&bus, "a");
    bus.resume_from(kept.clone()).await.unwrap();
    feed(&bus, &events(1..=3)).await;
    start(&bus).await;
    until("one is given up", async || bus.stream_info().await.dlq_messages == 1).await;
    until("the others are handled", async || worker.got().len() == 3 && pending(&bus, "a").await == 0).await;
    until("the checkpoint is before it", async || kept.get("group:a") == Some(Position::new(1))).await;
    worker.failing.lock().unwrap().clear();
    let letters = bus.dead_letters(&DeadLetterFilter::default(), None, 10).await.unwrap().letters;
    let id = letters[0].id.clone();
    (bus, worker, id)
}

#[tokio::test]
async fn a_discarded_dead_letter_lets_the_checkpoint_go() {
    let kept = Arc::new(Kept::default());
    let (bus, worker, id) = with_dead_letter(&kept).await;
    assert!(bus.discard(&id).await.unwrap());
    until("the checkpoint has moved on", async || kept.get("group:a") == Some(Position::new(3))).await;
    assert_eq!(worker.got(), [1, 2, 3]);
}

#[tokio::test]
async fn a_replayed_dead_letter_lets_the_checkpoint_go_when_it_succeeds() {
    let kept = Arc::new(Kept::default());
    let (bus, worker, id) = with_dead_letter(&kept).await;
    worker.failing.lock().unwrap().insert(2);
    assert!(bus.replay(&id).await.unwrap());
    until("it is given up again", async || bus.stats().messages_sent_to_dlq == 2).await;
    feed(&bus, &[event(4)]).await;
    until("the next is handled", async || worker.got() == [1, 2, 3, 2, 4]).await;
    assert_eq!(kept.get("group:a"), Some(Position::new(1)));
    worker.failing.lock().unwrap().clear();
    assert_eq!(bus.replay_all(&DeadLetterFilter::default()).await.unwrap(), 1);
    until("the checkpoint has moved on", async || kept.get("group:a") == Some(Position::new(4))).await;
    assert_eq!(worker.got(), [1, 2, 3, 2, 4, 2]);
}

#[tokio::test]
async fn what_is_replayed_while_nobody_consumes_is_pending() {
    let (bus, worker, id) = with_dead_letter(&Arc::default()).await;
    bus.stop_consuming().await;
    assert!(bus.replay(&id).await.unwrap());
    assert!(!bus.replay(&id).await.unwrap());
    assert_eq!(pending(&bus, "a").await, 1);
    start(&bus).await;
    until("it is handled", async || worker.got() == [1, 2, 3, 2]).await;
}

#[tokio::test]
async fn ids_of_others_are_refused_and_a_closed_bus_says_so() {
    let (bus, _, id) = with_dead_letter(&Arc::default()).await;
    let foreign = MessageId::new("1795157844243-0");
    for refused in [bus.replay(&foreign).await, bus.discard(&foreign).await] {
        assert!(matches!(refused, Err(DeadLetterError::InvalidId { .. })), "{refused:?}");
    }
    let after = bus.dead_letters(&DeadLetterFilter::default(), Some(&foreign), 1).await;
    assert!(matches!(after, Err(DeadLetterError::InvalidId { .. })), "{after:?}");
    let shown = bus.dead_letters(&DeadLetterFilter::default(), None, 0).await.unwrap();
    assert_eq!(shown.letters.len(), 1, "at least one, if there is one");
    bus.shutdown(Duration::from_secs(10)).await.unwrap();
    let closed = bus.discard(&id).await;
    assert!(matches!(closed, Err(DeadLetterError::ShutDown { .. })), "{closed:?}");
}
