//! Checks of the settings and the state of a Redis server.

use std::{collections::HashMap, path::Path};

use eventbus_redis::redis::{Value, cmd};
use serde_json::json;

use super::{
    disk::check_free_space,
    outcome::{CheckError, DISK_ELSEWHERE, Outcome},
    postgres_server::compare_clocks,
    redis_target::{number, share},
    subjects::Subjects,
};

const MAJOR_VERSION_MIN: u64 = 7;

pub(crate) async fn check_server(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let target = on.redis()?;
    let (server, replication) = (target.info("server").await?, target.info("replication").await?);
    let version = server.get("redis_version").map_or("", String::as_str);
    let major = version.split('.').next().and_then(|major| major.parse::<u64>().ok());
    let mut outcome = Outcome::healthy();
    if major.is_some_and(|major| major < MAJOR_VERSION_MIN) {
        outcome.row(json!({ "_is_old": true, "version": version }));
    }
    if replication.get("role").is_some_and(|role| role == "slave") {
        let of_primary = |field: &str| replication.get(field).map_or("", String::as_str);
        let (primary, link) = (of_primary("master_host"), of_primary("master_link_status"));
        outcome.row(target.by_use(json!({ "_is_replica": true, "primary": primary, "link": link })));
    }
    Ok(outcome)
}

pub(crate) async fn check_eviction(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let target = on.redis()?;
    let (memory, stats) = (target.info("memory").await?, target.info("stats").await?);
    let mut outcome = Outcome::healthy();
    let policy = match memory.get("maxmemory_policy") {
        Some(policy) => Some(policy.clone()),
        None => target.setting("maxmemory-policy", &mut outcome).await?,
    };
    if let Some(policy) = policy.filter(|policy| policy != "noeviction") {
        // evicts only keys with an expiry: no stream has one
        let is_volatile = policy.starts_with("volatile");
        outcome.row(json!({ "_is_volatile": is_volatile, "_is_any": !is_volatile, "policy": policy }));
    }
    if let Some(evicted) = number(&stats, "evicted_keys").filter(|evicted| *evicted > 0) {
        outcome.row(target.by_use(json!({ "_has_evicted": true, "evicted_keys": evicted })));
    }
    Ok(outcome)
}

pub(crate) async fn check_memory(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let target = on.redis()?;
    let memory = target.info("memory").await?;
    let used = number(&memory, "used_memory").unwrap_or_default();
    let most = number(&memory, "maxmemory")
        .ok_or_else(|| CheckError::Other("the server does not show its limit of memory".into()))?;
    Ok(Outcome::of_row(target.by_use(json!({
        "_is_unlimited": most == 0, "_is_full": share(used, most) > on.config.redis_memory_share,
        "_used": used >> 20, "_most": most >> 20, "used_bytes": used, "maxmemory_bytes": most,
    }))))
}

pub(crate) async fn check_append_only_file(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let target = on.redis()?;
    let info = target.info("persistence").await?;
    match info.get("aof_enabled").map(String::as_str) {
        None => return Err(CheckError::Other("the server does not show whether it has an append-only file".into())),
        Some("0") => return Ok(Outcome::of_row(target.by_use(json!({ "_is_off": true, "appendonly": "no" })))),
        Some(_) => {}
    }
    let mut outcome = Outcome::healthy();
    if let Some(status) = info.get("aof_last_write_status").filter(|status| *status != "ok") {
        outcome.row(json!({ "_has_failed": true, "aof_last_write_status": status }));
    }
    let fsync = target.setting("appendfsync", &mut outcome).await?;
    if let Some(fsync) = fsync.filter(|fsync| fsync != "always") {
        let lost = if fsync == "everysec" { "about a second" } else { "about half a minute" };
        outcome.row(target.by_use(json!({ "_is_late": true, "_lost": lost, "appendfsync": fsync })));
    }
    Ok(outcome)
}

pub(crate) async fn check_snapshot(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let info = on.redis()?.info("persistence").await?;
    let mut outcome = Outcome::healthy();
    for field in ["rdb_last_bgsave_status", "aof_last_bgrewrite_status"] {
        if let Some(status) = info.get(field).filter(|status| *status != "ok") {
            outcome.row(json!({ "field": field, "status": status }));
        }
    }
    Ok(outcome)
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
    let is_refusing = wanted.is_some_and(|wanted| wanted > good);
    outcome.row(target.by_use(json!({
        "_is_refusing": is_refusing, "_is_single": !is_refusing && connected == 0,
        "_is_early": !is_refusing && connected > 0 && wanted == Some(0),
        "connected": connected, "good": good, "min_replicas_to_write": wanted,
    })));
    for (name, replica) in info.iter().filter(|(name, replica)| is_replica(name) && !replica.contains("state=online")) {
        outcome.row(json!({ "_is_behind": true, "name": name, "state": replica }));
    }
    Ok(outcome)
}

/// Returns `true` for the fields of replicas: `slave0`, `slave1` and so on.
fn is_replica(field: &str) -> bool {
    field.strip_prefix("slave").is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

pub(crate) async fn check_connections(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let info = on.redis()?.info("clients").await?;
    let (used, most) = (number(&info, "connected_clients").unwrap_or_default(), number(&info, "maxclients"));
    let most = most.ok_or_else(|| CheckError::Other("the server does not show its limit of clients".into()))?;
    let is_full = share(used, most) > on.config.connections_share;
    Ok(Outcome::of_row(json!({ "_is_full": is_full, "used": used, "max": most })))
}

pub(crate) async fn check_clock(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let (target, config) = (on.redis()?, on.config);
    let before = config.clock.unix_millis();
    let server = target.time().await?;
    let after = config.clock.unix_millis();
    Ok(compare_clocks("Redis", before, server, after, config))
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
