//! Checks of the contents of a store on Redis, read through its ports.
//!
//! The store keeps no times of its checkpoints, so no check finds an orphaned checkpoint; but the lease of a projection
//! shows whether it runs.

use std::time::Duration;

use eventbus::{
    Position,
    port::{EventTypes as _, HandlerProgress as _, ReadError, ReadFeed as _},
    support::ReaderKind,
};
use eventstore_redis::{RedisEventStore, keys::StoreKeys};
use serde_json::{Value, json};

use super::{
    check::{Check, Run},
    config::DoctorConfig,
    finding::Finding,
    known_types::KnownTypes,
    outcome::{CheckError, Outcome},
    store_contents::{abandoned_roles, compare_retention, missing_events, readers_ahead},
};
use crate::{
    error::CommandError,
    query::{all_checkpoints, all_leases},
};

pub(crate) const CHECKS: &[Check] = &[
    Check::deep(
        "redis-store-missing-events-all",
        "missing events of all streams",
        Run::RedisContents(|store, _| Box::pin(check_all_streams(store))),
    ),
    Check::new(
        "redis-store-checkpoint-ahead",
        "readers that are ahead of the store",
        Run::RedisContents(|store, _| Box::pin(check_checkpoints_ahead(store))),
    ),
    Check::new(
        "redis-store-abandoned-role",
        "roles without an owner: a relay or projection that does not run",
        Run::RedisContents(|store, config| Box::pin(check_abandoned_roles(store, config))),
    ),
    Check::new(
        "redis-store-event-types",
        "stored event types and versions that this program does not know",
        Run::RedisTypes(|store, known| Box::pin(check_event_types(store, known))),
    ),
    Check::new(
        "redis-store-dead-letter-age",
        "dead letters that are older than the inbox remembers",
        Run::RedisContents(|store, config| Box::pin(check_dead_letters(store, config))),
    ),
];

/// Returns the reason why a check was not made.
fn unread(error: impl Into<CommandError>) -> CheckError {
    CheckError::Other(error.into().to_line())
}

async fn check_all_streams(store: &RedisEventStore) -> Result<Outcome, CheckError> {
    let (found, observed) = match store.find_missing_event(None).await {
        Ok(None) => return Ok(Outcome::healthy()),
        Ok(Some(missing)) => {
            let (stream, version) = (missing.stream.to_string(), missing.version.get());
            (format!("{missing} is missing"), json!({ "stream": stream, "version": version }))
        }
        // a gap in the feed, or an entry that the store has not written
        Err(error @ ReadError::Corrupt { .. }) => (CommandError::from(error).to_line(), Value::Null),
        Err(error) => return Err(unread(error)),
    };
    let fault = Finding { repair: "restore the keys from a backup".into(), ..missing_events(found) };
    Ok(Some(fault.observed(observed)).into())
}

async fn check_checkpoints_ahead(store: &RedisEventStore) -> Result<Outcome, CheckError> {
    let (keys, mut readers) = (StoreKeys::new(&store.config().key_prefix), Vec::new());
    for checkpoint in all_checkpoints(store, "").await.map_err(unread)? {
        let set = format!("SET {}", keys.checkpoint(&checkpoint.name));
        readers.push((checkpoint.name.to_string(), checkpoint.position, set));
    }
    // read last: a position that a reader has was stored before
    let head = store.head().await.map_err(unread)?;
    let ahead = readers.into_iter().filter(|(_, position, _)| *position > head);
    let ahead = ahead.map(|(name, position, set)| (name, position.as_i64(), head.as_i64(), format!("{set} {head}")));
    Ok(readers_ahead(ahead))
}

async fn check_abandoned_roles(store: &RedisEventStore, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let mut leases = Vec::new();
    // other roles belong to single commands, and end with them
    for kind in [ReaderKind::Projection, ReaderKind::Relay] {
        leases.extend(all_leases(store, kind.prefix()).await.map_err(unread)?);
    }
    let head = store.head().await.map_err(unread)?;
    let before_last = Position::new(head.get().saturating_sub(1));
    let Some(last) = store.first_recorded_after(before_last).await.map_err(unread)? else {
        return Ok(Outcome::healthy());
    };
    let now = config.clock.now();
    let abandoned = leases.into_iter().filter_map(|stored| {
        // without events since then, the whole application may be idle
        let ended = stored.expires_at.filter(|ended| !stored.is_held && *ended < last)?;
        let age = (now - ended).as_seconds_f64();
        let is_abandoned = age > config.abandoned.as_secs_f64();
        is_abandoned.then(|| (stored.lease.role.to_string(), stored.lease.owner.to_string(), age))
    });
    Ok(abandoned_roles(abandoned))
}

async fn check_event_types(store: &RedisEventStore, known: &KnownTypes) -> Result<Outcome, CheckError> {
    let stored = store.stored_event_types().await.map_err(unread)?.into_iter();
    let stored = stored.map(|stored| (stored.event_type.to_string(), i64::from(stored.schema_version)));
    Ok(known.compare(&stored.collect::<Vec<_>>()))
}

async fn check_dead_letters(store: &RedisEventStore, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let oldest = store.dead_rows(None, 1).await.map_err(unread)?;
    let age = oldest.first().map(|oldest| config.clock.now() - oldest.dead_since);
    let age = age.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default();
    Ok(compare_retention(age, config).into())
}
