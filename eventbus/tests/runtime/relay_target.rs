//! The relay's reaction to each answer of a bus that keeps positions.

use std::time::Duration;

use eventbus::{
    InMemoryEventStore, Name,
    health::HealthThresholds,
    port::{Checkpoints, EventBus, Floors},
    relay::GroupFloor,
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
    adopt(&store, &bus, 0).await;
    publish(&store, &bus, 0, 0, 4).await;
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
async fn a_loss_at_rest_is_noticed_and_filled_from_the_lowest_floor() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 10).await;
    let _app = app(&store, &bus).await;
    until_at(&store, &bus, 10).await;
    assert_eq!(bus.take(&AUDIT, 7).len(), 7);
    assert_eq!(bus.take(&MAILS, 4).len(), 4);
    until("the floors are saved", async || {
        (floor(&store, &AUDIT).await, floor(&store, &MAILS).await) == (Some(7), Some(4))
    })
    .await;
    bus.flush();
    until_at(&store, &bus, 10).await;
    assert_eq!(bus.positions(), [5, 6, 7, 8, 9, 10]);
    assert_eq!(bus.take(&AUDIT, 100).len(), 6, "the group is there, and gets all that it had not finished");
    assert_eq!(bus.take(&MAILS, 100).len(), 6);
}

#[tokio::test(start_paused = true)]
async fn floors_follow_the_bus_down_too_and_stay_where_it_cannot_tell() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 10).await;
    let _app = app(&store, &bus).await;
    until_at(&store, &bus, 10).await;
    bus.take(&AUDIT, 3);
    let copy = bus.snapshot();
    let is = async |wanted: u64| {
        until("the floor is saved", async || floor(&store, &AUDIT).await == Some(wanted)).await;
    };
    is(3).await;
    bus.take(&AUDIT, 100);
    is(10).await;
    bus.restore(&copy);
    is(3).await;

    bus.take(&AUDIT, 3);
    is(6).await;
    bus.report_floors(Some(GroupFloor::Unknown));
    bus.take(&AUDIT, 1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(floor(&store, &AUDIT).await, Some(6));
    bus.report_floors(None);
    is(7).await;
    bus.destroy_group(&AUDIT);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(floor(&store, &AUDIT).await, Some(7), "whoever consumes makes it again");
    assert_eq!(position(&store, &bus).await, 10);
}

#[tokio::test(start_paused = true)]
async fn what_somebody_removed_before_a_group_had_it_is_published_again() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 10).await;
    let _app = app(&store, &bus).await;
    until_at(&store, &bus, 10).await;
    bus.take(&AUDIT, 3);
    bus.take(&MAILS, 10);
    until("the floors are saved", async || {
        (floor(&store, &AUDIT).await, floor(&store, &MAILS).await) == (Some(3), Some(10))
    })
    .await;
    bus.trim(8);
    until("it is filled", async || bus.history().len() > 10).await;
    until_at(&store, &bus, 10).await;
    let taken = positions(&bus.take(&AUDIT, 100));
    assert_eq!(taken, [9, 10, 4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(bus.history().len(), 17, "once");

    let fresh = Name::from_static("fresh");
    bus.create_group(&fresh);
    bus.trim(1);
    append(&store, 1).await;
    until_at(&store, &bus, 11).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(bus.history().len(), 18, "a group that was never known is promised nothing");
    assert!(floor(&store, &fresh).await.is_some(), "but is known from now on");
}

#[tokio::test(start_paused = true)]
async fn groups_of_an_app_are_known_before_they_consume() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 5).await;
    let publisher = app(&store, &bus).await;
    until_at(&store, &bus, 5).await;
    publisher.shutdown(LEASE).await.unwrap();
    bus.take(&MAILS, 2);
    bus.connection().create_group(&AUDIT);
    bus.take(&AUDIT, 1);
    let mut consumer = builder(&store, &bus).without_relay().handler::<audit>().start().await.unwrap();
    assert_eq!(floor(&store, &AUDIT).await, Some(1), "as the bus says");
    bus.destroy_group(&AUDIT);
    store.forget_floor(&DESTINATION, &AUDIT).await.unwrap();
    consumer.shutdown(LEASE).await.unwrap();
    consumer = builder(&store, &bus.connection()).without_relay().handler::<audit>().start().await.unwrap();
    assert_eq!(floor(&store, &AUDIT).await, Some(0), "a group that begins at the beginning");
    drop(consumer);
}

#[tokio::test(start_paused = true)]
async fn what_a_release_without_floors_published_is_not_published_again() {
    for (checkpoint, groups_begin_at, first) in [(3, 3, 4), (9, 5, 6)] {
        let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
        append(&store, 5).await;
        store.save_checkpoint(&ROLE, checkpoint.into()).await.unwrap();
        let app = builder(&store, &bus).handler::<audit>().start().await.unwrap();
        assert_eq!(floor(&store, &AUDIT).await, Some(groups_begin_at));
        let last = append(&store, 1).await;
        app.published(last).await.unwrap();
        until_at(&store, &bus, 6).await;
        assert_eq!(bus.history(), (first..=6).collect::<Vec<_>>(), "a checkpoint may stand in a gap at the end");
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_that_is_forgotten_holds_nothing_any_more() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 5).await;
    save_floor(&store, &AUDIT, 0).await;
    let app = app(&store, &bus).await;
    until_at(&store, &bus, 5).await;
    bus.take(&MAILS, 4);
    until("the other is known", async || floor(&store, &MAILS).await == Some(4)).await;
    bus.destroy_group(&AUDIT);
    app.forget_group(&AUDIT).await.unwrap();
    bus.flush();
    until_at(&store, &bus, 5).await;
    assert_eq!(bus.positions(), [5]);
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
    assert!(app.bus().relay_target().is_some());
}
