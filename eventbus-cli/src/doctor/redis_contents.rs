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
use eventstore_redis::keys::StoreKeys;
use serde_json::{Value, json};

use super::{
    finding::Finding,
    outcome::{CheckError, Outcome, unread},
    store_contents::{
        AbandonedRole, ReaderPosition, abandoned_roles, compare_retention, missing_events, readers_ahead,
    },
    subjects::Subjects,
};
use crate::{
    error::CommandError,
    query::{all_checkpoints, all_leases},
};

pub(crate) async fn check_all_streams(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let store = on.redis_contents()?;
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

pub(crate) async fn check_checkpoints_ahead(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let store = on.redis_contents()?;
    let (keys, mut readers) = (StoreKeys::new(&store.config().key_prefix), Vec::new());
    for checkpoint in all_checkpoints(store, "").await.map_err(unread)? {
        let set = format!("SET {}", keys.checkpoint(&checkpoint.name));
        readers.push((checkpoint.name, checkpoint.position, set));
    }
    // read last: a position that a reader has was stored before
    let head = store.head().await.map_err(unread)?;
    let ahead = readers.into_iter().filter(|(_, position, _)| *position > head);
    let ahead = ahead.map(|(name, position, set)| ReaderPosition {
        name: name.to_string(),
        at: position.as_i64(),
        head: head.as_i64(),
        set_back: format!("{set} {head}"),
    });
    Ok(readers_ahead(ahead.collect()))
}

pub(crate) async fn check_abandoned_roles(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let (store, config) = (on.redis_contents()?, on.config);
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
        let seconds = (now - ended).as_seconds_f64();
        let (role, owner) = (stored.lease.role.to_string(), stored.lease.owner.to_string());
        (seconds > config.abandoned.as_secs_f64()).then_some(AbandonedRole { role, owner, seconds })
    });
    Ok(abandoned_roles(abandoned.collect()))
}

pub(crate) async fn check_event_types(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let store = on.redis_contents()?;
    let known = on.known_types()?;
    let stored = store.stored_event_types().await.map_err(unread)?.into_iter();
    let stored = stored.map(|stored| (stored.event_type.to_string(), i64::from(stored.schema_version)));
    Ok(known.compare(&stored.collect::<Vec<_>>()))
}

pub(crate) async fn check_dead_letters(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let (store, config) = (on.redis_contents()?, on.config);
    let oldest = store.dead_rows(None, 1).await.map_err(unread)?;
    let age = oldest.first().map(|oldest| config.clock.now() - oldest.dead_since);
    let age = age.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default();
    Ok(compare_retention(age, config).into())
}
