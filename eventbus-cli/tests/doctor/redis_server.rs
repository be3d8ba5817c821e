//! Settings and the state of a Redis server, each test with one of its own: it starts in milliseconds.

use std::{
    collections::HashMap,
    process::{Child, Command, Stdio},
};

use eventbus_cli::doctor::{Doctor, DoctorConfig, Severity::*};
use eventbus_redis::redis::{Client, RedisResult, Value, cmd};
use eventbus_test::PrivateRedis;
use tokio::net::TcpStream;

use super::common::{assert_finding, config, expect_finding, expect_findings, expect_healthy, redis, send, until};

async fn doctor(server: &PrivateRedis) -> Doctor {
    Doctor::new().config(config()).redis(redis(server.url()).await)
}

#[tokio::test]
async fn a_replica_one_that_loads_its_data_and_one_that_lags_are_found() {
    let (primary, server) = (eventbus_test::private_redis(), eventbus_test::private_redis());
    let (of_primary, of_server) = (doctor(&primary).await, doctor(&server).await);
    expect_healthy(&of_server, "redis-server").await;
    expect_finding(&of_primary, "redis-replica", Note, "no replica").await;
    let of_store = of_primary.clone().redis_store("shop");
    let found = expect_finding(&of_store, "redis-replica", Note, "no replica").await;
    assert!(found.finding.consequence.ends_with("every event since the last backup"), "{found:?}");
    let admin = redis(primary.url()).await;
    let until_replica = async |state: &str| {
        until("the primary knows that state of its replica", async || {
            let info: String = super::common::command(&admin, "INFO replication").await;
            info.contains(&format!("state={state}"))
        })
        .await;
    };
    // the primary waits for more replicas before it sends its data
    send(&admin, "CONFIG SET repl-diskless-sync-delay 3600").await;
    send(&redis(server.url()).await, &format!("REPLICAOF 127.0.0.1 {}", primary.port())).await;
    expect_finding(&of_server, "redis-server", Fault, "is a replica of 127.0.0.1").await;
    expect_healthy(&of_server, "redis-replica").await;
    until_replica("wait_bgsave").await;
    let report = expect_findings(&of_primary, "redis-replica").await;
    let loading = report.findings().iter().find(|found| found.finding.severity == Warning).unwrap();
    assert_finding(loading, "redis-replica", Warning, "a replica is not up to date: `ip=127.0.0.1");
    send(&admin, "CONFIG SET repl-diskless-sync-delay 0").await;
    until_replica("online").await;
    expect_finding(&of_primary, "redis-replica", Note, "before a replica has them").await;
    expect_finding(&of_store, "redis-replica", Warning, "before a replica has them").await;
    send(&admin, "CONFIG SET min-replicas-to-write 1").await;
    until("the replica counts", async || {
        let report = of_primary.clone().only(["redis-replica"]).unwrap().run().await;
        report.healthy() == ["redis-replica"]
    })
    .await;
    send(&admin, "CONFIG SET min-replicas-to-write 2").await;
    expect_finding(&of_primary, "redis-replica", Fault, "`min-replicas-to-write` is 2, and 1").await;
    send(&admin, "CONFIG SET min-replicas-to-write 1").await;
    expect_healthy(&of_primary, "redis-replica").await;
    // it still has its connection
    send(&admin, "CONFIG SET min-replicas-max-lag 1").await;
    server.pause();
    let only = of_primary.clone().only(["redis-replica"]).unwrap();
    until("it lags", async || only.run().await.worst() == Some(Fault)).await;
    expect_finding(&of_primary, "redis-replica", Fault, "`min-replicas-to-write` is 1, and 0").await;
    server.resume();
}

