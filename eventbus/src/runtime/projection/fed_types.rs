//! Fed types of a projection: the event types that its owners knew, and the version of the methods that made its rows, noted
//! beside its checkpoint.
//!
//! Two releases of a projection share its rows while one is rolled out over the other, and the older one misses events
//! of types that only the newer one knows. So a process that knows more types seizes the lease from an owner that knows
//! fewer, and each new owner checks whether events of its types were missed.
//!
//! Invariant: a type counts as fed up to the checkpoint only if every owner since its first event knew it. The owner
//! changes the note under the lease, and the note lists missed types until a rebuild has handled their events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    ProjectionError, RebuildError,
    context::{RunnerContext, projection_role},
    fed_projection::FedProjection,
    noted_stop::NotedStop,
    rows_check::warn_of_rows_without_checkpoint,
};
use crate::{
    domain::{
        error::BoxError,
        event::{EventDescriptor, EventFilter},
        name::Name,
        stream::Position,
    },
    port::{EventStore, FeedFilter},
    runtime::{
        definition::{ProjectionDefinition, ProjectionKind},
        held_lease::HeldLease,
    },
    support::from_json,
};

/// Stands for every type.
const ALL_TYPES: &str = "*";

/// The event types that one owner of a projection knows, or the note about all its owners.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct FedTypes {
    /// The event types that the last owner knew, also by their former names, each with its highest schema version.
    types: BTreeMap<String, u32>,
    /// The types whose events up to the checkpoint may be missing, each with the position after which owners missed
    /// them.
    unfed: BTreeMap<String, u64>,
    /// The version of the methods that made the first rows, or rebuilt all; `None` in notes from before it was noted. It says
    /// nothing about which events are missed.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
}

/// Outcome of the check for missed events, before a projection is fed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TypeCheck {
    /// No events were missed.
    Complete,
    /// Events were missed: the owner rebuilds the rows beside the live ones.
    NeedsRebuild,
    /// Events were missed, and this process cannot rebuild: the projection stopped.
    Stopped,
    /// The lease is lost, or the app stops.
    Interrupted,
}

impl FedTypes {
    pub(super) fn from_filter(events: EventFilter) -> Self {
        let mut types = BTreeMap::new();
        match events {
            EventFilter::All => drop(types.insert(ALL_TYPES.to_owned(), 0)),
            EventFilter::Only(events) => {
                for (event_type, schema_version) in events.iter().flat_map(names_with_version) {
                    let version = types.entry(event_type.to_owned()).or_default();
                    *version = schema_version.max(*version);
                }
            }
        }
        Self { types, ..Self::default() }
    }

    fn of(definition: &ProjectionDefinition) -> Self {
        Self { version: Some(definition.version), ..Self::from_filter(definition.events) }
    }

    /// Returns `true` if it knows every type of `other`, in its version or a higher one.
    fn covers(&self, other: &Self) -> bool {
        let knows = |(name, version): (&String, &u32)| self.types.get(name).is_some_and(|known| known >= version);
        self.types.contains_key(ALL_TYPES) || other.types.iter().all(knows)
    }

    fn knows(&self, event_type: &str) -> bool {
        self.types.contains_key(ALL_TYPES) || self.types.contains_key(event_type)
    }

    /// Returns the note for an owner that knows `own` and begins at a checkpoint, before it counts the missed events.
    fn after_owner_change(&self, own: &Self, checkpoint: Position) -> Self {
        let mut unfed = self.unfed.clone();
        for dropped in self.types.keys().filter(|name| *name != ALL_TYPES && !own.knows(name)) {
            unfed.entry(dropped.clone()).or_insert(checkpoint.get());
        }
        for added in own.types.keys().filter(|name| !self.knows(name)) {
            unfed.entry(added.clone()).or_insert(0);
        }
        // without a checkpoint there are no rows of an earlier version
        let former_version = self.version.filter(|_| checkpoint > Position::START);
        Self { types: own.types.clone(), unfed, version: former_version.or(own.version) }
    }

