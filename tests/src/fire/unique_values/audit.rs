//! The auditor of addresses: follows the events, and compares the holders with those that the store names.

use std::collections::HashMap;

use eventbus::{
    Aggregate as _, Name, Position, StreamId,
    port::{EventStore, FeedFilter},
    store::UniqueKey,
};
use futures_util::TryStreamExt as _;

use super::writers::{AddressHeld, User};
use crate::fire::HarnessError;

/// What the auditor found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) events: u64,
    /// How often a user took an address that a different user held.
    pub(super) taken_twice: u64,
    pub(super) failures: Vec<String>,
}

/// Checks the events of a store.
pub(super) async fn audit(store: &dyn EventStore, addresses: u64) -> Result<Findings, HarnessError> {
    let mut findings = Findings::default();
    let mut held: HashMap<StreamId, String> = HashMap::new();
    let mut holders: HashMap<String, StreamId> = HashMap::new();
    let (head, filter) = (store.head().await?, FeedFilter::all());
    let mut feed = store.read_feed(Position::START, head, &filter);
    while let Some(event) = feed.try_next().await? {
        findings.events += 1;
        let user = event.metadata().stream().clone();
        if let Some(former) = held.remove(&user)
            && holders.get(&former) == Some(&user)
        {
            holders.remove(&former);
        }
        if let Some(address) = event.decode::<AddressHeld>()?.address {
            findings.taken_twice += u64::from(holders.contains_key(&address));
            held.insert(user.clone(), address.clone());
            holders.insert(address, user);
        }
    }
    let values = store.unique_values().ok_or("the store has no unique values")?;
    let mut differing = Vec::new();
    for number in 0..addresses {
        let address = format!("{number}@example.org");
        let of_type = Name::from_static(User::AGGREGATE_TYPE);
        let key = UniqueKey::new(None, of_type, Name::from_static("address"), address.as_str());
        let named = values.find_holder(&key).await?;
        if named.as_ref() != holders.get(&address) {
            differing.push(format!("{address}: the store names {named:?}, the events {:?}", holders.get(&address)));
        }
    }
    if let Some(first) = differing.first() {
        findings
            .failures
            .push(format!("{} addresses have another holder than their events say: {first}", differing.len()));
    }
    Ok(findings)
}