#[tokio::test]
async fn a_policy_that_evicts_streams_and_evicted_keys_are_found() {
    let server = eventbus_test::private_redis();
    let (doctor, admin) = (doctor(&server).await, redis(server.url()).await);
    expect_healthy(&doctor, "redis-eviction").await;
    send(&admin, "CONFIG SET maxmemory-policy volatile-lru").await;
    expect_finding(&doctor, "redis-eviction", Note, "`volatile-lru`").await;
    send(&admin, "CONFIG SET maxmemory-policy allkeys-lru").await;
    let found = expect_finding(&doctor, "redis-eviction", Fault, "`allkeys-lru`").await;
    assert_eq!(found.finding.observed["policy"], "allkeys-lru");
    let memory: String = super::common::command(&admin, "INFO memory").await;
    let used = memory.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    let used: u64 = used.trim().parse().unwrap();
    send(&admin, &format!("CONFIG SET maxmemory {}", used + 300_000)).await;
    let value = "x".repeat(30_000);
    for number in 0..40 {
        // refused, if no key is left to evict
        let _: RedisResult<Value> =
            cmd("XADD").arg((format!("stream:{number}"), "*", "field", &value)).query_async(&mut admin.clone()).await;
    }
    send(&admin, "CONFIG SET maxmemory 0").await;
    send(&admin, "CONFIG SET maxmemory-policy noeviction").await;
    expect_finding(&doctor, "redis-eviction", Warning, "keys since it started").await;
    let found = expect_finding(&doctor.redis_store("shop"), "redis-eviction", Fault, "keys since it started").await;
    assert!(found.finding.consequence.starts_with("stored events may be among them"), "{found:?}");
}

#[tokio::test]
async fn memory_that_is_nearly_full_is_found() {
    let server = eventbus_test::private_redis();
    let (doctor, admin) = (doctor(&server).await, redis(server.url()).await);
    expect_finding(&doctor, "redis-memory", Note, "`maxmemory` is not set").await;
    send(&admin, "CONFIG SET maxmemory 1gb").await;
    expect_healthy(&doctor, "redis-memory").await;
    send(&admin, "CONFIG SET maxmemory 1mb").await;
    let of_bus = expect_finding(&doctor, "redis-memory", Warning, "of 1 MiB of memory").await;
    assert!(of_bus.finding.repair.starts_with("trim the streams"), "{of_bus:?}");
    let of_store = expect_finding(&doctor.redis_store("shop"), "redis-memory", Warning, "of 1 MiB of memory").await;
    assert!(of_store.finding.repair.starts_with("raise `maxmemory`"), "{of_store:?}");
}

#[tokio::test]
async fn a_missing_append_only_file_is_found_and_worse_for_a_store() {
    let server = eventbus_test::private_redis();
    let (doctor, admin) = (doctor(&server).await, redis(server.url()).await);
    let of_store = doctor.clone().redis_store("shop");
    send(&admin, "CONFIG SET appendfsync always").await;
    expect_healthy(&doctor, "redis-aof").await;
    expect_healthy(&of_store, "redis-aof").await;
    send(&admin, "CONFIG SET appendfsync everysec").await;
    expect_finding(&doctor, "redis-aof", Note, "about a second").await;
    expect_finding(&of_store, "redis-aof", Warning, "about a second").await;
    send(&admin, "CONFIG SET appendonly no").await;
    expect_finding(&doctor, "redis-aof", Warning, "no append-only file").await;
    expect_finding(&of_store, "redis-aof", Fault, "no append-only file").await;
}

/// A Redis server that may not write files of more than a hundred kilobytes, which stands for a full disk.
struct LimitedRedis {
    process: Child,
    _folder: tempfile::TempDir,
    url: String,
}

