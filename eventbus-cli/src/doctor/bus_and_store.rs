//! Checks of a bus on Redis beside a store.

use std::collections::HashMap;

use eventbus::Uuid;
use eventbus_redis::{keys, redis::cmd};
use serde_json::json;

use super::{
    bus_target::BusTarget,
    finding::Finding,
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
    let (bus, store, config) = (on.bus()?, on.store_beside()?, on.config);
    // first the bus: a position that it has was stored before
    let published = load_published(bus).await?;
    let (id, head) = store.load(config).await?;
    let Some(highest) = published.get(&id).filter(|highest| **highest > head) else {
        return Ok(Outcome::healthy());
    };
    let found =
        format!("`{}` has events of this store up to position {highest}, and the store ends at {head}", bus.stream());
    let consequence = "the store came back from an older copy: the relay stops, and handlers have seen events that are \
                       gone";
    let repair = "compare the last entries of the stream with the store; then `eventbus relay republish --after \
                  POSITION`, with the position up to which both agree";
    let observed = json!({ "store": id, "published": highest.to_string(), "head": head.to_string() });
    Ok(Some(Finding::fault(found, consequence, repair).observed(observed)).into())
}

pub(crate) async fn check_relay_stalled(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let (bus, store, config) = (on.bus()?, on.store_beside()?, on.config);
    let (id, head) = store.load(config).await?;
    let published = load_published(bus).await?.get(&id).copied();
    let first = store.first_after(published.unwrap_or_default(), config).await?;
    let Some((position, age)) = first.filter(|(_, age)| *age > config.relay_lag.as_secs_f64()) else {
        return Ok(Outcome::healthy());
    };
    if published.is_none() && !store.has_relay(&bus.relay()?, config).await? {
        let found = format!("no relay has published events of this store to `{}`", bus.stream());
        let consequence = "unless the programs publish by `publish_to`, no handler gets an event";
        let repair = "start a process with the relay; programs that publish by `publish_to` have none";
        let observed = json!({ "store": id, "head": head.to_string() });
        return Ok(Some(Finding::note(found, consequence, repair).observed(observed)).into());
    }
    let found = format!("the event at position {position} has not been published for {age:.0} s (the head is {head})");
    let consequence = "no relay runs, or it stops there: no handler gets this event and the later ones";
    let repair = "start a process with the relay; if one runs, its status and log name the error";
    let observed = json!({
        "store": id, "published": published.unwrap_or_default().to_string(), "head": head.to_string(), "seconds": age,
    });
    Ok(Some(Finding::fault(found, consequence, repair).observed(observed)).into())
}

pub(crate) async fn check_other_stores(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let (bus, store, config) = (on.bus()?, on.store_beside()?, on.config);
    let (id, _) = store.load(config).await?;
    let published = load_published(bus).await?;
    let mut foreign: Vec<_> = published.keys().filter(|other| **other != id).map(ToString::to_string).collect();
    foreign.sort();
    if foreign.is_empty() {
        return Ok(Outcome::healthy());
    }
    let list = foreign.join(", ");
    let found = format!("`{}` also has events of other stores: {list}", bus.stream());
    let consequence = "unless each application says `share_stream`, the relay of this store refuses the stream";
    let repair = format!(
        "if it is a former database: HDEL {} ID; else a `stream_prefix` for each store, or `share_stream` everywhere",
        keys::relay(&bus.stream())
    );
    Ok(Some(Finding::note(found, consequence, repair).observed(json!({ "store": id, "foreign": foreign }))).into())
}
