//! Groups of a bus, and its dead letters.

use std::time::Duration;

use eventbus_cli::doctor::{Doctor, DoctorConfig, Severity::*};
use eventbus_redis::{RedisEventBusConfig, redis::aio::MultiplexedConnection};

use super::common::{command, config, expect_finding, expect_healthy, redis, send};

/// A bus on the server that tests share.
struct Bus {
    redis: eventbus_test::Redis,
    admin: MultiplexedConnection,
}

impl Bus {
    async fn new() -> Self {
        let redis = eventbus_test::redis();
        let admin = super::common::redis(redis.url()).await;
        Self { redis, admin }
    }

    fn config(&self) -> RedisEventBusConfig {
        super::common::bus(self.redis.url(), self.redis.prefix())
    }

    fn doctor(&self) -> Doctor {
        Doctor::new().config(config()).redis(self.admin.clone()).bus(self.config())
    }

    fn doctor_with(&self, config: DoctorConfig) -> Doctor {
        self.doctor().config(config)
    }

    /// Runs a command, in which `$S` is the stream and `$H` the beginning of the names of hashes.
    async fn send(&self, text: &str) {
        let stream = format!("{}:stream", self.redis.prefix());
        send(&self.admin, &text.replace("$H", &format!("{{{stream}}}")).replace("$S", &stream)).await;
    }

    async fn now(&self) -> u64 {
        let (seconds, _): (u64, u64) = command(&self.admin, "TIME").await;
        seconds * 1_000
    }
}

#[tokio::test]
async fn a_prefix_without_a_bus_is_found() {
    let bus = Bus::new().await;
    let prefix = format!("the server holds no bus with the prefix `{}`", bus.redis.prefix());
    expect_finding(&bus.doctor(), "bus-missing", Warning, &prefix).await;
    bus.send("xadd $S * type A").await;
    expect_healthy(&bus.doctor(), "bus-missing").await;
}

