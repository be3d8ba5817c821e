//! Appends of one store wake the readers of a second one.

use std::time::{Duration, Instant};

use crate::common::{TestDatabase, add, events, open, stream, within};
use eventbus::{
    EventId, ExpectedVersion, Follow, Name, Position, StreamId,
    port::{EventStore as _, FromTransaction, Leases as _, ReadFeed as _, Transaction},
    testkit::ManualClock,
};
use eventstore_postgres::{PgConnection, PgEventStore, PgEventStoreConfig};
use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, postgres::PgListener};

const LISTENING: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%\\_appended\\_%'";

/// A database of its own, and a connection that observes it.
struct Place {
    database: TestDatabase,
    watcher: PgConnection,
}

impl Place {
    async fn new() -> Self {
        let database = TestDatabase::create("").await;
        let watcher = crate::common::connect(&database.url()).await;
        Self { database, watcher }
    }

    async fn store(&self, notify: bool) -> PgEventStore {
        open(PgEventStoreConfig { notify, ..self.database.config() }).await
    }

    async fn listening(&mut self) -> i64 {
        sqlx::query_scalar(LISTENING).fetch_one(&mut self.watcher).await.unwrap()
    }

    /// The channel, once a store listens.
    async fn channel(&mut self) -> String {
        let sql = LISTENING.replace("count(*)", "split_part(query, '\"', 2)");
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut self.watcher).await.unwrap()
    }

    /// Kills the listening connections, and waits until they are gone.
    async fn kill(&mut self) {
        // materialized: the server could end backends before it compares their databases
        let listening = LISTENING.replace("count(*)", "pid");
        let kill = format!("WITH l AS MATERIALIZED ({listening}) SELECT pid FROM l WHERE pg_terminate_backend(pid)");
        let killed: Vec<i32> = sqlx::query_scalar(AssertSqlSafe(kill)).fetch_all(&mut self.watcher).await.unwrap();
        assert_ne!(killed, [0_i32; 0]);
        let alive = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY ($1)";
        let mut alive =
            async || -> i64 { sqlx::query_scalar(alive).bind(&killed).fetch_one(&mut self.watcher).await.unwrap() };
        within(async { while alive().await > 0 {} }).await;
    }

    /// Lets the server accept or refuse new connections to the database.
    async fn allow_connections(&self, is_allowed: bool) {
        let mut admin = crate::common::connect(eventbus_test::postgres_url()).await;
        let name = self.database.name();
        crate::common::run(&mut admin, &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {is_allowed}")).await;
    }

    /// Waits until `count` connections listen.
    async fn listen(&mut self, number: i64) {
        within(async { while self.listening().await != number {} }).await;
    }
}

const LONG: Duration = Duration::from_secs(20);

/// Time for which the test checks that an event does not happen.
const WHILE: Duration = Duration::from_millis(300);

/// Returns `true` if an append of one store wakes the other.
async fn wakes(writer: &PgEventStore, reader: &PgEventStore, patience: Duration) -> bool {
    let mut watch = reader.appended().watch();
    add(writer, &stream(), 1).await;
    tokio::time::timeout(patience, watch.appended()).await.is_ok()
}

/// A transaction as handlers and projections use it.
async fn begin(store: &PgEventStore) -> Box<dyn Transaction> {
    store.transactions().unwrap().begin().await.unwrap()
}

async fn append_in(store: &PgEventStore, transaction: &mut dyn Transaction) {
    let connection = <PgConnection as FromTransaction<PgEventStore>>::take(Some(transaction.as_any_mut())).unwrap();
    store.append_in(connection, &stream(), ExpectedVersion::Any, events(1)).await.unwrap();
}

#[tokio::test]
async fn an_append_in_a_transaction_wakes_the_readers_after_its_commit() {
    let mut place = Place::new().await;
    let other = place.store(true).await;
    let store = place.store(true).await;
    place.listen(2).await;
    let [mut here, mut there] = [&store, &other].map(|store| store.appended().watch());
    // more often than each is woken because it begins to listen
    for round in 0..6 {
        let mut transaction = begin(&store).await;
        append_in(&store, &mut *transaction).await;
        if round % 2 == 0 {
            assert!(transaction.is_first(&Name::from_static("later"), &delivered(), EventId::new()).await.unwrap());
        }
        transaction.commit().await.unwrap();
        within(here.appended()).await;
        within(there.appended()).await;
    }
}

