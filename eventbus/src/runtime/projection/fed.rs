//! What a projection was fed with: the event types that its owners knew, noted beside its checkpoint.
//!
//! Two releases of a projection share its rows while one is rolled out over the other, and the older one passes events by
//! that only the newer one knows. So an owner that knows more takes the role from one that knows less, and whoever comes to
//! feed the projection looks whether events of its types were passed by.
//!
//! Keep: a type counts as fed up to the checkpoint only if every owner since its first event knew it; the note is changed
//! under the lease, and says what was passed by until a rebuild has brought it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    ProjectionError, RebuildError,
    projected::Projected,
    runner::{FeedProjection, RunWith, role_of},
};
use crate::{
    domain::{error::BoxError, event::EventFilter, name::Name, stream::Position},
    port::{FeedFilter, Outage, from_json},
    runtime::{
        definition::{Projection, ProjectionKind},
        tenure::{Candidate, GivenUp, Tenure},
    },
};

/// Stands for every type.
const ALL: &str = "*";
/// For how long the role must be free before it is taken by a process that knows less than the last owner did: that one
/// may only be starting anew.
const LESS_AFTER: Duration = Duration::from_secs(60);
/// How soon a rebuild that failed is tried again.
const REBUILD_AGAIN: Duration = Duration::from_secs(60);

/// What the owner of a projection knows, or what is noted of all its owners.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Fed {
    /// The event types that the last owner knew, each with its highest schema version.
    types: BTreeMap<String, u32>,
    /// The types that are not known to have been fed with everything up to the checkpoint, and from where on they were
    /// passed by.
    unfed: BTreeMap<String, u64>,
}

/// What is to be done before a projection is fed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Examined {
    /// Nothing: it was fed with everything.
    Complete,
    /// Its rows are to be rebuilt beside, as events were passed by.
    ToRebuild,
    /// It stopped, as events were passed by and nothing can rebuild it here.
    Stopped,
}

impl Fed {
    fn of(events: EventFilter) -> Self {
        let mut types = BTreeMap::new();
        match events {
            EventFilter::All => drop(types.insert(ALL.to_owned(), 0)),
            EventFilter::Only(events) => {
                for event in events {
                    let version = types.entry(event.event_type.to_owned()).or_default();
                    *version = event.schema_version.max(*version);
                }
            }
        }
        Self { types, unfed: BTreeMap::new() }
    }

    /// Whether it knows every type of another one, in its version.
    fn covers(&self, other: &Self) -> bool {
        let knows = |(name, version): (&String, &u32)| self.types.get(name).is_some_and(|known| known >= version);
        self.types.contains_key(ALL) || other.types.iter().all(knows)
    }

    fn knows(&self, event_type: &str) -> bool {
        self.types.contains_key(ALL) || self.types.contains_key(event_type)
    }

    /// What is noted when an owner that knows `own` begins at a checkpoint, before it is known which events there are.
    fn followed_by(&self, own: &Self, checkpoint: Position) -> Self {
        let mut unfed = self.unfed.clone();
        for dropped in self.types.keys().filter(|name| *name != ALL && !own.knows(name)) {
            unfed.entry(dropped.clone()).or_insert(checkpoint.get());
        }
        for added in own.types.keys().filter(|name| !self.knows(name)) {
            unfed.entry(added.clone()).or_insert(0);
        }
        Self { types: own.types.clone(), unfed }
    }

    /// What is noted when an operator says that the rows are right as they are.
    fn accepted_by(&self, own: &Self, checkpoint: Position) -> Self {
        let mut fed = self.followed_by(own, checkpoint);
        fed.unfed.retain(|name, _| !own.knows(name));
        fed
    }

    /// What is noted after a rebuild from the first event by a process that knows `own`: what it does not know is missing
    /// from the first event on.
    fn rebuilt_by(&self, own: &Self) -> Self {
        let passed_by = self.unfed.keys().filter(|name| !own.knows(name));
        Self { types: own.types.clone(), unfed: passed_by.map(|name| (name.clone(), 0)).collect() }
    }
}

async fn load(with: &RunWith, role: &Name) -> Result<Option<Fed>, BoxError> {
    let Some(notes) = with.store.notes() else {
        return Ok(None);
    };
    let Some(text) = notes.load_note(role).await? else {
        return Ok(None);
    };
    Ok(Some(from_json(&text)?))
}

async fn save(with: &RunWith, role: &Name, fed: &Fed) -> Result<(), BoxError> {
    if let Some(notes) = with.store.notes() {
        notes.save_note(role, &serde_json::to_string(fed)?).await?;
    }
    Ok(())
}

