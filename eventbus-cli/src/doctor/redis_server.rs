//! Checks of the settings and the state of a Redis server.

use std::{collections::HashMap, path::Path};

use eventbus_redis::redis::{Value, cmd};
use serde_json::json;

use super::{
    disk::check_free_space,
    finding::{Finding, Severity},
    outcome::{CheckError, DISK_ELSEWHERE, Outcome},
    postgres_server::compare_clocks,
    redis_target::{number, share},
    subjects::Subjects,
};

const MAJOR_VERSION_MIN: u64 = 7;

pub(crate) async fn check_server(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let target = on.redis()?;
    let (server, replication) = (target.info("server").await?, target.info("replication").await?);
    let version = server.get("redis_version").cloned().unwrap_or_default();
    let major = version.split('.').next().and_then(|major| major.parse::<u64>().ok());
    let mut outcome = Outcome::healthy();
    if major.is_some_and(|major| major < MAJOR_VERSION_MIN) {
        let found = format!("the server is Redis {version}");
        let fault =
            Finding::fault(found, "commands of bus and store fail there", "upgrade the server to Redis 7.0 or newer");
        outcome.add(fault.observed(json!({ "version": version })));
    }
    if replication.get("role").is_some_and(|role| role == "slave") {
        let primary = replication.get("master_host").cloned().unwrap_or_default();
        let link = replication.get("master_link_status").cloned().unwrap_or_default();
        let found = format!("the server is a replica of {primary} (link {link})");
        let consequence = match target.keeps_events() {
            true => "it refuses every write: no save succeeds",
            false => "it refuses every write: nothing is published, and no entry is acknowledged",
        };
        let fault = Finding::fault(found, consequence, "connect to the primary; after a failover, to the new one");
        outcome.add(fault.observed(json!({ "primary": primary, "link": link })));
    }
    Ok(outcome)
}

pub(crate) async fn check_eviction(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let target = on.redis()?;
    const CONSEQUENCE: &str = "when memory is full the server removes streams whole, with every entry and group";
    const REPAIR: &str = "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf";
    let (memory, stats) = (target.info("memory").await?, target.info("stats").await?);
    let mut outcome = Outcome::healthy();
    let policy = match memory.get("maxmemory_policy") {
        Some(policy) => Some(policy.clone()),
        None => target.setting("maxmemory-policy", &mut outcome).await?,
    };
    if let Some(policy) = policy.filter(|policy| policy != "noeviction") {
        // evicts only keys with an expiry: no stream has one
        let severity = if policy.starts_with("volatile") { Severity::Note } else { Severity::Fault };
        let found = format!("`maxmemory-policy` is `{policy}`");
        let consequence = match severity {
            Severity::Note => "when memory is full the server removes keys with an expiry; the bus's streams have none",
            _ => CONSEQUENCE,
        };
        outcome.add(Finding::new(severity, found, consequence, REPAIR).observed(json!({ "policy": policy })));
    }
    if let Some(evicted) = number(&stats, "evicted_keys").filter(|evicted| *evicted > 0) {
        let found = format!("the server has evicted {evicted} keys since it started");
        let finding = match target.keeps_events() {
            true => Finding::fault(
                found,
                "stored events may be among them, and nothing brings these back",
                "search with `eventbus doctor --only redis-store-missing-events-all`; give the server more memory",
            ),
            false => Finding::warning(
                found,
                "streams of the bus may be among them; the relay publishes its events again, others are lost",
                "compare dead letters and groups with what you expect; give the server more memory",
            ),
        };
        outcome.add(finding.observed(json!({ "evicted_keys": evicted })));
    }
    Ok(outcome)
}

pub(crate) async fn check_memory(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let (target, config) = (on.redis()?, on.config);
    let memory = target.info("memory").await?;
    let (used, most) = (number(&memory, "used_memory").unwrap_or_default(), number(&memory, "maxmemory"));
    let finding = match most {
        None => return Err(CheckError::Other("the server does not show its limit of memory".into())),
        Some(0) => Finding::note(
            "`maxmemory` is not set",
            "the system ends the server when the machine's memory is full, instead of refusing writes",
            "CONFIG SET maxmemory to about three quarters of the machine's memory, with `noeviction`",
        ),
        Some(most) if share(used, most) > config.redis_memory_share => {
            let found = format!("{} of {} MiB of memory are in use", used >> 20, most >> 20);
            match target.keeps_events() {
                true => Finding::warning(
                    found,
                    "when memory is full the server refuses every save",
                    "raise `maxmemory`; nothing may trim the streams of a store",
                ),
                false => Finding::warning(
                    found,
                    "when memory is full the server refuses to publish: the relay stops, and handlers get no event",
                    "trim the streams (`trim_max_length`), retire groups that hold them, or raise `maxmemory`",
                ),
            }
        }
        Some(_) => return Ok(Outcome::healthy()),
    };
    Ok(Some(finding.observed(json!({ "used_bytes": used, "maxmemory_bytes": most }))).into())
}

