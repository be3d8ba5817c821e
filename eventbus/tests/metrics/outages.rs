//! What is shown while the store does not answer.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use eventbus::{
    App, InMemoryEventStore, Name, Never, Position, StreamId, Uuid,
    delivery::DeliveryAttempts,
    port::{
        AppendSignal, CheckpointError, DeadDelivery, FeedFilter, MissingEvent, ProgressUpdate, ReadError, ReadFeed,
        RecordStream, UnfinishedDeliveries, UnfinishedDelivery,
    },
    prelude::*,
    testkit::delegate,
};
use tokio::sync::watch;

use crate::shop::{Order, Paid};

/// Whether a store answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    Yes,
    WithErrors,
    Never,
}

/// A store that may not tell its head and its number of dead letters.
struct AwayStore {
    store: InMemoryEventStore,
    answers: watch::Sender<Answers>,
}

impl AwayStore {
    /// Waits while the store does not answer; returns an error if it answers with errors.
    async fn answer(&self) -> Result<(), &'static str> {
        let answers = *self.answers.subscribe().wait_for(|answers| *answers != Answers::Never).await.unwrap();
        if answers == Answers::Yes { Ok(()) } else { Err("away") }
    }
}

delegate!(AwayStore, self => self.store; AppendEvents, ReadStream, Checkpoints, Leases, EventStore);

#[async_trait]
impl ReadFeed for AwayStore {
    fn read_feed(&self, after: Position, through: Position, filter: &FeedFilter) -> RecordStream<'_> {
        self.store.read_feed(after, through, filter)
    }

    async fn head(&self) -> Result<Position, ReadError> {
        self.answer().await.map_err(|error| ReadError::Unavailable(error.into()))?;
        self.store.head().await
    }

    async fn count_events(&self, after: Position, through: Position, filter: &FeedFilter) -> Result<u64, ReadError> {
        self.store.count_events(after, through, filter).await
    }

    async fn first_recorded_after(&self, after: Position) -> Result<Option<time::OffsetDateTime>, ReadError> {
        self.store.first_recorded_after(after).await
    }

    async fn find_missing_event(&self, stream: Option<&StreamId>) -> Result<Option<MissingEvent>, ReadError> {
        self.store.find_missing_event(stream).await
    }

    async fn store_id(&self) -> Result<Uuid, ReadError> {
        self.store.store_id().await
    }

    fn appended(&self) -> &AppendSignal {
        self.store.appended()
    }
}

#[async_trait]
impl UnfinishedDeliveries for AwayStore {
    async fn save_progress(&self, group: &Name, update: &ProgressUpdate) -> Result<(), CheckpointError> {
        self.store.save_progress(group, update).await
    }

    async fn waiting_deliveries(&self, group: &Name) -> Result<Vec<UnfinishedDelivery>, CheckpointError> {
        self.store.waiting_deliveries(group).await
    }

    async fn dead_positions(&self, group: &Name, after: Position) -> Result<Vec<Position>, CheckpointError> {
        self.store.dead_positions(group, after).await
    }

    async fn dead_deliveries(
        &self,
        after: Option<&DeadDelivery>,
        limit: usize,
    ) -> Result<Vec<DeadDelivery>, CheckpointError> {
        self.store.dead_deliveries(after, limit).await
    }

    async fn dead_delivery(&self, group: &Name, position: Position) -> Result<Option<DeadDelivery>, CheckpointError> {
        self.store.dead_delivery(group, position).await
    }

    async fn count_dead_deliveries(&self, at_most: u64) -> Result<u64, CheckpointError> {
        let unnamed = Name::from_static("dead letters");
        self.answer().await.map_err(|error| CheckpointError::new(&unnamed, error))?;
        self.store.count_dead_deliveries(at_most).await
    }

    async fn end_dead_delivery(
        &self,
        group: &Name,
        position: Position,
        attempts: Option<&DeliveryAttempts>,
    ) -> Result<bool, CheckpointError> {
        self.store.end_dead_delivery(group, position, attempts).await
    }
}

#[handler(group = "mail")]
async fn refuse(_paid: &Paid) -> Result<(), HandlerError> {
    Err(HandlerError::permanent("there is no such address"))
}

/// A gauge that falls while a count is unknown, and rises afterwards, would look like new dead letters.
#[tokio::test]
async fn a_store_that_does_not_answer_is_down_and_the_bus_in_the_process_is_not() {
    let (answers, _) = watch::channel(Answers::Yes);
    let store = AwayStore { store: InMemoryEventStore::new(), answers: answers.clone() };
    let app = App::builder().store(Arc::new(store)).handler::<refuse>().start().await.unwrap();
    for number in 0..3 {
        let (id, paid) = (format!("o-{number}").parse().unwrap(), |_: &Order| Ok::<_, Never>(Paid { cents: 1 }));
        app.repository::<Order>().upsert(&id, paid).await.unwrap();
    }
    app.settled().await.unwrap_err();
    let shown = async || {
        let metrics = app.metrics().await;
        let of = |name: &str| metrics.number(&format!("eventbus_{name}"), &[]);
        (of("store_up"), of("feed_head"), of("bus_up"), of("dead_letters"))
    };
    let all = (Some(1.0), Some(3.0), Some(1.0), Some(3.0));
    assert_eq!(shown().await, all);
    for answer in [Answers::WithErrors, Answers::Never] {
        answers.send_replace(answer);
        assert_eq!(shown().await, (Some(0.0), None, Some(1.0), None), "{answer:?}");
        let of_group = app.metrics().await.number("eventbus_group_pending", &[("group", "mail")]);
        assert_eq!(of_group, Some(0.0), "the bus knows it");
    }
    answers.send_replace(Answers::Yes);
    assert_eq!(shown().await, all);
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}
