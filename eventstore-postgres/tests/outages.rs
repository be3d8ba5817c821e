//! Log lines about a server: one when an outage begins and one when it ends, and warnings about missing encryption.

#![allow(clippy::unwrap_used, reason = "as in any test")]

mod common;
#[path = "common/counter.rs"]
mod counter;
#[path = "../../eventbus-redis/tests/common/log.rs"]
mod log;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use common::within;
use counter::{Counted, Counter};
use eventbus::{
    App, ExpectedVersion, Never, NewEvent, Position, port::AppendEvents as _, prelude::*, projection::ProjectionError,
};
use eventstore_postgres::{PgConnection, PgEventStoreConfig};
use tokio::runtime::Handle;

const LONG: Duration = Duration::from_secs(60);

async fn save(app: &App) {
    let id = AggregateId::new();
    within(app.repository::<Counter>().upsert(&id, |_| Ok::<_, Never>(Counted {}))).await.unwrap();
    within(app.settled()).await.unwrap();
}

/// Waits until the log has a line with these texts.
async fn told(texts: &[&str]) {
    let since = Instant::now();
    while log::lines(texts).is_empty() {
        assert!(since.elapsed() < LONG, "no line has {texts:?}:\n{}", log::lines(&[]).join("\n"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Fails unless the log has one line that the outage began, and one that says how long it lasted.
fn assert_told_once(about: &str, began: &str, over: &str) {
    let (began, over) = (log::lines(&[began, about]), log::lines(&[over, about]));
    assert_eq!((began.len(), over.len()), (1, 1), "{began:?} {over:?}");
    assert!(over[0].contains("lasted="), "{over:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_server_that_is_away_roles_and_projections_say_so_once_and_when_they_go_on() {
    log::keep();
    let mut server = eventbus_test::private_postgres();
    let config = PgEventStoreConfig { database_url: server.url().into(), ..Default::default() };
    let store = common::open(config).await;
    let mut admin = common::connect(server.url()).await;
    common::run(&mut admin, "CREATE TABLE rows (id serial)").await;
    let app = App::builder().store(store).lease(Duration::from_secs(1)).discover();
    let app = app.start().await.unwrap();
    save(&app).await;
    server.stop();
    told(&["no connection for notifications, trying again", "channel="]).await;
    let roles = ["projection:in-rows", "projection:elsewhere"].map(|role| format!("role={role}"));
    for role in &roles {
        told(&["gives up the role", role]).await;
    }
    let projections = ["in-rows", "elsewhere", "in-memory"].map(|name| format!("projection=\"{name}\""));
    for projection in &projections {
        told(&["projection cannot use its store, trying again", projection]).await;
    }
    server.start();
    for role in &roles {
        told(&["this process has the role again", role]).await;
    }
    save(&app).await;
    app.shutdown(LONG).await.unwrap();
    for role in &roles {
        assert_told_once(role, "gives up the role", "this process has the role again");
    }
    for projection in &projections {
        assert_told_once(projection, "projection cannot use its store, trying again", "projection goes on");
    }
}

#[derive(Debug, Default)]
struct Rebuilt;

#[projection(name = "rebuilt", tables("rebuilt_rows"), manual)]
impl Rebuilt {
    async fn counted(&self, _event: &Counted, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT INTO rebuilt_rows DEFAULT VALUES").execute(connection).await.map(drop)
    }
}

/// Stops the server between two rounds of a rebuild, when all events are in the copies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_waits_for_a_server_that_is_away_between_two_rounds() {
    log::keep();
    let server = Arc::new(Mutex::new(eventbus_test::private_postgres()));
    let url = server.lock().unwrap().url().to_owned();
    let config =
        PgEventStoreConfig { database_url: url.clone(), connect_timeout: Duration::from_secs(3), ..Default::default() };
    let store = common::open(config).await;
    let mut admin = common::connect(&url).await;
    common::run(&mut admin, "CREATE TABLE rebuilt_rows (id serial)").await;
    // more than a short round, so that a second one follows
    let stream = common::stream();
    let counted = || NewEvent::from_event(&Counted {}).unwrap();
    let append = store.append(&stream, ExpectedVersion::NoStream, (0..300).map(|_| counted()).collect());
    within(append).await.unwrap();
    let app = App::builder().store(store).lease(LONG).projection(Rebuilt).start().await.unwrap();
    drop(within(app.projected::<Rebuilt>(Position::new(300))).await.unwrap());
    let (stopped, is_stopped) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let back = tokio::spawn({
        let (server, is_stopped) = (Arc::clone(&server), Arc::clone(&is_stopped));
        async move {
            within(async {
                while !is_stopped.load(Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
            .await;
            told(&["rebuild cannot go on, trying again", "projection=\"rebuilt\""]).await;
            tokio::task::spawn_blocking(move || server.lock().unwrap().start()).await.unwrap();
        }
    });
    let rebuild = app.rebuild::<Rebuilt>().on_progress(|now| {
        if now.events == 300 && !stopped.swap(true, Ordering::SeqCst) {
            server.lock().unwrap().stop();
            is_stopped.store(true, Ordering::SeqCst);
        }
    });
    let rebuilt = within(rebuild.into_future()).await.unwrap();
    assert_eq!((rebuilt.events, rebuilt.position), (300, Position::new(300)));
    back.await.unwrap();
    assert_told_once("projection=\"rebuilt\"", "rebuild cannot go on, trying again", "rebuild goes on");
    within(app.shutdown(LONG)).await.unwrap();
}

/// Changes the table after the last look at its definition. Fails if the error of the switch counts as a success.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_whose_table_is_altered_before_the_switch_fills_new_copies() {
    let database = common::TestDatabase::create("").await;
    let (store, mut admin) = (common::open(database.config()).await, common::connect(&database.url()).await);
    common::run(&mut admin, "CREATE TABLE rebuilt_rows (id serial)").await;
    let append = async |events: usize| {
        let counted = (0..events).map(|_| NewEvent::from_event(&Counted {}).unwrap()).collect();
        within(store.append(&common::stream(), ExpectedVersion::NoStream, counted)).await.unwrap();
    };
    append(3).await;
    let app = App::builder().store(store.clone()).projection(Rebuilt).start().await.unwrap();
    drop(within(app.projected::<Rebuilt>(Position::new(3))).await.unwrap());
    common::run(&mut admin, "INSERT INTO rebuilt_rows DEFAULT VALUES").await;
    let (mut is_filling, mut altering) = (true, Some(common::connect(&database.url()).await));
    let rebuild = app.rebuild::<Rebuilt>().on_progress(|now| {
        let change = async {
            if now.events == 3 && std::mem::take(&mut is_filling) {
                // this one is copied under the lease of the live rows
                append(1).await;
                drop(within(app.projected::<Rebuilt>(Position::new(4))).await.unwrap());
            } else if now.events == 4
                && let Some(mut admin) = altering.take()
            {
                common::run(&mut admin, "ALTER TABLE rebuilt_rows ADD COLUMN note text").await;
            }
        };
        tokio::task::block_in_place(|| Handle::current().block_on(within(change)));
    });
    within(rebuild.into_future()).await.unwrap();
    let rows = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM rebuilt_rows").fetch_one(&mut admin).await.unwrap();
    assert_eq!((rows, altering.is_none()), (4, true), "the rows are those of the events");
    within(app.shutdown(LONG)).await.unwrap();
}

/// Passes over the error of a statement, after which the server refuses all others of the transaction.
#[derive(Debug, Default)]
struct Careless;

#[projection(name = "careless", tables("careless_rows"), manual)]
impl Careless {
    async fn counted(&self, _event: &Counted, meta: &Metadata, connection: &mut PgConnection) {
        let insert = sqlx::query("INSERT INTO careless_rows (version) VALUES ($1)");
        let _ = insert.bind(meta.version().as_i64()).execute(connection).await;
    }
}

/// Fails if the projection takes its own error for an outage: it would try again for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_that_passes_over_an_error_stops_the_projection_at_its_event() {
    let server = eventbus_test::private_postgres();
    let config = PgEventStoreConfig { database_url: server.url().into(), ..Default::default() };
    let store = common::open(config).await;
    let mut admin = common::connect(server.url()).await;
    common::run(&mut admin, "CREATE TABLE careless_rows (version bigint PRIMARY KEY)").await;
    for events in [2, 1] {
        let events = (0..events).map(|_| NewEvent::from_event(&Counted {}).unwrap()).collect();
        within(store.append(&common::stream(), ExpectedVersion::NoStream, events)).await.unwrap();
    }
    let app = App::builder().store(store).projection(Careless).start().await.unwrap();
    let stopped = within(app.projected::<Careless>(Position::new(3))).await.map(drop).unwrap_err();
    assert!(matches!(stopped, ProjectionError::Stopped { position, .. } if position == 3), "{stopped:?}");
    let rows = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM careless_rows").fetch_one(&mut admin).await.unwrap();
    assert_eq!(rows, 2, "those of the events before it");
    within(app.shutdown(LONG)).await.unwrap();
}

/// Fails unless the store warns about a server on a remote machine, and only about that.
#[tokio::test]
async fn a_server_on_another_machine_without_tls_is_warned_of() {
    log::keep();
    let server = eventbus_test::private_postgres();
    // an address of this machine that does not count as local
    let (port, elsewhere) = (server.port(), format!("@0.0.0.0:{}", server.port()));
    let url = server.url().replace(&format!("@127.0.0.1:{port}"), &elsewhere);
    let url = url.replace(&format!("@localhost:{port}"), &elsewhere);
    assert!(url.contains(&elsewhere), "{url}");
    for database_url in [server.url().to_owned(), url] {
        common::open(PgEventStoreConfig { database_url, ..Default::default() }).await.close().await;
    }
    let warned = log::lines(&["the connection to PostgreSQL has no TLS", &port.to_string()]);
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(warned[0].contains("0.0.0.0"), "{warned:?}");
}