pub(crate) async fn check_append_only_file(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let target = on.redis()?;
    let info = target.info("persistence").await?;
    let mut outcome = Outcome::healthy();
    // only the store has its events; a bus gets them again from its relay
    let severity = if target.keeps_events() { Severity::Fault } else { Severity::Warning };
    match info.get("aof_enabled").map(String::as_str) {
        None => return Err(CheckError::Other("the server does not show whether it has an append-only file".into())),
        Some("0") => {
            let consequence = match target.keeps_events() {
                true => "a crash loses every event since the last snapshot",
                false => {
                    "a crash loses every entry since the last snapshot, with groups, retries and dead letters; the \
                          relay publishes the events of its store again, so that handlers get some twice"
                }
            };
            let found = "the server has no append-only file";
            let repair = "CONFIG SET appendonly yes, and the same in redis.conf";
            outcome.add(Finding::new(severity, found, consequence, repair).observed(json!({ "appendonly": "no" })));
            return Ok(outcome);
        }
        Some(_) => {}
    }
    if let Some(status) = info.get("aof_last_write_status").filter(|status| *status != "ok") {
        let found = format!("the last write of the append-only file failed ({status})");
        let consequence = "the server refuses every write until it can write the file again";
        let repair = "free space on its disk, and read its log";
        outcome.add(Finding::fault(found, consequence, repair).observed(json!({ "aof_last_write_status": status })));
    }
    let fsync = target.setting("appendfsync", &mut outcome).await?;
    if let Some(fsync) = fsync.filter(|fsync| fsync != "always") {
        let lost = if fsync == "everysec" { "about a second" } else { "about half a minute" };
        // the default of Redis, and bearable for a bus
        let severity = if target.keeps_events() { Severity::Warning } else { Severity::Note };
        let found = format!("`appendfsync` is `{fsync}`: a crash of the machine loses {lost} of acknowledged writes");
        let consequence = match target.keeps_events() {
            true => "saves that have returned are gone",
            false => "the relay publishes the events of its store again, so that handlers get some twice",
        };
        let repair = "CONFIG SET appendfsync always, and the same in redis.conf";
        outcome.add(Finding::new(severity, found, consequence, repair).observed(json!({ "appendfsync": fsync })));
    }
    Ok(outcome)
}

pub(crate) async fn check_snapshot(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let target = on.redis()?;
    let info = target.info("persistence").await?;
    let failed = ["rdb_last_bgsave_status", "aof_last_bgrewrite_status"]
        .into_iter()
        .filter_map(|name| info.get(name).filter(|status| *status != "ok").map(|status| (name, status)));
    let finding = |(name, status): (&str, &String)| {
        let found = format!("`{name}` is `{status}`");
        let consequence = "there is no newer snapshot, the append-only file grows, and the server may refuse writes";
        let repair =
            "read the server's log: mostly its disk is full, its folder is gone, or memory is too small to fork";
        Finding::warning(found, consequence, repair).observed(json!({ "field": name, "status": status }))
    };
    Ok(failed.map(finding).collect())
}

