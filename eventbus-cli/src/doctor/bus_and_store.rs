//! Checks of a bus on Redis beside a store.

use std::collections::BTreeMap;

use eventbus::Uuid;
use eventbus_redis::keys;
use serde_json::json;

use super::{
    bus_target::BusTarget,
    outcome::{CheckError, Outcome, unread},
    subjects::Subjects,
};

/// Returns the position up to which each store's events are published.
async fn load_published(target: &BusTarget<'_>) -> Result<BTreeMap<Uuid, u64>, CheckError> {
    let Some(bus) = target.opened()? else { return Ok(BTreeMap::new()) };
    let published = bus.published_positions().await.map_err(unread)?;
    Ok(published.into_iter().map(|(store, published)| (store, published.position.get())).collect())
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
    let foreign: Vec<_> = published.keys().filter(|other| **other != id).map(ToString::to_string).collect();
    Ok(Outcome::of_row(json!({
        "_is_shared": !foreign.is_empty(), "_stream": bus.stream(), "_relay": keys::relay(&bus.stream()),
        "_list": foreign.join(", "), "store": id, "foreign": foreign,
    })))
}
