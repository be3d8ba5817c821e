//! Dead letters of the in-process bus.

use std::time::Duration;

use eventbus::{
    InMemoryEventBus,
    port::{DeadLetterError, DeadLetterFilter, DeadLetters, EventBus, MessageId},
};

use crate::kit::{NEVER, Worker, bus, events, pending, start, until};

/// Returns a bus that has made a dead letter of the second of three events, its handler, and the id of the dead letter.
async fn with_dead_letter() -> (InMemoryEventBus, Worker, MessageId) {
    let (bus, worker) = (bus(NEVER), Worker::new().failing(&[2]));
    worker.join(&bus, "a");
    bus.publish(&events(1..=3)).await.unwrap();
    start(&bus).await;
    until("all are tried", async || worker.got().len() == 3 && pending(&bus, "a").await == 0).await;
    let info = bus.stream_info().await;
    assert_eq!((info.dlq_messages, info.pending_messages), (1, 0));
    worker.failing.lock().unwrap().clear();
    let page = bus.list_dead_letters(&DeadLetterFilter::default(), None, 10).await.unwrap();
    let id = page.letters[0].id.clone();
    (bus, worker, id)
}

#[tokio::test]
async fn a_dead_letter_that_is_replayed_while_the_bus_does_not_consume_is_pending() {
    let (bus, worker, id) = with_dead_letter().await;
    bus.stop_consuming().await;
    assert!(bus.replay(&id).await.unwrap());
    assert!(!bus.replay(&id).await.unwrap());
    assert_eq!(pending(&bus, "a").await, 1);
    start(&bus).await;
    until("it is handled", async || worker.got() == [1, 2, 3, 2]).await;
}

#[tokio::test]
async fn foreign_ids_are_refused_and_a_closed_bus_reports_its_shutdown() {
    let (bus, _, id) = with_dead_letter().await;
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