/// Notes that a projection was, or is from now on, rebuilt from the first event with all types that this process knows,
/// which has the role.
///
/// # Errors
/// If the role has passed to another process, or the store cannot be asked; the former note stands then, perhaps.
pub(super) async fn rebuilt<P: Projection>(with: &RunWith, tenure: &Tenure) -> Result<(), BoxError> {
    if tenure.has_passed() {
        return Err("the role has passed to another process".into());
    }
    let (role, mut fed) = (role_of(P::definition().name), Fed::of(P::definition().events));
    if let Some(former) = load(with, &role).await? {
        fed = former.rebuilt_by(&fed);
    }
    save(with, &role, &fed).await
}

impl<P: Projection> Projected<P> {
    /// Notes that the rows are right though events were passed by; lets the projection go on. Returns `true` if something
    /// was noted as passed by.
    pub(crate) async fn accept_passed_by(
        &self,
        with: &RunWith,
        stop: &CancellationToken,
    ) -> Result<bool, RebuildError> {
        let definition = P::definition();
        let name = definition.name;
        if definition.kind == ProjectionKind::InMemory {
            return Ok(false); // it is folded from the first event at each start
        }
        let candidate = Candidate {
            store: Arc::clone(&with.store),
            role: role_of(name),
            owner: with.owner.joined("/", &format!("accept-{:08x}", fastrand::u32(..))),
            ttl: with.lease_ttl,
            clock: with.clock.clone(),
            given_up: GivenUp::new(&with.clock),
        };
        let tenure = candidate.seize(stop).await.map_err(|error| RebuildError::store(name, error))?;
        let accepted = async {
            let Some(former) = load(with, &tenure.lease().role).await? else {
                return Ok(false);
            };
            let checkpoint = with.store.load_checkpoint(&tenure.lease().role).await?.unwrap_or(Position::START);
            let fed = former.accepted_by(&Fed::of(definition.events), checkpoint);
            let is_news = fed != former;
            if is_news {
                save(with, &tenure.lease().role, &fed).await?;
            }
            Ok::<_, BoxError>(is_news)
        };
        let accepted = accepted.await;
        tenure.give_back().await;
        let accepted = accepted.map_err(|error| RebuildError::store(name, error))?;
        self.free_if(|stopped| matches!(stopped, ProjectionError::PassedBy { .. }));
        Ok(accepted)
    }
}

/// Whether this process may take the role, and whether it is to take it from its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// It takes the role when it is free.
    Plain,
    /// It knows more than the owner.
    More,
    /// It knows less than the last owner: it takes the role when that was free for long.
    Less,
}

impl<P: Projection> FeedProjection<P> {
    /// How what this process knows compares to what the last owner knew.
    pub(super) async fn claim(&self) -> Result<Claim, BoxError> {
        let own = Fed::of(P::definition().events);
        Ok(match load(&self.with, &role_of(P::definition().name)).await? {
            None => Claim::Plain,
            Some(fed) if !own.covers(&fed) => Claim::Less,
            Some(fed) if !fed.covers(&own) => Claim::More,
            Some(_) => Claim::Plain,
        })
    }

    /// Whether the role was free for so long that a process may take it that knows less than the last owner.
    pub(super) async fn is_free_for_long(
        &self,
        free_since: &mut Option<tokio::time::Instant>,
    ) -> Result<bool, BoxError> {
        let clock = &self.with.clock;
        if self.with.store.lease_of(&role_of(P::definition().name)).await?.is_some() {
            *free_since = None;
            return Ok(false);
        }
        let since = *free_since.get_or_insert_with(|| clock.instant());
        Ok(clock.elapsed(since) >= LESS_AFTER)
    }

    /// Looks, once it has the role, whether events of its types were passed by.
    pub(super) async fn examine(&self, tenure: &Tenure) -> Result<Examined, BoxError> {
        let (definition, role) = (P::definition(), &tenure.lease().role);
        let own = Fed::of(definition.events);
        if self.projected.progress().borrow().is_set_back {
            // everything is fed again
            self.with.store.save_checkpoint(role, Position::START).await?;
            rebuilt::<P>(&self.with, tenure).await?;
            return Ok(Examined::Complete);
        }
        let Some(former) = load(&self.with, role).await? else {
            save(&self.with, role, &own).await?;
            return Ok(Examined::Complete);
        };
        let checkpoint = self.checkpoint().await?;
        let mut fed = former.followed_by(&own, checkpoint);
        let mut missing = Vec::new();
        for (name, after) in fed.unfed.clone() {
            if !own.knows(&name) {
                continue;
            }
            if self.count(&name, Position::new(after), checkpoint, &former).await? > 0 {
                missing.push(name);
            } else {
                fed.unfed.remove(&name);
            }
        }
        if fed != former {
            save(&self.with, role, &fed).await?;
        }
        if missing.is_empty() {
            return Ok(Examined::Complete);
        }
        let types = missing.join("`, `");
        if definition.kind == ProjectionKind::Transactional && !definition.tables.is_empty() {
            tracing::warn!(
                projection = definition.name, %checkpoint, types,
                "an older release fed the projection and passed events of these types by: it is rebuilt, and its rows \
                 serve meanwhile"
            );
            return Ok(Examined::ToRebuild);
        }
        let is_elsewhere = definition.kind != ProjectionKind::Transactional;
        let error = ProjectionError::PassedBy { name: definition.name, position: checkpoint, types, is_elsewhere };
        tracing::error!(%error, "projection stopped");
        let generation = self.projected.progress().borrow().generation;
        self.projected.stop(error, generation);
        Ok(Examined::Stopped)
    }

