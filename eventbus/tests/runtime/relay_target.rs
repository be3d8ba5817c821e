//! The relay's reaction to each answer of a bus that keeps positions.

use std::time::Duration;

use eventbus::{
    InMemoryEventStore,
    health::HealthThresholds,
    port::Checkpoints,
    testkit::{Fault, LossyBus},
};

use crate::{relay_kit::*, wait::until};

#[tokio::test(start_paused = true)]
async fn everything_is_published_once_in_order_and_the_ids_are_known() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 600).await;
    let app = app(&store, &bus).await;
    let last = append(&store, 3).await;
    let published = app.published(last).await.unwrap();
    assert_eq!((published.position, published.message_id.unwrap().as_str()), (last, "603"));
    assert_eq!(bus.history(), all(603));
    let status = app.relay_status().await.unwrap();
    assert_eq!((status.position, status.head, status.is_owner), (last, Some(last), true));
    assert_eq!((status.lag_events(), status.trouble, status.stopped), (Some(0), None, None));
}

#[tokio::test(start_paused = true)]
async fn a_range_whose_reply_was_lost_or_that_did_not_arrive_is_published_once() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    let app = app(&store, &bus).await;
    for fault in [Fault::LostReply, Fault::Unavailable, Fault::LostReply, Fault::LostReply] {
        bus.ranges.fail_next(fault, 1);
        let last = append(&store, 300).await;
        app.published(last).await.unwrap();
    }
    until("all faults happened", async || bus.ranges.remaining() == 0).await;
    let last = append(&store, 1).await;
    app.published(last).await.unwrap();
    assert_eq!(bus.history(), all(1_201));
}

/// A range is full at 256 events.
#[tokio::test(start_paused = true)]
async fn an_event_stored_while_a_full_range_is_published_is_published_next() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    let app = app(&store, &bus).await;
    let first = append(&store, 1).await;
    app.published(first).await.unwrap();
    bus.pause(true);
    append(&store, 256).await;
    until("the range waits", async || bus.is_range_paused()).await;
    let last = append(&store, 1).await;
    // the app polls the head
    tokio::time::sleep(Duration::from_millis(300)).await;
    bus.pause(false);
    let began = tokio::time::Instant::now();
    app.published(last).await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(500), "took {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_relay_goes_on_from_where_the_bus_is() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 10).await;
    begin(&store, &bus).await;
    publish(&store, &bus, 4).await;
    let _app = app(&store, &bus).await;
    until_at(&store, &bus, 10).await;
    let copy = bus.snapshot();
    append(&store, 5).await;
    until_at(&store, &bus, 15).await;
    bus.restore(&copy);
    until_at(&store, &bus, 15).await;
    assert_eq!(bus.positions(), all(15));
    assert_eq!(bus.history(), (1..=15).chain(11..=15).collect::<Vec<_>>(), "what was rolled back, again");
}

#[tokio::test(start_paused = true)]
async fn after_a_loss_at_rest_the_relay_goes_on_behind_its_checkpoint_and_an_operator_may_fill_the_bus() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 10).await;
    let app = app(&store, &bus).await;
    until("it is noted", async || store.load_checkpoint(&ROLE).await.unwrap() == Some(10.into())).await;
    let lost_through = async || app.relay_status().await.unwrap().lost_through;
    let alerts = async || app.health().await.alerts(&HealthThresholds::default()).join("; ");
    assert_eq!(lost_through().await, None);
    bus.flush();
    until("it is noticed", async || lost_through().await == Some(10.into())).await;
    until_at(&store, &bus, 10).await;
    assert!(alerts().await.contains("10"), "{}", alerts().await);
    let last = append(&store, 2).await;
    app.published(last).await.unwrap();
    assert_eq!(bus.positions(), [11, 12]);
    assert_eq!(lost_through().await, Some(10.into()), "until an operator decides");

    app.republish(eventbus::Position::new(4)).await.unwrap();
    until("it is filled", async || bus.positions().len() == 2 + 8).await;
    assert_eq!(bus.positions()[2..], [5, 6, 7, 8, 9, 10, 11, 12]);
    until("the alert ends", async || lost_through().await.is_none()).await;
    assert_eq!(alerts().await, "");
}

/// The checkpoint is saved at most a second later.
#[tokio::test(start_paused = true)]
async fn a_loss_just_after_events_were_published_publishes_them_again() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 10).await;
    store.save_checkpoint(&ROLE, 6.into()).await.unwrap();
    let _app = app(&store, &bus).await;
    until_at(&store, &bus, 10).await;
    assert_eq!(bus.history(), [7, 8, 9, 10]);
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_bus_is_told_while_it_lasts() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    let app = app(&store, &bus).await;
    until("it relays", async || app.relay_status().await.unwrap().is_owner).await;
    bus.ranges.fail_next(Fault::Unavailable, 12);
    let trouble = async || app.relay_status().await.unwrap().trouble;
    until("it is noticed at rest", async || trouble().await.is_some()).await;
    let health = app.health().await.alerts(&HealthThresholds::default()).join("; ");
    assert!(health.contains("the relay does not publish: event bus `memory` unavailable"), "{health}");
    while bus.ranges.remaining() > 0 {
        assert!(trouble().await.is_some());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until("it is over", async || trouble().await.is_none()).await;
}
