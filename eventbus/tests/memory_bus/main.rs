//! Properties of the in-process bus alone: late groups, back-pressure, dropping of old entries.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(unreachable_pub, reason = "modules of one test binary")]

mod dead_letters;
mod kit;
mod room;

use std::sync::{Arc, atomic::Ordering};

use eventbus::{
    InMemoryEventBus, Name, NewEvent, Position, StreamId, Version,
    clock::SharedClock,
    event::EventFilter,
    port::{EventBus, Subscriber},
};

use self::kit::{Worker, event, start, until};

#[tokio::test]
async fn a_group_that_comes_late_gets_the_events_that_are_held() {
    let bus = InMemoryEventBus::with_capacity(2);
    let (early, late) = (Worker::new(), Worker::new());
    early.join(&bus, "early");
    start(&bus).await;
    for position in 1..=5 {
        bus.publish(&[event(position)]).await.unwrap();
    }
    until("the early group is done", async || early.got().len() == 5).await;
    until("the first are gone", async || bus.stream_info().await.stream.length == 2).await;
    late.join(&bus, "late");
    until("the late group is done", async || late.got() == [4, 5]).await;
}

#[tokio::test]
async fn a_group_that_comes_back_goes_on_with_the_events_that_are_held() {
    let bus = InMemoryEventBus::with_capacity(2);
    let (gone, other) = (Worker::new(), Worker::new());
    let subscription = gone.join(&bus, "gone");
    other.join(&bus, "other");
    start(&bus).await;
    bus.publish(&[event(1)]).await.unwrap();
    until("the first is handled", async || gone.got() == [1]).await;
    subscription.cancel();
    for position in 2..=6 {
        bus.publish(&[event(position)]).await.unwrap();
    }
    until("only two are held", async || bus.stream_info().await.stream.length == 2).await;
    gone.join(&bus, "gone");
    until("it gets what is held", async || gone.got() == [1, 5, 6]).await;
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