    /// How many events of a type there are between two positions; of all types those that were not known before.
    async fn count(&self, name: &str, after: Position, through: Position, former: &Fed) -> Result<u64, BoxError> {
        let store = &self.with.store;
        let of = |name: &str| Ok::<_, BoxError>(Name::new("event type", name)?);
        if name != ALL {
            let filter = FeedFilter::all().event_types([of(name)?]);
            return Ok(store.count_events(after, through, &filter).await?);
        }
        let known = former.types.keys().map(|name| of(name)).collect::<Result<Vec<_>, _>>()?;
        let all = store.count_events(after, through, &FeedFilter::all()).await?;
        Ok(all - store.count_events(after, through, &FeedFilter::all().event_types(known)).await?)
    }

    /// Rebuilds the rows beside the live ones, and tries again while it has the role.
    pub(super) async fn make_up(&self, tenure: &Tenure, cancel: &CancellationToken) {
        let (projection, mut outage) = (P::definition().name, Outage::new(self.with.clock.clone()));
        while !tenure.over().is_cancelled() {
            let rebuilt = self.projected.rebuild_in_app(&self.with, cancel, Box::new(drop), Duration::ZERO).await;
            match rebuilt {
                Ok(rebuilt) => {
                    return tracing::info!(
                        projection, events = rebuilt.events, took = ?rebuilt.took,
                        "the projection was rebuilt with the events that were passed by"
                    );
                }
                Err(error) if outage.begins() => {
                    tracing::error!(projection, %error, "the projection could not be rebuilt, trying again");
                }
                Err(error) => tracing::debug!(projection, %error, "the projection still could not be rebuilt"),
            }
            tenure.over().run_until_cancelled(self.with.clock.sleep(REBUILD_AGAIN)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(types: &[(&str, u32)], unfed: &[(&str, u64)]) -> Fed {
        Fed {
            types: types.iter().map(|(name, version)| ((*name).to_owned(), *version)).collect(),
            unfed: unfed.iter().map(|(name, after)| ((*name).to_owned(), *after)).collect(),
        }
    }

    #[test]
    fn who_knows_more_covers_types_and_versions() {
        let (one, two, newer) = (fed(&[("A", 1)], &[]), fed(&[("A", 1), ("B", 1)], &[]), fed(&[("A", 2)], &[]));
        let all = fed(&[(ALL, 0)], &[]);
        assert!(two.covers(&one) && !one.covers(&two));
        assert!(newer.covers(&one) && !one.covers(&newer));
        assert!(!newer.covers(&two) && !two.covers(&newer), "neither knows more");
        assert!(all.covers(&two) && !two.covers(&all));
    }

    #[test]
    fn what_an_owner_does_not_know_is_passed_by_from_where_it_began() {
        let new = fed(&[("A", 1), ("B", 1)], &[]);
        let old = fed(&[("A", 1)], &[]);
        let after_old = new.followed_by(&old, Position::new(7));
        assert_eq!(after_old, fed(&[("A", 1)], &[("B", 7)]));
        assert_eq!(after_old.followed_by(&old, Position::new(9)), fed(&[("A", 1)], &[("B", 7)]));
        assert_eq!(after_old.followed_by(&new, Position::new(9)), fed(&[("A", 1), ("B", 1)], &[("B", 7)]));
        assert_eq!(old.followed_by(&new, Position::new(9)), fed(&[("A", 1), ("B", 1)], &[("B", 0)]));
    }

    #[test]
    fn a_rebuild_brings_what_its_process_knows_and_takes_away_the_rest() {
        let (new, old) = (fed(&[("A", 1), ("B", 1)], &[]), fed(&[("A", 1)], &[]));
        let after_old = new.followed_by(&old, Position::new(7));
        assert_eq!(after_old.rebuilt_by(&new), new);
        let by_old = after_old.rebuilt_by(&old);
        assert_eq!(by_old, fed(&[("A", 1)], &[("B", 0)]), "what the rows had of it before is gone, too");
    }
}
