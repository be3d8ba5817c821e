//! Commands that take effect once, however often a client sends them.

use futures_util::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

use super::{
    aggregate_repository::{AggregateExistence, AggregateRepository, record_events},
    error::{LoadError, OnceError, UpdateError},
    saved::Saved,
};
use crate::{
    domain::{
        aggregate::{Aggregate, Apply, IntoEvents},
        idempotency_key::IdempotencyKey,
        stream::Version,
    },
    port::{MultiStreamAppends, multi_stream_append::HandledCommand},
};

/// A repository for one command: made by [`AggregateRepository::once`].
///
/// The first call under a key that succeeds notes the key in the commit of its events, also if the decision has none.
/// Each other call with the same key and request returns the same [`Saved`], and decides nothing; also of many at once,
/// and after a crash between the commit and the answer. A refusal and an error are not noted: the same command may
/// succeed later. A key is one of its repository's tenant. The app forgets it after
/// [`command_retention`](crate::app::AppBuilder::command_retention); then it is a new one.
///
/// # Examples
/// ```standalone_crate
/// use eventbus::{InMemoryEventStore, prelude::*};
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate = Order)]
/// # struct Shipped { parcel: String }
/// # #[derive(Debug, Default, Aggregate)]
/// # #[aggregate(events(Shipped))]
/// # struct Order { is_shipped: bool }
/// # impl Apply for Order { fn apply(&mut self, _: &OrderEvent) { self.is_shipped = true; } }
/// # impl Order {
/// #     fn ship(&self, request: &Ship) -> Result<Shipped, &'static str> {
/// #         if self.is_shipped { Err("the order is shipped already") } else { Ok(Shipped { parcel: request.parcel.clone() }) }
/// #     }
/// # }
/// #[derive(Serialize)]
/// struct Ship { parcel: String }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> eventbus::Result<()> {
/// # let orders = AggregateRepository::<Order>::new(InMemoryEventStore::new());
/// let (key, request) = ("8e03978e".parse()?, Ship { parcel: "T-1".into() }); // as the client sent them
/// let first = orders.once(key, &request).upsert(&"o-1".parse()?, |order| order.ship(&request)).await?;
///
/// let again = orders.once("8e03978e".parse()?, &request).upsert(&"o-1".parse()?, |order| order.ship(&request)).await?;
/// assert_eq!(again.events, first.events); // and no refusal
///
/// let other = Ship { parcel: "T-2".into() };
/// let error = orders.once("8e03978e".parse()?, &other).upsert(&"o-1".parse()?, |order| order.ship(&other)).await.unwrap_err();
/// assert!(error.is_key_reused());
/// # Ok(())
/// # }
/// ```
#[derive(derive_more::Debug)]
#[debug("Once {{ key: {key}, repository: {repository:?} }}")]
#[must_use = "a decision is made when one of its methods is awaited"]
pub struct Once<A: Aggregate> {
    repository: AggregateRepository<A>,
    key: IdempotencyKey,
    /// The JSON of the request, or why there is none.
    request: Result<Vec<u8>, String>,
}

/// The answer of a command, as the store keeps it: the version after it, and how many events it has added.
#[derive(Serialize, Deserialize)]
struct Answer {
    version: u64,
    events: u64,
}

impl<A: Apply> Once<A> {
    pub(super) fn new(
        repository: AggregateRepository<A>,
        key: IdempotencyKey,
        request: &(impl Serialize + ?Sized),
    ) -> Self {
        let request = serde_json::to_vec(request).map_err(|error| error.to_string());
        Self { repository, key, request }
    }

    /// As [`AggregateRepository::update`], once.
    ///
    /// # Errors
    /// As there; [`UpdateError::Once`] if the key was used for another request, if the request cannot be written as JSON,
    /// or if the repository is that of a handler, whose saves take effect once by themselves.
    pub async fn update<D, T, X>(&self, id: &A::Id, decide: D) -> Result<Saved, UpdateError<X>>
    where
        D: Fn(&A) -> Result<T, X>,
        T: IntoEvents<A::Event>,
    {
        self.run(id, AggregateExistence::Required, decide).await
    }

    /// As [`AggregateRepository::create_with`], once.
    ///
    /// # Errors
    /// As there, and for [`update`](Self::update).
    pub async fn create_with<D, T, X>(&self, id: &A::Id, decide: D) -> Result<Saved, UpdateError<X>>
    where
        D: Fn(&A) -> Result<T, X>,
        T: IntoEvents<A::Event>,
    {
        self.run(id, AggregateExistence::Absent, decide).await
    }