#[tokio::test]
async fn a_group_with_waiting_entries_and_no_consumer_is_found() {
    let bus = Bus::new().await;
    expect_healthy(&bus.doctor(), "group-unattended").await;
    bus.send("xadd $S 1-0 type A").await;
    bus.send("xadd $S * type A").await;
    bus.send("xgroup create $S mail 0").await;
    let found =
        expect_finding(&bus.doctor(), "group-unattended", Warning, "has no live consumer: 0 entries pending, 2").await;
    assert_eq!(found.finding.observed["group"], "mail");
    // a member shows life
    let now = bus.now().await;
    bus.send(&format!(r#"hset $H:members:mail one {{"at":{now},"live_ms":60000}}"#)).await;
    expect_healthy(&bus.doctor(), "group-unattended").await;
    bus.send(&format!(r#"hset $H:members:mail one {{"at":{now},"live_ms":60000,"left":true}}"#)).await;
    expect_finding(&bus.doctor(), "group-unattended", Warning, "`mail`").await;
    bus.send("hdel $H:members:mail one").await;
    // the old entry is finished, and the new one waits for a moment only
    bus.send("xgroup setid $S mail 1-0").await;
    expect_healthy(&bus.doctor(), "group-unattended").await;
    let strict = bus.doctor_with(DoctorConfig { idle_group: Duration::ZERO, ..config() });
    expect_finding(&strict, "group-unattended", Warning, "`mail`").await;
}

/// Names of groups and consumers are those of any program.
#[tokio::test]
async fn a_name_does_not_write_to_the_terminal() {
    let bus = Bus::new().await;
    bus.send("xadd $S 1-0 type A").await;
    bus.send("xgroup create $S mail\u{1b}[2J 0").await;
    let report = bus.doctor().run().await;
    assert!(report.findings().iter().any(|found| found.finding.finding.contains("mail\u{1b}")), "{report:?}");
    assert!(report.to_string().contains(r"`mail\u{1b}[2J`"), "{report}");
}

#[tokio::test]
async fn the_group_that_holds_trimming_is_found() {
    let bus = Bus::new().await;
    for id in ["1-0", "2-0", "3-0"] {
        bus.send(&format!("xadd $S {id} type A")).await;
    }
    bus.send("xgroup create $S fast 3-0").await;
    expect_healthy(&bus.doctor(), "group-holds-trim").await;
    bus.send("xgroup create $S slower 1-0").await;
    bus.send("xgroup create $S slow 0").await;
    bus.send("xreadgroup GROUP slow one COUNT 2 STREAMS $S >").await;
    bus.send("xack $S slow 2-0").await;
    let found = expect_finding(&bus.doctor(), "group-holds-trim", Warning, "the group `slow` keeps").await;
    assert_eq!(found.finding.observed["oldest"], "1-0");
    bus.send("xack $S slow 1-0").await;
    let found = expect_finding(&bus.doctor(), "group-holds-trim", Warning, "the group `slower` keeps").await;
    assert_eq!(found.finding.observed["oldest"], "2-0");
}

#[tokio::test]
async fn entries_that_were_trimmed_unread_are_found() {
    let bus = Bus::new().await;
    for id in ["1-0", "2-0", "3-0"] {
        bus.send(&format!("xadd $S {id} type A")).await;
    }
    bus.send("xgroup create $S mail 0").await;
    bus.send("xreadgroup GROUP mail one COUNT 1 STREAMS $S >").await;
    bus.send("xtrim $S MAXLEN 2").await;
    expect_healthy(&bus.doctor(), "group-lost-entries").await;
    bus.send("xtrim $S MAXLEN 1").await;
    let found = expect_finding(&bus.doctor(), "group-lost-entries", Fault, "1 entries of").await;
    assert_eq!(found.finding.observed["lost"], 1);
    // which the group may have had to read
    bus.send("xdel $S 3-0").await;
    expect_unknown(&bus, "the entry 3-0 was deleted by its id").await;
}

/// Fails unless the doctor cannot find out whether a group has lost entries, for that reason.
async fn expect_unknown(bus: &Bus, reason: &str) {
    let report = bus.doctor().only(["group-lost-entries"]).unwrap().run().await;
    let [not_checked] = report.not_checked() else { panic!("{report}") };
    assert!(not_checked.reason.contains(reason), "{report}");
}

/// Such an entry stays in the counts of the server for ever.
#[tokio::test]
async fn a_group_loses_no_entry_that_was_deleted_by_its_id_after_the_group_had_read_it() {
    let bus = Bus::new().await;
    for id in ["1-0", "2-0", "3-0", "4-0"] {
        bus.send(&format!("xadd $S {id} type A")).await;
    }
    bus.send("xgroup create $S mail 0").await;
    bus.send("xreadgroup GROUP mail one COUNT 3 STREAMS $S >").await;
    bus.send("xdel $S 2-0").await;
    expect_healthy(&bus.doctor(), "group-lost-entries").await;
    // before the only entry that is left
    bus.send("xtrim $S MAXLEN 1").await;
    expect_healthy(&bus.doctor(), "group-lost-entries").await;
    for id in ["5-0", "6-0"] {
        bus.send(&format!("xadd $S {id} type A")).await;
    }
    bus.send("xtrim $S MAXLEN 1").await;
    expect_finding(&bus.doctor(), "group-lost-entries", Fault, "2 entries of").await;
    bus.send("xreadgroup GROUP mail one COUNT 9 STREAMS $S >").await;
    expect_healthy(&bus.doctor(), "group-lost-entries").await;
}

/// The server does not know how many entries it has read.
#[tokio::test]
async fn a_group_that_begins_at_the_end_of_a_trimmed_stream_has_lost_none() {
    let bus = Bus::new().await;
    for id in ["1-0", "2-0", "3-0"] {
        bus.send(&format!("xadd $S {id} type A")).await;
    }
    bus.send("xtrim $S MAXLEN 1").await;
    bus.send("xgroup create $S mail $").await;
    expect_healthy(&bus.doctor(), "group-lost-entries").await;
    bus.send("xadd $S 4-0 type A").await;
    expect_healthy(&bus.doctor(), "group-lost-entries").await;
    bus.send("xtrim $S MAXLEN 1").await;
    expect_unknown(&bus, "does not know how many entries").await;
    bus.send("xreadgroup GROUP mail one COUNT 9 STREAMS $S >").await;
    expect_healthy(&bus.doctor(), "group-lost-entries").await;
    // of a stream without an entry
    bus.send("xtrim $S MAXLEN 0").await;
    bus.send("xgroup create $S audit $").await;
    expect_healthy(&bus.doctor(), "group-lost-entries").await;
}

#[tokio::test]
async fn dead_letters_are_noted_and_old_ones_found() {
    let bus = Bus::new().await;
    bus.send("xadd $S 1-0 type A").await;
    expect_healthy(&bus.doctor(), "redis-dead-letters").await;
    bus.send("xadd $S_dlq * type A").await;
    expect_finding(&bus.doctor(), "redis-dead-letters", Note, "there is 1 dead letter").await;
    bus.send("xadd $S_dlq * type A").await;
    expect_finding(&bus.doctor(), "redis-dead-letters", Note, "there are 2 dead letters").await;
    expect_healthy(&bus.doctor(), "redis-dead-letter-age").await;
    let strict = bus.doctor_with(DoctorConfig { inbox_retention: Duration::ZERO, ..config() });
    bus.send("del $S_dlq").await;
    bus.send("xadd $S_dlq 1-0 type A").await;
    expect_finding(&strict, "redis-dead-letter-age", Warning, "the inbox remembers 0 days").await;
    expect_finding(&bus.doctor(), "redis-dead-letter-age", Warning, "the inbox remembers 30 days").await;
    bus.send("del $S_dlq").await;
    bus.send("xadd $S_dead 1-0 type A").await;
    let of_suffix = bus.doctor().bus(RedisEventBusConfig { dlq_stream_suffix: "_dead".into(), ..bus.config() });
    expect_finding(&of_suffix, "redis-dead-letter-age", Warning, "the inbox remembers 30 days").await;
}

#[tokio::test]
async fn keys_of_a_newer_release_are_found() {
    let bus = Bus::new().await;
    bus.send("hset $H:meta format 1 min_reader 1").await;
    expect_healthy(&bus.doctor(), "redis-format").await;
    bus.send("hset $H:meta format 2").await;
    expect_finding(&bus.doctor(), "redis-format", Warning, "format 2, readable from 1 on; this release knows 1").await;
    bus.send("hset $H:meta min_reader 2").await;
    expect_finding(&bus.doctor(), "redis-format", Fault, "format 2, readable from 2 on").await;
    bus.send("hset $H:meta format x").await;
    expect_finding(&bus.doctor(), "redis-format", Fault, "names no format").await;
}

#[tokio::test]
async fn keys_of_a_store_of_a_newer_release_are_found() {
    let server = eventbus_test::redis();
    let admin = redis(server.url()).await;
    let config = eventstore_redis::RedisEventStoreConfig {
        redis_url: server.url().into(),
        key_prefix: server.prefix().into(),
        ..Default::default()
    };
    let doctor = Doctor::new().redis(admin.clone()).redis_store(server.prefix());
    let without = format!("the server holds no store with the prefix `{}`", server.prefix());
    expect_finding(&doctor, "redis-store-format", Fault, &without).await;
    let store = eventstore_redis::RedisEventStore::connect(config).await.unwrap();
    expect_healthy(&doctor, "redis-store-format").await;
    send(&admin, &format!("HSET {}:eventstore:meta format 7 min_reader 7", server.prefix())).await;
    expect_finding(&doctor, "redis-store-format", Fault, "format 7").await;
    drop(store);
}