    /// Returns the note for rows that an operator accepts as they are.
    fn after_acceptance(&self, own: &Self, checkpoint: Position) -> Self {
        let mut fed_types = self.after_owner_change(own, checkpoint);
        fed_types.unfed.retain(|name, _| !own.knows(name));
        Self { version: own.version, ..fed_types }
    }

    /// Returns the note after a rebuild from the first event by a process that knows `own`: events of types that it
    /// does not know are missing from the first one on.
    fn after_rebuild(&self, own: &Self) -> Self {
        let missed = self.unfed.keys().filter(|name| !own.knows(name));
        let unfed = missed.map(|name| (name.clone(), 0)).collect();
        Self { types: own.types.clone(), unfed, version: own.version }
    }
}

/// Returns the names of an event's type, the former ones too, each with its schema version.
fn names_with_version(event: &EventDescriptor) -> impl Iterator<Item = (&'static str, u32)> {
    let schema_version = event.schema_version;
    event.event_types().map(move |event_type| (event_type, schema_version))
}

async fn load_fed_types(context: &RunnerContext, role: &Name) -> Result<Option<FedTypes>, BoxError> {
    let Some(notes) = context.store.notes() else {
        return Ok(None);
    };
    let Some(text) = notes.load_note(role).await? else {
        return Ok(None);
    };
    Ok(Some(from_json(&text)?))
}

async fn save_fed_types(context: &RunnerContext, role: &Name, fed_types: &FedTypes) -> Result<(), BoxError> {
    if let Some(notes) = context.store.notes() {
        notes.save_note(role, &serde_json::to_string(fed_types)?).await?;
    }
    Ok(())
}

/// Fails if a different process holds the lease: it may have written the note or the checkpoint meanwhile. If the lease may
/// have expired, asks the store: on SQLite a long transaction lets no renewal through.
async fn check_held(held_lease: &HeldLease) -> Result<(), BoxError> {
    match held_lease.may_have_expired() && !held_lease.renew().await? {
        true => Err("another process holds the lease by now".into()),
        false => Ok(()),
    }
}

/// Notes that this process, which holds the lease, has rebuilt a projection, or begins to, from the first event with
/// all types that it knows; deletes the note of a stop.
///
/// # Errors
/// If a different process holds the lease, or the store cannot be reached; the former note may stand then.
pub(super) async fn record_rebuild(
    definition: &ProjectionDefinition,
    context: &RunnerContext,
    held_lease: &HeldLease,
) -> Result<(), BoxError> {
    check_held(held_lease).await?;
    let (role, mut fed_types) = (projection_role(definition.name), FedTypes::of(definition));
    if let Some(former) = load_fed_types(context, &role).await? {
        fed_types = former.after_rebuild(&fed_types);
    }
    save_fed_types(context, &role, &fed_types).await?;
    Ok(NotedStop::forget(&*context.store, &role).await?)
}

/// Notes that the rows are right although events were missed, and resumes the projection. Returns `true` if that
/// changed the note.
pub(crate) async fn accept_missed_events(
    inner: &dyn FedProjection,
    context: &RunnerContext,
    stop: &CancellationToken,
) -> Result<bool, RebuildError> {
    let definition = inner.definition();
    let name = definition.name;
    if definition.kind == ProjectionKind::InMemory {
        return Ok(false); // each start replays it from the first event
    }
    let lease_request = context.command_lease_request(projection_role(name), "accept");
    let held_lease = lease_request.seize(stop).await.map_err(|error| RebuildError::store(name, error))?;
    let accepted = async {
        let Some(former) = load_fed_types(context, &held_lease.lease().role).await? else {
            return Ok(false);
        };
        let checkpoint = context.load_checkpoint(&held_lease.lease().role).await?;
        let fed_types = former.after_acceptance(&FedTypes::of(&definition), checkpoint);
        let is_news = fed_types != former;
        if is_news {
            save_fed_types(context, &held_lease.lease().role, &fed_types).await?;
        }
        Ok::<_, BoxError>(is_news)
    };
    let accepted = accepted.await;
    held_lease.release().await;
    let accepted = accepted.map_err(|error| RebuildError::store(name, error))?;
    inner.progress().resume_if(|stopped| matches!(stopped, ProjectionError::MissedEvents { .. }));
    Ok(accepted)
}

