//! The writers of a member.

use std::sync::Arc;

use eventbus::{
    AggregateRepository, ExpectedVersion, Name, Never, NewEvent, StreamId, UpdateError,
    port::{AppendError, EventStore},
    prelude::*,
    store::{Append, UniqueKey},
};
use fastrand::Rng;

use super::Member;
use crate::fire::{HarnessError, place::retry};

/// A user took an address, or gave it back.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = User, unique(address))]
pub(super) struct AddressHeld {
    pub(super) address: Option<String>,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(type = "UniqueValuesUser", events(AddressHeld))]
pub(super) struct User;

impl Apply for User {
    fn apply(&mut self, _event: &UserEvent) {}
}

/// Makes the attempts of all writers of a member.
pub(super) async fn run(member: Member) -> Result<(), HarnessError> {
    let store = retry(async || member.place.open().await).await?;
    let mut random = Rng::with_seed(member.seed);
    let writers = (0..member.writers).map(|_| write(&store, &member, random.fork()));
    futures_util::future::try_join_all(writers).await.map(drop)
}

async fn write(store: &Arc<dyn EventStore>, member: &Member, mut random: Rng) -> Result<(), HarnessError> {
    for _ in 0..member.attempts {
        let user = format!("user-{}", random.u64(..2 * member.addresses));
        // one attempt in eight gives back
        let address = (random.u8(..8) > 0).then(|| format!("{}@example.org", random.u64(..member.addresses)));
        retry(async || match member.select_then_insert {
            true => select_then_insert(&**store, &user, address.clone()).await,
            false => take(store, &user, address.clone()).await,
        })
        .await?;
    }
    Ok(())
}

/// Takes an address as applications do.
async fn take(store: &Arc<dyn EventStore>, user: &str, address: Option<String>) -> Result<(), HarnessError> {
    let users = AggregateRepository::<User>::new(Arc::clone(store));
    let event = AddressHeld { address };
    match users.upsert(&user.parse()?, |_| Ok::<_, Never>(event.clone())).await {
        Err(error) if error.is_taken("address") || error.is_conflict() => Ok(()),
        Err(UpdateError::Save(error)) => Err(error.into()),
        other => Ok(other.map(drop)?),
    }
}

/// Looks for the holder of an address, and stores the event if there is none.
async fn select_then_insert(store: &dyn EventStore, user: &str, address: Option<String>) -> Result<(), HarnessError> {
    let values = store.unique_values().ok_or("the store has no unique values")?;
    let stream = StreamId::parse(User::AGGREGATE_TYPE, user)?;
    if let Some(address) = &address {
        let of_type = Name::from_static(User::AGGREGATE_TYPE);
        let key = UniqueKey::new(None, of_type, Name::from_static("address"), address.as_str());
        if values.find_holder(&key).await?.is_some_and(|holder| holder != stream) {
            return Ok(());
        }
    }
    let event = NewEvent::from_event(&AddressHeld { address })?;
    let changes = event.unique().to_vec();
    let append =
        Append { stream: stream.clone(), expected: ExpectedVersion::Any, events: vec![event.with_unique(Vec::new())] };
    let version = match store.append_many(vec![append]).await.pop() {
        Some(Ok(records)) => records.last().map(eventbus::RecordedEvent::version).unwrap_or_default(),
        Some(Err(error)) => return Err(error.into()),
        None => return Err("no answer".into()),
    };
    match values.assign(&stream, version, &changes).await {
        Err(AppendError::Taken { .. } | AppendError::Conflict { .. }) => Ok(()),
        other => Ok(other?),
    }
}
