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
use serde_json::json;

use super::{
    outcome::{CheckError, Outcome, unread},
    store_contents::compare_retention,
    subjects::Subjects,
};
use crate::{
    error::CommandError,
    query::{all_checkpoints, all_leases},
    transfer::MOVE_PREFIX,
};

/// The most readers of one report.
const READERS_MAX: usize = 20;

pub(crate) async fn check_all_streams(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let store = on.redis_contents()?;
    let observed = match store.find_missing_event(None).await {
        Ok(None) => return Ok(Outcome::healthy()),
        Ok(Some(missing)) => {
            let (stream, version) = (missing.stream.to_string(), missing.version.get());
            json!({ "_found": format!("{missing} is missing"), "stream": stream, "version": version })
        }
        // a gap in the feed, or an entry that the store has not written
        Err(error @ ReadError::Corrupt { .. }) => json!({ "_found": CommandError::from(error).to_line() }),
        Err(error) => return Err(unread(error)),
    };
    Ok(Outcome::of_row(observed))
}

pub(crate) async fn check_checkpoints_ahead(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let store = on.redis_contents()?;
    // the checkpoint of a move is a position of the other store; the checkpoint of a halted relay may be ahead
    let others = [MOVE_PREFIX, ReaderKind::HaltedRelay.prefix()];
    let (keys, mut readers) =
        (StoreKeys::new(&store.config().key_prefix), all_checkpoints(store, "").await.map_err(unread)?);
    readers.retain(|reader| !others.iter().any(|other| reader.name.starts_with(other)));
    // read last: a position that a reader has was stored before
    let head = store.head().await.map_err(unread)?;
    let ahead = readers.into_iter().filter(|reader| reader.position > head).take(READERS_MAX).map(|reader| {
        let set_back = format!("SET {} {head}", keys.checkpoint(&reader.name));
        let (at, head) = (reader.position.to_string(), head.to_string());
        json!({ "name": reader.name.as_str(), "at": at, "head": head, "_set_back": set_back })
    });
    Ok(ahead.collect())
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
        let (role, owner) = (stored.lease.role, stored.lease.owner);
        let retire = if role.starts_with(ReaderKind::Relay.prefix()) { "relay" } else { "projections" };
        (seconds > config.abandoned.as_secs_f64())
            .then(|| json!({ "role": role.as_str(), "owner": owner.as_str(), "seconds": seconds, "_retire": retire }))
    });
    Ok(abandoned.take(READERS_MAX).collect())
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
    Ok(compare_retention(age, config))
}
