//! A relay that begins after a position, or publishes again from one, at an operator's command.

use std::time::Duration;

use eventbus::{
    App, InMemoryEventBus, InMemoryEventStore, Position,
    app::StartMistake,
    port::{Checkpoints, Leases},
    relay::{BeginError, RepublishError, begin_after, republish},
    testkit::{LossyBus, delegate},
};
use tokio::sync::Semaphore;

use crate::{gated::GatedStore, relay_kit::*, wait::until};

#[tokio::test(start_paused = true)]
async fn the_relay_begins_after_the_position_also_if_the_bus_loses_its_data() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 3).await;
    begin_after(&store, &bus, Position::new(3)).await.unwrap();
    let app = builder(&store, &bus).handler::<audit>().start().await.unwrap();
    append(&store, 2).await;
    until_at(&store, &bus, 5).await;
    assert_eq!(bus.history(), [4, 5]);
    assert_eq!(app.relay_status().await.unwrap().lost_through, None);

    until("it is noted", async || store.load_checkpoint(&ROLE).await.unwrap() == Some(Position::new(5))).await;
    bus.flush();
    append(&store, 1).await;
    until_at(&store, &bus, 6).await;
    assert_eq!(bus.history(), [4, 5, 6]);
    app.shutdown(LEASE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_relay_begins_once() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 3).await;
    let error = begin_after(&store, &bus, Position::new(4)).await.unwrap_err();
    assert!(matches!(error, BeginError::BeyondEnd { newest } if newest == 3), "{error}");
    begin_after(&store, &bus, Position::new(2)).await.unwrap();
    let refused = async |after: u64| match begin_after(&store, &bus, after.into()).await.unwrap_err() {
        BeginError::HasBegun { position, .. } => position.get(),
        error => panic!("{error}"),
    };
    assert_eq!(refused(3).await, 2, "by its checkpoint");

    store.delete_checkpoint(&ROLE).await.unwrap();
    assert_eq!(refused(3).await, 2, "by the bus");
}

#[tokio::test(start_paused = true)]
async fn a_relay_does_not_begin_while_a_process_relays() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    let other = store.acquire_lease(&ROLE, &MAILS, LEASE).await.unwrap().unwrap();
    let error = begin_after(&store, &bus, Position::START).await.unwrap_err();
    assert_eq!(error.to_string(), "a process relays to `memory`: stop it, then try again");
    store.release_lease(&other).await.unwrap();
    begin_after(&store, &bus, Position::START).await.unwrap();
    let again = store.acquire_lease(&ROLE, &MAILS, LEASE).await.unwrap();
    assert!(again.is_some(), "it has released the lease");
}

/// The store does not answer for longer than the lease lasts, before the position is saved, and while it is.
#[tokio::test(start_paused = true)]
async fn a_relay_does_not_begin_with_a_lease_that_a_process_has_taken_meanwhile() {
    for is_saving in [false, true] {
        let (store, bus) = (GatedStore::open(), LossyBus::new());
        let gate = if is_saving { &store.saves } else { &store.loads };
        gate.forget_permits(Semaphore::MAX_PERMITS);
        let (slow, bus) = (store.clone(), bus.connection());
        let begun = tokio::spawn(async move { begin_after(&slow, &bus, Position::START).await });
        store.until_waiting().await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        store.acquire_lease(&ROLE, &MAILS, LEASE).await.unwrap().unwrap();
        gate.add_permits(Semaphore::MAX_PERMITS);
        let error = begun.await.unwrap().unwrap_err();
        assert!(matches!(error, BeginError::Relaying { .. }), "{error}");
        assert_eq!(store.load_checkpoint(&ROLE).await.unwrap().is_some(), is_saving);
    }
}

#[tokio::test(start_paused = true)]
async fn events_are_published_again_though_the_bus_has_lost_its_position() {
    let (store, bus) = (InMemoryEventStore::new(), LossyBus::new());
    append(&store, 5).await;
    let first = builder(&store, &bus).handler::<audit>().start().await.unwrap();
    until_at(&store, &bus, 5).await;
    first.shutdown(LEASE).await.unwrap();

    bus.flush();
    assert_eq!(republish(&store, &bus, Position::new(2)).await.unwrap(), 2);
    let second = builder(&store, &bus).handler::<audit>().start().await.unwrap();
    until_at(&store, &bus, 5).await;
    assert_eq!(bus.history(), [1, 2, 3, 4, 5, 3, 4, 5]);
    second.shutdown(LEASE).await.unwrap();
}

/// A bus of a crate that keeps no position of a store.
struct WithoutPositions(InMemoryEventBus);

delegate!(WithoutPositions, self => self.0; EventBus {
    async fn publish(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        self.0.publish(events).await
    }

    fn relay_target(&self) -> Option<&dyn RelayTarget> {
        None
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        self.0.dead_letters()
    }
});

#[tokio::test]
async fn an_app_with_a_store_refuses_a_bus_without_positions() {
    let (store, bus) = (InMemoryEventStore::new(), || WithoutPositions(InMemoryEventBus::new()));
    let error = App::builder().store(store.clone()).bus(bus()).start().await.unwrap_err();
    assert!(
        matches!(error.mistakes(), [StartMistake::BusWithoutPosition { destination }] if destination == "memory"),
        "{error}"
    );
    let error = begin_after(&store, &bus(), Position::START).await.unwrap_err();
    assert!(matches!(error, BeginError::NoPosition { .. }), "{error}");
    let error = republish(&store, &bus(), Position::START).await.unwrap_err();
    assert!(matches!(error, RepublishError::NoPosition { .. }), "{error}");
}
