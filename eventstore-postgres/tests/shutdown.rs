//! An app whose store is gone still shuts down, and soon.

#![allow(clippy::unwrap_used, reason = "as in any test")]

mod common;
#[path = "common/counter.rs"]
mod counter;

use std::time::{Duration, Instant};

use common::within;
use counter::{Counted, Counter};
use eventbus::{
    App, ExpectedVersion, Never, NewEvent,
    port::{Append, AppendEvents as _, ReadFeed as _},
    prelude::*,
};
use eventstore_postgres::{PgConnection, PgEventStore, PgEventStoreConfig};
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(60);

#[handler]
async fn note(_event: &Counted, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO notes DEFAULT VALUES").execute(connection).await.map(drop)
}

/// An app whose parts all use a store, and events that no handler has handled yet.
struct Place {
    server: eventbus_test::PrivatePostgres,
    store: PgEventStore,
    app: App,
}

impl Place {
    async fn new() -> Self {
        let server = eventbus_test::private_postgres();
        let config =
            PgEventStoreConfig { database_url: server.url().into(), connect_timeout: LONG, ..Default::default() };
        let store = common::open(config).await;
        let mut admin = common::connect(server.url()).await;
        common::run(&mut admin, "CREATE TABLE rows (id serial); CREATE TABLE notes (id serial)").await;
        let app = App::builder().store(store.clone()).discover().start().await.unwrap();
        let id = AggregateId::new();
        app.repository::<Counter>().upsert(&id, |_| Ok::<_, Never>(Counted {})).await.unwrap();
        within(app.settled()).await.unwrap();
        let waiting = (0..20).map(|_| common::stream());
        let counted = || NewEvent::from_event(&Counted {}).unwrap();
        let appends = waiting.map(|stream| Append { stream, expected: ExpectedVersion::Any, events: vec![counted()] });
        assert!(store.append_many(appends.collect()).await.iter().all(Result::is_ok));
        Self { server, store, app }
    }

    /// Stops the server, and waits until every part of the app gets no answer: each asks at least once a second.
    async fn lose_server(&mut self) {
        self.server.stop();
        within(async { while timeout(Duration::from_secs(1), self.store.head()).await.is_ok() {} }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_without_its_server_ends_soon_and_says_what_it_left() {
    let mut place = Place::new().await;
    place.lose_server().await;
    let began = Instant::now();
    let left = place.app.shutdown(LONG).await.unwrap_err();
    assert!(left.what.contains("store does not answer"), "{left}");
    within(place.store.close()).await;
    assert!(began.elapsed() < LONG / 3, "{:?}", began.elapsed());
}
