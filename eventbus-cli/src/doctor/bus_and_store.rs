//! Checks of a bus on Redis beside a store.

use std::collections::HashMap;

use eventbus::Uuid;
use eventbus_redis::{keys, redis::cmd};
use serde_json::json;

use super::{
    bus_target::BusTarget,
    outcome::{CheckError, Outcome},
    subjects::Subjects,
};

/// Returns the position up to which each store's events are published.
async fn load_published(bus: &BusTarget) -> Result<HashMap<Uuid, u64>, CheckError> {
    let records: HashMap<String, String> = bus.redis().query(cmd("HGETALL").arg(keys::relay(&bus.stream()))).await?;
    // other fields are notes about the stream
    let records = records.into_iter().filter_map(|(field, record)| Some((Uuid::try_parse(&field).ok()?, record)));
    let read = |(store, record): (Uuid, String)| {
        // position, event and entry
        match record.split(' ').next().and_then(|position| position.parse().ok()) {
            Some(position) => Ok((store, position)),
            None => Err(CheckError::Other(format!("the relay's record of store {store} cannot be read: `{record}`"))),
        }
    };
    records.map(read).collect()
}

pub(crate) async fn check_relay_ahead(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let (bus, store) = (on.bus()?, on.store_beside()?);
    // first the bus: a position that it has was stored before
    let published = load_published(bus).await?;
    let (id, head) = store.load(on.config).await?;
    let published = published.get(&id).copied().unwrap_or_default();
    Ok(Outcome::of_row(json!({
        "_is_ahead": published > head, "_stream": bus.stream(), "store": id, "published": published.to_string(),
        "head": head.to_string(),
    })))
}

pub(crate) async fn check_relay_stalled(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let (bus, store, config) = (on.bus()?, on.store_beside()?, on.config);
    let (id, head) = store.load(config).await?;
    let published = load_published(bus).await?.get(&id).copied();
    let first = store.first_after(published.unwrap_or_default(), config).await?;
    let Some((position, age)) = first.filter(|(_, age)| *age > config.relay_lag.as_secs_f64()) else {
        return Ok(Outcome::healthy());
    };
    let (head, stream) = (head.to_string(), bus.stream());
    if published.is_none() && !store.has_relay(&bus.relay()?, config).await? {
        return Ok(Outcome::of_row(json!({ "_is_absent": true, "_stream": stream, "store": id, "head": head })));
    }
    let published = published.unwrap_or_default().to_string();
    Ok(Outcome::of_row(json!({
        "_is_stalled": true, "_position": position, "store": id, "published": published, "head": head, "seconds": age,
    })))
}

pub(crate) async fn check_other_stores(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let bus = on.bus()?;
    let (id, _) = on.store_beside()?.load(on.config).await?;
    let published = load_published(bus).await?;
    let mut foreign: Vec<_> = published.keys().filter(|other| **other != id).map(ToString::to_string).collect();
    foreign.sort();
    Ok(Outcome::of_row(json!({
        "_is_shared": !foreign.is_empty(), "_stream": bus.stream(), "_relay": keys::relay(&bus.stream()),
        "_list": foreign.join(", "), "store": id, "foreign": foreign,
    })))
}
