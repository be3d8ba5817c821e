//! What a store on Redis holds.

use std::time::Duration;

use eventbus::{
    ExpectedVersion, Name, NewEvent, Position, StreamId,
    clock::SharedClock,
    port::{Checkpoints as _, Leases as _},
    store::AppendEvents as _,
    testkit::ManualClock,
};
use eventbus_cli::doctor::{CheckFinding, Doctor, DoctorConfig, Severity::*};
use eventbus_redis::redis::aio::MultiplexedConnection;
use eventstore_redis::{RedisEventStore, RedisEventStoreConfig};

use super::{
    common::{append, config, expect_finding, expect_healthy, redis, send},
    filling::add_dead_letters,
};

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// A store on the Redis server that tests share, with three events in two streams that are three days old.
struct Store {
    server: eventbus_test::Redis,
    admin: MultiplexedConnection,
    clock: ManualClock,
    store: RedisEventStore,
}

impl Store {
    async fn new() -> Self {
        let server = eventbus_test::redis();
        let clock = ManualClock::at(SharedClock::SYSTEM.now() - 3 * DAY);
        let of_store = RedisEventStoreConfig {
            redis_url: server.url().into(),
            key_prefix: server.prefix().into(),
            clock: SharedClock::new(clock.clone()),
            ..Default::default()
        };
        let store = RedisEventStore::connect(of_store).await.unwrap();
        append(&store, "ada", 2).await;
        append(&store, "bob", 1).await;
        Self { admin: redis(server.url()).await, server, clock, store }
    }

    fn doctor(&self) -> Doctor {
        self.doctor_of(self.store.config().clone())
    }

    fn doctor_of(&self, of_store: RedisEventStoreConfig) -> Doctor {
        Doctor::new().config(config()).redis(self.admin.clone()).redis_store_with(of_store)
    }

    /// Runs a command, in which `$` is the prefix of the keys.
    async fn send(&self, text: &str) {
        send(&self.admin, &text.replace('$', self.server.prefix())).await;
    }

    async fn save_checkpoint(&self, name: &'static str, position: u64) {
        self.store.save_checkpoint(&Name::from_static(name), Position::new(position)).await.unwrap();
    }

    /// Makes a lease that is held, or one that ended two days ago.
    async fn lease(&self, role: &'static str, is_held: bool) {
        let name = Name::from_static(role);
        assert!(self.store.acquire_lease(&name, &Name::from_static("vm:1"), DAY).await.unwrap().is_some());
        if !is_held {
            let ended = SharedClock::SYSTEM.now() - 2 * DAY;
            self.send(&format!("HSET $:eventstore:lease:{role} expires_at {}000", ended.unix_timestamp())).await;
        }
    }
}

#[tokio::test]
async fn missing_events_are_found() {
    let store = Store::new().await;
    expect_healthy(&store.doctor(), "redis-store-missing-events-all").await;
    store.send("XDEL $:aggregate:Account:ada 1-0").await;
    let missing = "event 1 of stream `Account/ada` is missing";
    expect_finding(&store.doctor(), "redis-store-missing-events-all", Fault, missing).await;
    // it reads the whole feed
    let report = store.doctor().run().await;
    assert!(report.skipped().iter().any(|skipped| skipped.check == "redis-store-missing-events-all"), "{report}");
    // the feed itself lacks one
    let store = Store::new().await;
    store.send("XDEL $:aggregate:feed 2-0").await;
    expect_finding(&store.doctor(), "redis-store-missing-events-all", Fault, "entry 2-0 is missing").await;
}

#[tokio::test]
async fn a_reader_that_is_ahead_of_the_store_is_found() {
    let store = Store::new().await;
    // neither a move from a different store nor a relay that stopped on purpose is such a reader
    for name in ["import:7b3e", "relay-halted:bus"] {
        store.save_checkpoint(name, 999).await;
    }
    store.save_checkpoint("relay:redis:orders", 3).await;
    expect_healthy(&store.doctor(), "redis-store-checkpoint-ahead").await;
    // for `redis-cli`
    let repair = async |found: CheckFinding| {
        send(&store.admin, found.finding.repair.split_once("to the head: ").unwrap().1).await;
    };
    store.save_checkpoint("projection:rows", 999).await;
    let text = "`projection:rows` is at position 999";
    repair(expect_finding(&store.doctor(), "redis-store-checkpoint-ahead", Fault, text).await).await;
    expect_healthy(&store.doctor(), "redis-store-checkpoint-ahead").await;
    let rows = store.store.load_checkpoint(&Name::from_static("projection:rows")).await.unwrap();
    assert_eq!(rows, Some(Position::new(3)));
}

