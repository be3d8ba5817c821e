//! What is shown while the store does not answer.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use eventbus::{
    App, InMemoryEventStore, Never, Position, StreamId, Uuid,
    port::{AppendSignal, FeedFilter, MissingEvent, ReadError, ReadFeed, RecordStream},
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

/// A store that may not tell its head.
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

delegate!(AwayStore, self => self.store; AppendEvents, ReadStream, Checkpoints, Leases, EventStore {
    fn handler_progress(&self) -> Option<&dyn HandlerProgress> {
        // the reads of a store that is away fail
        self.store.handler_progress().filter(|_| matches!(*self.answers.borrow(), Answers::Yes))
    }

    fn multi_stream_appends(&self) -> Option<&dyn MultiStreamAppends> {
        self.store.multi_stream_appends()
    }
});

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

#[handler(group = "mail")]
async fn refuse(_paid: &Paid) -> Result<(), HandlerError> {
    Err(HandlerError::permanent("there is no such address"))
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_down() {
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
        (of("store_up"), of("feed_head"), of("dead_letters"))
    };
    let all = (Some(1.0), Some(3.0), Some(3.0));
    assert_eq!(shown().await, all);
    for answer in [Answers::WithErrors, Answers::Never] {
        answers.send_replace(answer);
        assert_eq!(shown().await, (Some(0.0), None, None), "{answer:?}");
    }
    answers.send_replace(Answers::Yes);
    assert_eq!(shown().await, all);
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}
