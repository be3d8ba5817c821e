//! Relays from PostgreSQL to Redis that are killed and paused, and servers that lose data or are restored from a copy.
//!
//! The killed processes are runs of this test binary, with their role in environment variables.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    unreachable_pub,
    reason = "helpers of tests, which print what they measured"
)]

mod world;

use std::{
    collections::BTreeSet,
    env,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use eventbus::{
    Name, Position,
    app::{PublishedError, StartMistake},
    health::HealthThresholds,
    port::{Checkpoints as _, ReadFeed},
    prelude::*,
    relay::RelayError,
};
use eventbus_test::internal::Actor;
use eventstore_postgres::{PgConnection, PgEventStore};
use tokio::task::JoinHandle;

use self::world::{World, administer, append, builder, database, relay, until};

/// The role of a relay that dies; returns at once in an ordinary run.
#[tokio::test]
async fn the_relay_that_dies() {
    let (Ok(database), Ok(redis)) = (env::var("RELAY_DATABASE"), env::var("RELAY_REDIS")) else {
        return;
    };
    Actor::end_with_parent();
    let _app = builder(&database, &redis).await.start().await.unwrap();
    std::future::pending::<()>().await;
}

/// Appends until `stop` is set.
fn keep_appending(store: &PgEventStore, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
    let (store, stop) = (store.clone(), Arc::clone(stop));
    tokio::spawn(async move {
        while !stop.load(Ordering::SeqCst) {
            append(&store, 10).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
}

/// Waits until a different owner holds the lease.
async fn owner_other_than(world: &World, former: &str) -> String {
    let mut owner = String::new();
    until("a relay has the lease", async || {
        let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(&world.database).await.unwrap();
        let row: Option<(String,)> = sqlx::query_as("SELECT owner FROM eventbus.leases WHERE expires_at > now()")
            .fetch_optional(&mut connection)
            .await
            .unwrap();
        owner = row.map(|row| row.0).unwrap_or_default();
        !owner.is_empty() && owner != former
    })
    .await;
    owner
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_that_are_killed_or_paused_beyond_their_lease_publish_everything_once_and_in_order() {
    let began = Instant::now();
    let mut world = World::begin().await;
    let stop = Arc::default();
    let appending = keep_appending(&world.store, &stop);
    let mut relays: Vec<_> = (0..2).map(|_| relay(&world)).collect();
    let (mut owner, mut killed, mut paused) = (String::new(), 0, 0);
    for round in 0..8 {
        owner = owner_other_than(&world, &owner).await;
        // the owner's name contains its process id
        let of_owner = relays.iter().position(|relay| owner.contains(&format!(":{}:", relay.id()))).unwrap();
        if round % 2 == 0 {
            relays.remove(of_owner).kill();
            relays.push(relay(&world));
            killed += 1;
        } else {
            relays[of_owner].signal("STOP");
            let next = owner_other_than(&world, &owner).await;
            relays[of_owner].signal("CONT");
            assert_ne!(next, owner);
            owner = String::new();
            paused += 1;
        }
    }
    stop.store(true, Ordering::SeqCst);
    appending.await.unwrap();
    world.until_published(world.head().await).await;
    let stored = world.stored().await;
    assert_eq!(world.published().await, stored);
    println!("{} events, {killed} killed, {paused} paused, {:?}", stored.len(), began.elapsed());
}

type Seen = Arc<Mutex<BTreeSet<u64>>>;

#[handler(manual)]
async fn note(event: &RecordedEvent, State(seen): State<Seen>) -> Result<(), HandlerError> {
    let position = event.position().ok_or("no position")?;
    seen.lock().map_err(|_| "poisoned")?.insert(position.get());
    Ok(())
}

/// Replaces all data of Redis by an earlier copy, in one step.
async fn restore(world: &mut World, copy: &[(String, Vec<u8>)]) {
    let mut pipeline = redis::pipe();
    pipeline.atomic().cmd("FLUSHALL").ignore();
    for (key, value) in copy {
        pipeline.cmd("RESTORE").arg(key).arg(0).arg(value).ignore();
    }
    pipeline.query_async::<()>(&mut world.connection).await.unwrap();
}

/// Returns a copy of all data of Redis at one moment.
async fn copy(world: &mut World) -> Vec<(String, Vec<u8>)> {
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut world.connection).await.unwrap();
    let mut pipeline = redis::pipe();
    pipeline.atomic();
    for key in &keys {
        pipeline.cmd("DUMP").arg(key);
    }
    let values: Vec<Option<Vec<u8>>> = pipeline.query_async(&mut world.connection).await.unwrap();
    keys.into_iter().zip(values).filter_map(|(key, value)| Some((key, value?))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_comes_back_from_a_copy_gets_again_what_it_lacks() {
    let began = Instant::now();
    let mut world = World::begin().await;
    let seen = Seen::default();
    let consumer = App::builder().bus(world::bus(world.redis.url()).await);
    let consumer = consumer.state(Arc::clone(&seen)).handler::<note>().start().await.unwrap();
    let stop = Arc::default();
    let appending = keep_appending(&world.store, &stop);
    let _relays: Vec<_> = (0..2).map(|_| relay(&world)).collect();
    let has_seen = async |more: usize| {
        let wanted = seen.lock().unwrap().len() + more;
        until("more is handled", async || seen.lock().unwrap().len() >= wanted).await;
    };
    for _ in 0..4 {
        has_seen(200).await;
        let copy = copy(&mut world).await;
        has_seen(200).await;
        restore(&mut world, &copy).await;
    }
    stop.store(true, Ordering::SeqCst);
    appending.await.unwrap();
    let stored: BTreeSet<u64> = world.stored().await.into_iter().collect();
    until("all events are handled", async || seen.lock().unwrap().len() >= stored.len()).await;
    assert_eq!(*seen.lock().unwrap(), stored);
    println!("{} events, 4 losses, {:?}", stored.len(), began.elapsed());
    consumer.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_flushed_gets_what_comes_and_is_filled_again_on_request() {
    let mut world = World::begin().await;
    let relaying = world.app().await;
    append(&world.store, 50).await;
    relaying.published(world.head().await).await.unwrap();
    let thresholds = HealthThresholds::default();
    let has_alert = async || relaying.health().await.alerts(&thresholds).iter().any(|alert| alert.contains("lost"));
    assert!(!has_alert().await);
    let (role, head) = (Name::from_static("relay:redis:relay:stream"), world.head().await);
    until("the relay's note is saved", async || world.store.load_checkpoint(&role).await.unwrap() == Some(head)).await;
    world.redis(&["FLUSHALL"]).await;
    append(&world.store, 5).await;
    world.until_published(world.head().await).await;
    let stored = world.stored().await;
    assert_eq!(world.published().await, stored[50..], "those after the noted position");
    until("an alert says so", has_alert).await;

    relaying.republish(Position::START).await.unwrap();
    until("the stream is filled again", async || world.published().await.len() == 5 + 55).await;
    assert_eq!(world.published().await[5..], stored);
    until("the alert ends", async || !has_alert().await).await;
    relaying.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_restored_from_a_backup_publishes_nothing_until_somebody_says_from_where() {
    let (name, original) = database().await;
    let mut world = World::on(original).await;
    append(&world.store, 20).await;
    let app = world.app().await;
    let backed_up = world.head().await;
    app.published(backed_up).await.unwrap();
    app.shutdown(Duration::from_secs(10)).await.unwrap();
    drop(app);
    world.store.close().await;
    let copy = format!("{name}_copy");
    until("no session is connected", async || {
        let mut admin = <sqlx::PgConnection as sqlx::Connection>::connect(eventbus_test::postgres_url()).await.unwrap();
        let count: (i64,) = sqlx::query_as("SELECT count(*) FROM pg_stat_activity WHERE datname = $1")
            .bind(&name)
            .fetch_one(&mut admin)
            .await
            .unwrap();
        count.0 == 0
    })
    .await;
    administer(format!("CREATE DATABASE {copy} TEMPLATE {name}")).await;

    // the original continues; then it is lost, and the copy replaces it
    world.store = PgEventStore::connect(&world.database).await.unwrap();
    let app = world.app().await;
    append(&world.store, 30).await;
    app.published(world.head().await).await.unwrap();
    app.shutdown(Duration::from_secs(10)).await.unwrap();
    drop(app);
    let before = world.published().await;
    world.database = eventbus_test::database_url_for(&copy);
    world.store = PgEventStore::connect(&world.database).await.unwrap();

    append(&world.store, 100).await; // far beyond the published position, so that positions alone do not show the copy
    let app = world.app().await;
    let error = app.published(world.head().await).await.unwrap_err();
    let PublishedError::Relay(RelayError::StoreBehindBus { fork, .. }) = error else { panic!("{error}") };
    assert_eq!((fork, world.published().await), (backed_up, before.clone()));

    assert_eq!(app.republish(None).await.unwrap(), backed_up);
    world.until_published(world.head().await).await;
    let stored = world.stored().await;
    let again: Vec<_> = world.published().await.split_off(before.len());
    assert_eq!(again, stored[20..]);
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}

/// An effect in the database of the store, which counts how often an event took effect.
#[handler(manual)]
async fn take_effect(event: &RecordedEvent, connection: &mut PgConnection) -> Result<(), HandlerError> {
    const EFFECT: &str =
        "INSERT INTO effects AS e VALUES ($1, 1) ON CONFLICT (event_id) DO UPDATE SET times = e.times + 1";
    let effect = sqlx::query(EFFECT).bind(event.metadata().event_id().to_string());
    effect.execute(connection).await?;
    Ok(())
}

/// The ids of the events that state in memory has folded.
#[derive(Debug, Default)]
struct Folded(Vec<String>);

#[projection(name = "folded", manual)]
impl Folded {
    fn fold(&mut self, event: &RecordedEvent) {
        self.0.push(event.metadata().event_id().to_string());
    }
}

/// Ends all sessions of a database, and runs statements before there are new ones.
async fn between_sessions(name: &str, statements: &[String]) {
    administer(format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
    administer(format!(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()"
    ))
    .await;
    for statement in statements {
        administer(statement.clone()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn effects_and_progress_stay_of_one_moment_when_an_older_database_takes_over_under_a_running_app() {
    // fewer events than were lost, and more
    for later in [10, 60] {
        let (name, url) = database().await;
        let mut world = World::on(url).await;
        let mut admin = <sqlx::PgConnection as sqlx::Connection>::connect(&world.database).await.unwrap();
        let table = "CREATE TABLE effects (event_id text PRIMARY KEY, times bigint NOT NULL)";
        sqlx::query(table).execute(&mut admin).await.unwrap();
        drop(admin);
        let app = builder(&world.database, world.redis.url()).await;
        let app = app.handler::<take_effect>().projection_with(Folded::default).start().await.unwrap();
        append(&world.store, 20).await;
        app.settled().await.unwrap();
        let backed_up = world.head().await;

        let copy = format!("{name}_copy");
        let allow = |name: &str| format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true");
        between_sessions(&name, &[format!("CREATE DATABASE {copy} TEMPLATE {name}"), allow(&name)]).await;
        until("it answers again", async || world.store.head().await.is_ok()).await;
        append(&world.store, 30).await;
        app.settled().await.unwrap();
        let before = world.published().await;
        assert_eq!(before.len(), 50);

        // the copy replaces the original under its name, while the app runs on
        let rename = |from: &str, to: &str| format!("ALTER DATABASE {from} RENAME TO {to}");
        let swap = [rename(&name, &format!("{name}_lost")), rename(&copy, &name), allow(&name)];
        between_sessions(&name, &swap).await;
        until("the copy answers", async || matches!(world.store.head().await, Ok(head) if head == backed_up)).await;
        append(&world.store, later).await;

        let mut admin = <sqlx::PgConnection as sqlx::Connection>::connect(&world.database).await.unwrap();
        let mut effects: (i64, i64) = (0, 0);
        let wanted = i64::try_from(20 + later).unwrap();
        until("all stored events took effect", async || {
            let counts = "SELECT count(*), sum(times)::bigint FROM effects f
                JOIN eventbus.events e ON e.event_id::text = f.event_id";
            effects = sqlx::query_as(counts).fetch_one(&mut admin).await.unwrap();
            effects.0 == wanted
        })
        .await;
        let all: (i64, i64) =
            sqlx::query_as("SELECT count(*), sum(times)::bigint FROM effects").fetch_one(&mut admin).await.unwrap();
        assert_eq!((effects, all), ((wanted, wanted), (wanted, wanted)), "no lost event has an effect");

        until("the relay stops", async || app.relay_status().await.unwrap().stopped.is_some()).await;
        let Some(RelayError::StoreBehindBus { fork, .. }) = app.relay_status().await.unwrap().stopped else { panic!() };
        assert_eq!((fork, world.published().await), (backed_up, before.clone()));

        let ids: Vec<(String,)> = sqlx::query_as("SELECT event_id::text FROM eventbus.events ORDER BY position")
            .fetch_all(&mut admin)
            .await
            .unwrap();
        let ids: Vec<String> = ids.into_iter().map(|id| id.0).collect();
        until("the state is folded anew", async || {
            let is_folded = app.projected::<Folded>(world.head().await).await.is_ok_and(|folded| folded.0 == ids);
            is_folded && app.health().await.is_ready()
        })
        .await;

        assert_eq!(app.republish(None).await.unwrap(), backed_up);
        until("the later events are published", async || world.published().await.len() >= before.len() + later).await;
        assert_eq!(world.published().await.split_off(before.len()), world.stored().await[20..]);
        app.shutdown(Duration::from_secs(10)).await.unwrap();
        administer(format!("DROP DATABASE {name}_lost WITH (FORCE)")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_back_while_the_relay_is_at_rest_stops_it() {
    let mut world = World::begin().await;
    append(&world.store, 20).await;
    let app = world.app().await;
    app.published(world.head().await).await.unwrap();
    let before = world.published().await;
    let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(&world.database).await.unwrap();
    sqlx::query("DELETE FROM eventbus.events WHERE position > $1")
        .bind(i64::try_from(before[9]).unwrap())
        .execute(&mut connection)
        .await
        .unwrap();
    until("it stops", async || app.relay_status().await.unwrap().stopped.is_some()).await;
    app.republish(Position::from(before[9])).await.unwrap();
    until("it goes on", async || app.relay_status().await.unwrap().stopped.is_none()).await;
    append(&world.store, 5).await;
    world.until_published(world.head().await).await;
    assert_eq!(world.published().await[20..], world.stored().await[10..]);
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_database_beside_the_stream_of_a_former_one_is_refused_and_may_share_it() {
    let mut world = World::begin().await;
    append(&world.store, 5).await;
    let former = world.app().await;
    former.published(world.head().await).await.unwrap();
    former.shutdown(Duration::from_secs(10)).await.unwrap();
    let before = world.published().await;

    let (_, new) = database().await;
    let store = PgEventStore::connect(&new).await.unwrap();
    append(&store, 3).await;
    let head = store.head().await.unwrap();
    let error = builder(&new, world.redis.url()).await.start().await.unwrap_err();
    assert!(matches!(error.mistakes(), [StartMistake::OtherStore(RelayError::OtherStore { .. })]), "{error}");
    assert_eq!(world.published().await, before);

    let app = builder(&new, world.redis.url()).await.share_stream().start().await.unwrap();
    app.published(head).await.unwrap();
    assert_eq!(world.published().await.len(), before.len() + 3);
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}