#[tokio::test]
async fn the_end_of_a_process_with_handlers_is_announced_to_others() {
    let mut place = Place::new().await;
    let (one, other) = (place.store(true).await, place.store(true).await);
    place.listen(2).await;
    let mut watch = other.appended().watch();
    one.handler_progress().unwrap().leave(&Name::from_static("process")).await.unwrap();
    within(watch.left()).await;
}

#[tokio::test]
async fn an_append_before_a_checkpoint_moves_wakes_the_readers() {
    let place = Place::new().await;
    let store = place.store(false).await;
    let role = Name::from_static("projection");
    let lease = store.acquire_lease(&role, &Name::from_static("owner"), LONG).await.unwrap().unwrap();
    for round in 0..2_u64 {
        let mut watch = store.appended().watch();
        let mut transaction = begin(&store).await;
        append_in(&store, &mut *transaction).await;
        assert!(transaction.advance(&lease, Position::new(round), Position::new(round + 1)).await.unwrap());
        let early = tokio::time::timeout(WHILE, watch.appended()).await;
        assert!(early.is_err(), "it is not committed");
        transaction.commit().await.unwrap();
        within(watch.appended()).await;
    }
}

/// A lease whose row a transaction holds is left out, and delays no other.
#[tokio::test]
async fn leases_are_renewed_together_without_a_wait() {
    let place = Place::new().await;
    let store = place.store(false).await;
    let (owner, mut leases) = (Name::from_static("owner"), Vec::new());
    for role in ["one", "two", "three"].map(Name::from_static) {
        // expires at once
        leases.push(store.acquire_lease(&role, &owner, Duration::ZERO).await.unwrap().unwrap());
    }
    let renewed = async || within(store.renew_leases(&leases, LONG)).await.unwrap();
    let mut transaction = begin(&store).await;
    assert!(transaction.advance(&leases[1], Position::START, Position::new(1)).await.unwrap());
    assert_eq!(renewed().await, [true, false, true]);
    assert_eq!(store.lease_of(&leases[0].role).await.unwrap().as_ref(), Some(&leases[0]), "it does not expire");
    assert_eq!(store.lease_of(&leases[1].role).await.unwrap(), None);
    transaction.commit().await.unwrap();
    assert_eq!(renewed().await, [true; 3]);
    store.seize_lease(&leases[2].role, &owner, LONG).await.unwrap();
    assert_eq!(renewed().await, [true, true, false]);
    assert!(store.renew_leases(&[], LONG).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_transaction_that_appended_nothing_wakes_nobody() {
    let place = Place::new().await;
    let store = place.store(false).await;
    let mut watch = store.appended().watch();
    for undone in [false, true] {
        let mut transaction = begin(&store).await;
        let connection = <PgConnection as FromTransaction<PgEventStore>>::take(Some(transaction.as_any_mut())).unwrap();
        crate::common::run(connection, "SAVEPOINT mine").await;
        if undone {
            append_in(&store, &mut *transaction).await;
        }
        let connection = <PgConnection as FromTransaction<PgEventStore>>::take(Some(transaction.as_any_mut())).unwrap();
        crate::common::run(connection, "ROLLBACK TO SAVEPOINT mine").await;
        transaction.commit().await.unwrap();
    }
    assert!(tokio::time::timeout(WHILE, watch.appended()).await.is_err());
}

#[tokio::test]
async fn an_append_wakes_the_readers_of_another_store() {
    let mut place = Place::new().await;
    let reader = place.store(true).await;
    place.listen(1).await;
    let writer = place.store(true).await;
    for _ in 0..10 {
        assert!(wakes(&writer, &reader, LONG).await);
    }
}

/// Two stores that receive each other's notifications do not notify for ever.
#[tokio::test]
async fn what_was_heard_is_not_told() {
    let mut place = Place::new().await;
    let (one, two) = (place.store(true).await, place.store(true).await);
    place.listen(2).await;
    let mut listener = PgListener::connect(&place.database.url()).await.unwrap();
    listener.listen(&place.channel().await).await.unwrap();
    assert!(wakes(&one, &two, LONG).await);
    within(listener.recv()).await.unwrap();
    let more = tokio::time::timeout(WHILE, listener.recv()).await;
    assert!(more.is_err(), "told twice: {more:?}");
}

#[tokio::test]
async fn many_appends_are_told_in_few_notifications() {
    let mut place = Place::new().await;
    let store = place.store(true).await;
    place.listen(1).await;
    let mut listener = PgListener::connect(&place.database.url()).await.unwrap();
    listener.listen(&place.channel().await).await.unwrap();
    let started = Instant::now();
    for _ in 0..200 {
        add(&store, &stream(), 1).await;
    }
    let most = started.elapsed().as_millis() / 20 + 2;
    let mut told = 0;
    while tokio::time::timeout(WHILE, listener.recv()).await.is_ok() {
        told += 1;
    }
    assert!((1..=most).contains(&told), "{told} notifications, at most {most} were allowed");
}

#[tokio::test]
async fn a_listener_that_is_killed_comes_back() {
    let mut place = Place::new().await;
    let (reader, writer) = (place.store(true).await, place.store(true).await);
    for _ in 0..3 {
        place.listen(2).await;
        let mut watch = reader.appended().watch();
        place.kill().await;
        add(&writer, &stream(), 1).await;
        // no connection received that notification, so the reader polls when it is back
        within(watch.appended()).await;
    }
    place.listen(2).await;
    assert!(wakes(&writer, &reader, LONG).await);
}

/// The longest pauses of a busy reader, and of one at rest.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(5)];

/// Waits until the reader polls at short pauses; fails if one of the next is long.
async fn is_polled_often(clock: &ManualClock) {
    // at once: the clock stands still
    within(async {
        while clock.wait_for_sleeper(Duration::ZERO).await > PAUSES[0] {
            tokio::task::yield_now().await
        }
    })
    .await;
    for _ in 0..40 {
        let pause = clock.wait_for_sleeper(Duration::ZERO).await;
        assert!(pause <= PAUSES[0], "{pause:?}");
        clock.advance(pause);
    }
}

/// While it cannot listen, a reader polls as often as one of a store that never listens.
#[tokio::test]
async fn a_reader_polls_often_until_its_store_listens_again() {
    let mut place = Place::new().await;
    let (store, clock) = (place.store(true).await, ManualClock::new());
    let mut following = Follow::new(store).clock(clock.clone()).start();
    let next = tokio::spawn(async move { following.try_next().await });
    within(crate::common::at_rest(&clock, PAUSES[1])).await;
    place.listen(1).await;
    place.allow_connections(false).await;
    place.kill().await;
    is_polled_often(&clock).await;
    place.allow_connections(true).await;
    within(crate::common::at_rest(&clock, PAUSES[1])).await;
    next.abort();
}

/// No store sees the commit of a transaction of the application; readers at rest, here and elsewhere, find its events
/// as soon as busy ones.
#[tokio::test]
async fn readers_poll_often_while_a_transaction_of_the_application_is_open() {
    let place = Place::new().await;
    let store = place.store(true).await;
    for reader in [store.clone(), place.store(true).await] {
        let clock = ManualClock::new();
        let head = reader.head().await.unwrap();
        let mut following = Follow::new(reader).after(head).clock(clock.clone()).start();
        let mut found = tokio::spawn(async move { following.try_next().await });
        within(crate::common::at_rest(&clock, PAUSES[1])).await;
        let mut connection = place.database.connection().await;
        crate::common::run(&mut connection, "BEGIN").await;
        let added = store.append_in(&mut connection, &stream(), ExpectedVersion::Any, events(1)).await.unwrap();
        is_polled_often(&clock).await;
        crate::common::run(&mut connection, "COMMIT").await;
        let found = loop {
            tokio::select! {
                found = &mut found => break found.unwrap().unwrap(),
                pause = clock.wait_for_sleeper(Duration::ZERO) => {
                    assert!(pause <= PAUSES[0], "{pause:?}, before the event is found");
                    clock.advance(pause);
                }
            }
        };
        assert_eq!(found.as_ref(), added.first());
    }
}

#[tokio::test]
async fn a_store_that_shall_not_tell_tells_nothing_and_hears_nothing() {
    let mut place = Place::new().await;
    let (silent, reader) = (place.store(false).await, place.store(true).await);
    place.listen(1).await;
    // the start of listening may still wake it
    within(async { while wakes(&silent, &reader, WHILE).await {} }).await;
    assert!(!wakes(&reader, &silent, WHILE).await);
}

#[tokio::test]
async fn listening_ends_with_the_store() {
    let mut place = Place::new().await;
    let store = place.store(true).await;
    let clone = store.clone();
    place.listen(1).await;
    drop(store);
    add(&clone, &stream(), 1).await;
    assert_eq!(place.listening().await, 1);
    drop(clone);
    place.listen(0).await;
    let store = place.store(true).await;
    place.listen(1).await;
    within(store.close()).await;
    place.listen(0).await;
}

/// The stream of the delivered events.
fn delivered() -> StreamId {
    StreamId::parse("Order", "1").unwrap()
}