pub(crate) async fn check_replicas(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let target = on.redis()?;
    let info = target.info("replication").await?;
    let mut outcome = Outcome::healthy();
    if info.get("role").is_none_or(|role| role != "master") {
        return Ok(outcome);
    }
    let connected = number(&info, "connected_slaves").unwrap_or_default();
    let wanted = target.setting("min-replicas-to-write", &mut outcome).await?;
    let wanted = wanted.and_then(|wanted| wanted.parse::<u64>().ok());
    // only shown if replicas are wanted
    let good = number(&info, "min_slaves_good_slaves").unwrap_or(connected);
    let observed = json!({ "connected": connected, "good": good, "min_replicas_to_write": wanted });
    if let Some(wanted) = wanted.filter(|wanted| *wanted > good) {
        let found = format!("`min-replicas-to-write` is {wanted}, and {good} replicas are connected and up to date");
        let consequence = match target.keeps_events() {
            true => "the server refuses every write with NOREPLICAS: no save succeeds",
            false => "the server refuses every write with NOREPLICAS: nothing is published",
        };
        let repair = "start the replicas, or lower `min-replicas-to-write`";
        outcome.add(Finding::fault(found, consequence, repair).observed(observed));
    } else if connected == 0 {
        let consequence = match target.keeps_events() {
            true => "if the machine or its disk is lost, so is every event since the last backup",
            false => "if the machine or its disk is lost, so are groups, retries and dead letters",
        };
        let repair = "run a replica (`replicaof`), with a failover that clients follow";
        outcome.add(Finding::note("the server has no replica", consequence, repair).observed(observed));
    } else if wanted == Some(0) {
        let consequence = "a failover loses acknowledged writes that no replica had";
        let repair = "CONFIG SET min-replicas-to-write 1, and the same in redis.conf";
        let found = "writes are acknowledged before a replica has them";
        // a bus gets the events again from its relay
        let severity = if target.keeps_events() { Severity::Warning } else { Severity::Note };
        outcome.add(Finding::new(severity, found, consequence, repair).observed(observed));
    }
    for (name, replica) in info.iter().filter(|(name, _)| is_replica(name)) {
        if !replica.contains("state=online") {
            let consequence = "a failover to it loses what it does not have";
            let found = format!("a replica is not up to date: `{replica}`");
            let repair = "read the replica's log; raise `repl-backlog-size` if it loads all data again and again";
            outcome
                .add(Finding::warning(found, consequence, repair).observed(json!({ "name": name, "state": replica })));
        }
    }
    Ok(outcome)
}

/// Returns `true` for the fields of replicas: `slave0`, `slave1` and so on.
fn is_replica(field: &str) -> bool {
    field.strip_prefix("slave").is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

pub(crate) async fn check_connections(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let (target, config) = (on.redis()?, on.config);
    let info = target.info("clients").await?;
    let (used, most) = (number(&info, "connected_clients").unwrap_or_default(), number(&info, "maxclients"));
    let most = most.ok_or_else(|| CheckError::Other("the server does not show its limit of clients".into()))?;
    if share(used, most) <= config.connections_share {
        return Ok(Outcome::healthy());
    }
    let found = format!("{used} of {most} connections are in use");
    let consequence = "the next process cannot connect, and a bus that lost its connections neither";
    let repair = "find clients that do not close theirs (CLIENT LIST), or CONFIG SET maxclients higher";
    Ok(Some(Finding::warning(found, consequence, repair).observed(json!({ "used": used, "max": most }))).into())
}

pub(crate) async fn check_clock(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let (target, config) = (on.redis()?, on.config);
    let before = config.clock.unix_millis();
    let server = target.time().await?;
    let after = config.clock.unix_millis();
    Ok(compare_clocks("Redis", before, server, after, config).into())
}

pub(crate) async fn check_disk(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let (target, config) = (on.redis()?, on.config);
    let client: String = target.query(cmd("CLIENT").arg("INFO")).await?;
    if !is_local(&client) {
        return Err(DISK_ELSEWHERE);
    }
    let folder: HashMap<String, Value> = target.query(cmd("CONFIG").arg("GET").arg("dir")).await?;
    let folder = folder.into_values().next().and_then(|folder| match folder {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    });
    let folder = folder.ok_or_else(|| CheckError::Other("the server does not show its folder".into()))?;
    check_free_space(Path::new(&folder), config)
}

/// Returns `true` if a connection, as `CLIENT INFO` shows it, is from this machine to itself.
fn is_local(client: &str) -> bool {
    let field = |name: &str| client.split_whitespace().find_map(|field| field.strip_prefix(name));
    let host = |address: &str| address.rsplit_once(':').map(|(host, _)| host.to_owned());
    match (field("addr=").and_then(host), field("laddr=").and_then(host)) {
        (Some(from), Some(to)) => from == to,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_between_two_addresses_is_not_local() {
        assert!(is_local("id=3 addr=127.0.0.1:40000 laddr=127.0.0.1:6379 fd=8"));
        assert!(is_local("id=3 addr=/run/redis.sock:0 laddr=/run/redis.sock:0 fd=8"));
        assert!(!is_local("id=3 addr=10.0.0.7:40000 laddr=10.0.0.9:6379 fd=8"));
        assert!(!is_local("id=3"));
    }

    #[test]
    fn fields_of_replicas_have_a_number() {
        assert!(is_replica("slave0") && is_replica("slave12"));
        assert!(!is_replica("slave_repl_offset") && !is_replica("slave"));
    }
}