impl LimitedRedis {
    async fn start() -> Self {
        // without the signal, which would end the process, the write fails
        const LIMITED: &str = "trap '' XFSZ; ulimit -f 200; exec redis-server \"$@\"";
        let folder = tempfile::tempdir().unwrap();
        let port = eventbus_test::internal::closed_port();
        let mut command = Command::new("sh");
        command.args(["-c", LIMITED, "redis-server", "--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", "everysec", "--dir"]).arg(folder.path());
        let process = command.stdout(Stdio::null()).spawn().unwrap();
        let server = Self { process, _folder: folder, url: format!("redis://127.0.0.1:{port}") };
        until("Redis listens", async || TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
        server
    }
}

impl Drop for LimitedRedis {
    fn drop(&mut self) {
        let ended = self.process.kill().and_then(|()| self.process.wait());
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

#[tokio::test]
async fn an_append_only_file_that_cannot_be_written_is_found() {
    let server = LimitedRedis::start().await;
    let admin = redis(&server.url).await;
    let doctor = Doctor::new().config(config()).redis(admin.clone());
    expect_finding(&doctor, "redis-aof", Note, "about a second").await;
    let value = "x".repeat(300_000);
    // the write of the file comes after it, or fails it
    let _: RedisResult<Value> = cmd("SET").arg(("key", &value)).query_async(&mut admin.clone()).await;
    let only = doctor.only(["redis-aof"]).unwrap();
    until("the write has failed", async || only.run().await.worst() == Some(Fault)).await;
    let report = only.run().await;
    assert!(report.findings()[0].finding.finding.contains("the last write of the append-only file failed"), "{report}");
}

#[tokio::test]
async fn a_snapshot_that_failed_is_found() {
    let server = eventbus_test::private_redis_with(&["--enable-protected-configs", "local"]);
    let (doctor, admin) = (doctor(&server).await, redis(server.url()).await);
    expect_healthy(&doctor, "redis-snapshot").await;
    let folder = tempfile::tempdir().unwrap();
    send(&admin, &format!("CONFIG SET dir {}", folder.path().display())).await;
    folder.close().unwrap();
    send(&admin, "BGSAVE").await;
    let only = doctor.clone().only(["redis-snapshot"]).unwrap();
    until("it has failed", async || !only.run().await.findings().is_empty()).await;
    expect_finding(&doctor, "redis-snapshot", Warning, "`rdb_last_bgsave_status` is `err`").await;
}

#[tokio::test]
async fn connections_that_are_used_up_are_found() {
    let server = eventbus_test::private_redis();
    let (doctor, admin) = (doctor(&server).await, redis(server.url()).await);
    expect_healthy(&doctor, "redis-connections").await;
    send(&admin, "CONFIG SET maxclients 3").await;
    // the server may count one that has just closed its connection, such as the one that waited for its start
    let (client, mut third) = (Client::open(server.url()).unwrap(), None);
    until("the server accepts a third connection", async || {
        third = client.get_multiplexed_async_connection().await.ok();
        third.is_some()
    })
    .await;
    expect_finding(&doctor, "redis-connections", Warning, "3 of 3 connections").await;
    let lenient = doctor.config(DoctorConfig { connections_share: 1.0, ..config() });
    expect_healthy(&lenient, "redis-connections").await;
}

/// Managed servers hide CONFIG.
#[tokio::test]
async fn settings_that_the_server_hides_are_not_healthy() {
    let server = eventbus_test::private_redis();
    let admin = redis(server.url()).await;
    send(&admin, "ACL SETUSER tenant on >secret ~* +@all -config").await;
    let url = server.url().replace("redis://", "redis://tenant:secret@");
    let doctor = Doctor::new().config(config()).redis(redis(&url).await);
    let report = doctor.run().await;
    let reasons: HashMap<_, _> =
        report.not_checked().iter().map(|not_checked| (not_checked.check, not_checked.reason.as_str())).collect();
    assert!(reasons["redis-aof"].contains("`appendfsync`"), "{report}");
    assert!(reasons["redis-exposed"].contains("does not show its setting"), "{report}");
    assert!(reasons["redis-disk"].starts_with("the user lacks a right"), "{report}");
    assert!(report.healthy().contains(&"redis-eviction"), "INFO shows the policy: {report}");
}