#[tokio::test]
async fn a_role_without_an_owner_is_found_while_events_are_added() {
    let store = Store::new().await;
    // of a command that has ended
    store.lease("rebuild:rows", false).await;
    store.lease("relay:memory", false).await;
    // the whole application rests since
    expect_healthy(&store.doctor(), "redis-store-abandoned-role").await;
    store.clock.advance(3 * DAY);
    append(&store.store, "ada", 1).await;
    let text = "no process has had the role `relay:memory` for 1728";
    expect_finding(&store.doctor(), "redis-store-abandoned-role", Warning, text).await;
    store.lease("relay:memory", true).await;
    expect_healthy(&store.doctor(), "redis-store-abandoned-role").await;
    store.lease("projection:rows", false).await;
    let found = expect_finding(&store.doctor(), "redis-store-abandoned-role", Warning, "`projection:rows`").await;
    assert!(found.finding.repair.ends_with("`eventbus projections retire`"), "{found:?}");
    // the command had it last
    store.send("HSET $:eventstore:lease:projection:rows owner retired").await;
    expect_healthy(&store.doctor(), "redis-store-abandoned-role").await;
}

#[tokio::test]
async fn event_types_that_the_program_does_not_know_are_found() {
    let store = Store::new().await;
    let knowing = |name: &str| store.doctor().known_types([(name.to_owned(), 1)]);
    expect_healthy(&knowing("Deposited"), "redis-store-event-types").await;
    let text = "does not know are stored: `Deposited`";
    expect_finding(&knowing("Closed"), "redis-store-event-types", Warning, text).await;
    let newer = NewEvent::new(Name::from_static("Deposited"), 3, r#"{"cents":120}"#);
    let stream = StreamId::parse("Account", "ada").unwrap();
    store.store.append(&stream, ExpectedVersion::Any, vec![newer]).await.unwrap();
    let text = "newer schema versions";
    let found = expect_finding(&knowing("Deposited"), "redis-store-event-types", Warning, text).await;
    assert_eq!(found.finding.observed["types"][0]["stored_version"], 3);
}

#[tokio::test]
async fn a_dead_letter_that_the_inbox_has_forgotten_is_found() {
    let store = Store::new().await;
    let give_up = async |handler: &'static str, age: Duration| {
        add_dead_letters(&store.store, handler, [(Position::new(1), SharedClock::SYSTEM.now() - age)]).await;
    };
    give_up("mail", DAY).await;
    expect_healthy(&store.doctor(), "redis-store-dead-letter-age").await;
    give_up("post", 31 * DAY).await;
    let text = "31 days old, and the inbox remembers 30 days";
    expect_finding(&store.doctor(), "redis-store-dead-letter-age", Warning, text).await;
    let longer = DoctorConfig { inbox_retention: 90 * DAY, ..config() };
    expect_healthy(&store.doctor().config(longer), "redis-store-dead-letter-age").await;
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_is_not_healthy_and_not_created() {
    let store = Store::new().await;
    let key_prefix = format!("{}-none", store.server.prefix());
    let of_none = RedisEventStoreConfig { key_prefix, ..store.store.config().clone() };
    for (doctor, reason) in [
        (store.doctor_of(of_none), "holds no event store with that prefix"),
        (Doctor::new().redis(store.admin.clone()).redis_store(store.server.prefix()), "only the prefix was given"),
    ] {
        // the second run would find a store that the first one made
        for _ in 0..2 {
            let report = doctor.clone().only(["redis-store-checkpoint-ahead"]).unwrap().run().await;
            assert!(report.not_checked()[0].reason.contains(reason), "{report}");
        }
    }
}