    /// As [`AggregateRepository::upsert`], once.
    ///
    /// # Errors
    /// As there, and for [`update`](Self::update).
    pub async fn upsert<D, T, X>(&self, id: &A::Id, decide: D) -> Result<Saved, UpdateError<X>>
    where
        D: Fn(&A) -> Result<T, X>,
        T: IntoEvents<A::Event>,
    {
        self.run(id, AggregateExistence::Optional, decide).await
    }

    /// Looks for the answer before each decision, and after each refusal or conflict: the same command may have taken
    /// effect meanwhile.
    async fn run<D, T, X>(&self, id: &A::Id, existence: AggregateExistence, decide: D) -> Result<Saved, UpdateError<X>>
    where
        D: Fn(&A) -> Result<T, X>,
        T: IntoEvents<A::Event>,
    {
        let multi_stream = self.multi_stream()?;
        let request = self.fingerprint(id)?;
        let mut attempt = 0;
        loop {
            if let Some(saved) = self.find_answer(multi_stream, id, request).await? {
                return Ok(saved);
            }
            let mut root = self.repository.load_with_existence(id, existence).await?;
            let before = root.version();
            let Err(error) = (match record_events(&decide, &mut root) {
                Err(refusal) => Err(UpdateError::Refused(refusal)),
                Ok(()) => {
                    let command = self.command(request, before, root.pending().len());
                    match self.repository.save_handling(&mut root, Some(&command)).await {
                        Ok(Some(saved)) => return Ok(saved),
                        Ok(None) => Ok(()),
                        Err(error) => Err(UpdateError::Save(error)),
                    }
                }
            }) else {
                continue;
            };
            attempt += 1;
            let may_succeed = error.is_conflict() && existence != AggregateExistence::Absent;
            if may_succeed && self.repository.wait_after_conflict(attempt).await {
                continue;
            }
            let was_first = matches!(error, UpdateError::Refused(_)) || error.is_conflict();
            let answer = if was_first { self.find_answer(multi_stream, id, request).await? } else { None };
            return answer.ok_or(error);
        }
    }

    fn multi_stream(&self) -> Result<&dyn MultiStreamAppends, OnceError> {
        let store = self.repository.store().ok_or(OnceError::InHandler)?;
        store.multi_stream_appends().ok_or_else(|| OnceError::Unsupported { store: store.describe() })
    }

    /// Returns a fingerprint of the aggregate and the request.
    fn fingerprint(&self, id: &A::Id) -> Result<Uuid, OnceError> {
        let stream = self.repository.stream(id);
        let json = self.request.as_ref().map_err(|reason| OnceError::Request { reason: reason.clone() })?;
        // names and ids have no control characters, so a zero byte separates
        let parts = [stream.aggregate_type().as_bytes(), stream.aggregate_id().as_str().as_bytes(), json];
        Ok(Uuid::from_u128(xxh3_128(&parts.join(&0))))
    }

    fn command(&self, request: Uuid, before: Version, events: usize) -> HandledCommand {
        let answer = Answer { version: before.plus(events).get(), events: events as u64 };
        HandledCommand {
            tenant_id: self.repository.tenant_id(),
            key: self.key.clone(),
            request,
            answer: format!(r#"{{"version":{},"events":{}}}"#, answer.version, answer.events),
        }
    }

    /// Returns what the command has saved, if it took effect.
    async fn find_answer<X>(
        &self,
        store: &dyn MultiStreamAppends,
        id: &A::Id,
        request: Uuid,
    ) -> Result<Option<Saved>, UpdateError<X>> {
        let found = store.find_command(self.repository.tenant_id(), &self.key).await.map_err(LoadError::from)?;
        let Some(found) = found else { return Ok(None) };
        if found.request != request {
            return Err(OnceError::KeyReused { key: self.key.clone() }.into());
        }
        let damaged = |reason: String| OnceError::Answer { key: self.key.clone(), reason };
        let Answer { version, events } =
            serde_json::from_str(&found.answer).map_err(|error| damaged(error.to_string()))?;
        let (version, first) = (Version::new(version), Version::new(version.saturating_sub(events) + 1));
        let mut records = Vec::new();
        if events > 0 {
            let stored = self.repository.read_stream(id, first).take(usize::try_from(events).unwrap_or(usize::MAX));
            records = stored.try_collect().await.map_err(LoadError::from)?;
        }
        if records.len() as u64 != events {
            return Err(damaged(format!("{} of its {events} events are left in the store", records.len())).into());
        }
        Ok(Some(self.repository.report(version, records)))
    }
}