/// Comparison of the types that this process knows with the last owner's; decides how this process gets the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TypeComparison {
    /// Acquires the lease when it is free.
    Same,
    /// Seizes the lease from its owner, which knows fewer types.
    KnowsMore,
    /// Acquires the lease when it was free for long, as the last owner knew more types.
    KnowsLess,
}

/// Compares the types that this process knows with the last owner's.
pub(super) async fn compare_types(
    definition: &ProjectionDefinition,
    context: &RunnerContext,
) -> Result<TypeComparison, BoxError> {
    let own = FedTypes::from_filter(definition.events);
    Ok(match load_fed_types(context, &projection_role(definition.name)).await? {
        None => TypeComparison::Same,
        Some(fed_types) if !own.covers(&fed_types) => TypeComparison::KnowsLess,
        Some(fed_types) if !fed_types.covers(&own) => TypeComparison::KnowsMore,
        Some(_) => TypeComparison::Same,
    })
}

/// Checks, once this process holds the lease, whether events of its types were missed.
pub(super) async fn check_types(
    inner: &dyn FedProjection,
    context: &RunnerContext,
    held_lease: &HeldLease,
) -> Result<TypeCheck, BoxError> {
    let (definition, role) = (inner.definition(), &held_lease.lease().role);
    let own = FedTypes::of(&definition);
    let must_reset_checkpoint = inner.progress().borrow().must_reset_checkpoint;
    if must_reset_checkpoint {
        check_held(held_lease).await?;
        // a restart: the feed begins at the first event anyway
        context.store.save_checkpoint(role, Position::START).await?;
        record_rebuild(&definition, context, held_lease).await?;
        return Ok(TypeCheck::Complete);
    }
    warn_of_rows_without_checkpoint(inner, context, role).await;
    let Some(former) = load_fed_types(context, role).await? else {
        save_fed_types(context, role, &own).await?;
        return Ok(TypeCheck::Complete);
    };
    let checkpoint = context.load_checkpoint(role).await?;
    let mut fed_types = former.after_owner_change(&own, checkpoint);
    let mut missing = Vec::new();
    for (name, after) in fed_types.unfed.clone() {
        if !own.knows(&name) {
            continue;
        }
        if count_events_of(&*context.store, &name, Position::new(after), checkpoint, &former).await? > 0 {
            missing.push(name);
        } else {
            fed_types.unfed.remove(&name);
        }
    }
    if fed_types != former {
        check_held(held_lease).await?;
        save_fed_types(context, role, &fed_types).await?;
    }
    if missing.is_empty() {
        if let Some(version) = fed_types.version.filter(|version| *version < definition.version) {
            inner.progress().warn_of_former_version(version, &definition);
        }
        return Ok(TypeCheck::Complete);
    }
    let types = missing.join("`, `");
    if definition.kind == ProjectionKind::Transactional && !definition.tables.is_empty() {
        tracing::warn!(
            projection = definition.name, %checkpoint, types,
            "an older release fed the projection and missed events of these types: this process rebuilds it, and its \
             rows serve meanwhile"
        );
        return Ok(TypeCheck::NeedsRebuild);
    }
    let is_elsewhere = definition.kind != ProjectionKind::Transactional;
    let error = ProjectionError::MissedEvents { name: definition.name, position: checkpoint, types, is_elsewhere };
    tracing::error!(%error, "projection stopped");
    let generation = inner.progress().borrow().generation;
    inner.progress().stop(error, generation);
    Ok(TypeCheck::Stopped)
}

/// Counts the events of a type between two positions; for [`ALL_TYPES`] those of types that `former` does not name.
async fn count_events_of(
    store: &dyn EventStore,
    name: &str,
    after: Position,
    through: Position,
    former: &FedTypes,
) -> Result<u64, BoxError> {
    let of = |name: &str| Ok::<_, BoxError>(Name::new("event type", name)?);
    if name != ALL_TYPES {
        let filter = FeedFilter::all().event_types([of(name)?]);
        return Ok(store.count_events(after, through, &filter).await?);
    }
    let known = former.types.keys().map(|name| of(name)).collect::<Result<Vec<_>, _>>()?;
    let all = store.count_events(after, through, &FeedFilter::all()).await?;
    // a stream may be removed between the two
    Ok(all.saturating_sub(store.count_events(after, through, &FeedFilter::all().event_types(known)).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(types: &[(&str, u32)], unfed: &[(&str, u64)]) -> FedTypes {
        FedTypes {
            types: types.iter().map(|(name, version)| ((*name).to_owned(), *version)).collect(),
            unfed: unfed.iter().map(|(name, after)| ((*name).to_owned(), *after)).collect(),
            version: None,
        }
    }

    #[test]
    fn who_knows_more_covers_types_and_versions() {
        let (one, two, newer) = (fed(&[("A", 1)], &[]), fed(&[("A", 1), ("B", 1)], &[]), fed(&[("A", 2)], &[]));
        let all = fed(&[(ALL_TYPES, 0)], &[]);
        assert!(two.covers(&one) && !one.covers(&two));
        assert!(newer.covers(&one) && !one.covers(&newer));
        assert!(!newer.covers(&two) && !two.covers(&newer), "neither knows more");
        assert!(all.covers(&two) && !two.covers(&all));
    }

    #[test]
    fn what_an_owner_does_not_know_is_passed_by_from_where_it_began() {
        let new = fed(&[("A", 1), ("B", 1)], &[]);
        let old = fed(&[("A", 1)], &[]);
        let after_old = new.after_owner_change(&old, Position::new(7));
        assert_eq!(after_old, fed(&[("A", 1)], &[("B", 7)]));
        assert_eq!(after_old.after_owner_change(&old, Position::new(9)), fed(&[("A", 1)], &[("B", 7)]));
        assert_eq!(after_old.after_owner_change(&new, Position::new(9)), fed(&[("A", 1), ("B", 1)], &[("B", 7)]));
        assert_eq!(old.after_owner_change(&new, Position::new(9)), fed(&[("A", 1), ("B", 1)], &[("B", 0)]));
    }

    #[test]
    fn the_version_of_the_rows_is_that_of_the_last_rebuild() {
        let of = |version| FedTypes { version, ..fed(&[("A", 1)], &[]) };
        let (unknown, first, second) = (of(None), of(Some(1)), of(Some(2)));
        assert_eq!(first.after_owner_change(&second, Position::new(7)), first);
        assert_eq!(first.after_owner_change(&second, Position::START), second, "there are no rows");
        assert_eq!(first.after_rebuild(&second), second);
        assert_eq!(unknown.after_owner_change(&second, Position::new(7)), second, "no later change is missed");
        assert_eq!(from_json::<FedTypes>(r#"{"types":{"A":1},"unfed":{}}"#).unwrap(), unknown);
    }

    #[test]
    fn a_rebuild_brings_what_its_process_knows_and_takes_away_the_rest() {
        let (new, old) = (fed(&[("A", 1), ("B", 1)], &[]), fed(&[("A", 1)], &[]));
        let after_old = new.after_owner_change(&old, Position::new(7));
        assert_eq!(after_old.after_rebuild(&new), new);
        let by_old = after_old.after_rebuild(&old);
        assert_eq!(by_old, fed(&[("A", 1)], &[("B", 0)]), "what the rows had of it before is gone, too");
    }
}
