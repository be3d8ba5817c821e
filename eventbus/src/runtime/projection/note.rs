//! The note of a projection beside its checkpoint: the event types that its owner knows, the version of the methods that
//! made its rows, and the event at which it stopped.
//!
//! Two releases of a projection share its rows while one is rolled out over the other, and the older one misses events
//! of types that only the newer one knows. So a process that knows more types seizes the lease from an owner that knows
//! fewer, and each new owner checks whether events of its types were missed.
//!
//! Invariant: a type counts as handled up to the checkpoint only if every owner since its first event knew it. The owner
//! changes the note under the lease, and the note lists left types until a rebuild has handled their events.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio_util::sync::CancellationToken;

use super::{
    ProjectionError, RebuildError,
    context::{RunnerContext, projection_role},
    fed_projection::FedProjection,
    rows_check::warn_of_rows_without_checkpoint,
};
use crate::{
    domain::{
        error::BoxError,
        event::{EventDescriptor, EventFilter},
        metadata::EventId,
        name::Name,
        record::RecordedEvent,
        shown,
        stream::Position,
    },
    port::{CheckpointError, EventStore, FeedFilter, delivery::HandlerError},
    runtime::{
        definition::{ProjectionDefinition, ProjectionKind},
        held_lease::HeldLease,
    },
    support::from_json,
};

/// Most characters of an error in a note.
const ERROR_CHARS_MAX: usize = 500;

/// Stands for every type.
const ALL_TYPES: &str = "*";

/// Event types, also by their former names, each with its highest schema version.
pub(super) type TypeVersions = BTreeMap<String, u32>;

/// The note of a projection beside its checkpoint, in JSON under the same name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ProjectionNote {
    /// The event types that the last owner knew.
    types: TypeVersions,
    /// The types whose events up to the checkpoint may be missing, each with the position after which owners did not
    /// know it.
    left: BTreeMap<String, u64>,
    /// The version of the methods that made the first rows, or rebuilt all.
    version: u32,
    /// Stands while the checkpoint is before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stopped: Option<NotedStop>,
}

/// The stop of a projection before an event that it cannot handle, as the store keeps it.
///
/// It stands while the checkpoint of the projection is before the position, and the projection does not skip the event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NotedStop {
    /// The position of the event.
    pub position: Position,
    /// The type of the event.
    pub event_type: String,
    /// The id of the event.
    pub event_id: EventId,
    /// The error of the projection's method, in one line of at most 500 characters.
    pub error: String,
    /// The process that stopped there last: host, process id, and random digits that tell starts apart.
    pub owner: String,
    /// Time of the stop, which later retries do not change.
    #[serde(serialize_with = "shown::moment", deserialize_with = "parse_time")]
    pub since: OffsetDateTime,
}

impl NotedStop {
    /// Loads the noted stop of a projection, by the name of its checkpoint: `projection:{name}`. Returns `None` if there
    /// is none, the projection has passed the event, or the store keeps no notes.
    ///
    /// # Errors
    /// [`CheckpointError`] if the store cannot be reached, or the note cannot be read.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
    /// use eventbus::{InMemoryEventStore, Name, projection::NotedStop};
    /// let reader = Name::new("reader", "projection:balances")?;
    /// assert_eq!(NotedStop::load(&InMemoryEventStore::new(), &reader).await?, None);
    /// # Ok(()) }
    /// ```
    pub async fn load(store: &dyn EventStore, reader: &Name) -> Result<Option<Self>, CheckpointError> {
        let noted = ProjectionNote::load(store, reader).await?.and_then(|note| note.stopped);
        let checkpoint = store.load_checkpoint(reader).await?.unwrap_or_default();
        Ok(noted.filter(|stop| stop.position > checkpoint))
    }

    /// Makes the stop of a projection in this process. A stop at the same event as the former one keeps its time.
    pub(super) fn new(
        context: &RunnerContext,
        record: &RecordedEvent,
        error: &HandlerError,
        former: Option<&Self>,
    ) -> Self {
        let position = record.position().unwrap_or_default();
        let former = former.filter(|former| former.position == position);
        Self {
            position,
            event_type: record.event_type().to_string(),
            event_id: record.metadata().event_id(),
            error: one_line(&error.to_string()),
            owner: context.owner.to_string(),
            since: former.map_or_else(|| context.clock.now(), |former| former.since),
        }
    }
}

fn one_line(text: &str) -> String {
    let parts: Vec<_> = text.split_whitespace().collect();
    parts.join(" ").chars().take(ERROR_CHARS_MAX).collect()
}

fn parse_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OffsetDateTime, D::Error> {
    let text = String::deserialize(deserializer)?;
    OffsetDateTime::parse(&text, &Rfc3339).map_err(D::Error::custom)
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

impl ProjectionNote {
    /// Returns the note of rows that this release has made from the first event on.
    fn of(definition: &ProjectionDefinition) -> Self {
        Self { types: types_of(definition.events), version: definition.version, ..Self::default() }
    }

    fn knows(&self, event_type: &str) -> bool {
        self.types.contains_key(ALL_TYPES) || self.types.contains_key(event_type)
    }

    /// Returns the note for an owner that begins at a checkpoint, before it counts the missed events; `own` is the note
    /// of its release.
    fn after_owner_change(&self, own: &Self, checkpoint: Position) -> Self {
        let mut left = self.left.clone();
        for dropped in self.types.keys().filter(|name| *name != ALL_TYPES && !own.knows(name)) {
            left.entry(dropped.clone()).or_insert(checkpoint.get());
        }
        for added in own.types.keys().filter(|name| !self.knows(name)) {
            left.entry(added.clone()).or_insert(0);
        }
        // without a checkpoint there are no rows of an earlier version
        let version = if checkpoint > Position::START { self.version } else { own.version };
        let stopped = self.stopped.clone().filter(|stop| stop.position > checkpoint);
        Self { types: own.types.clone(), left, version, stopped }
    }

    /// Loads the note of a projection by the name of its checkpoint; `None` if there is none, or the store keeps no notes.
    pub(super) async fn load(store: &dyn EventStore, role: &Name) -> Result<Option<Self>, CheckpointError> {
        let Some(notes) = store.notes() else { return Ok(None) };
        let text = notes.load_note(role).await?;
        text.map(|text| from_json(&text)).transpose().map_err(|error| CheckpointError::new(role, error))
    }

    async fn save(&self, store: &dyn EventStore, role: &Name) -> Result<(), BoxError> {
        if let Some(notes) = store.notes() {
            notes.save_note(role, &serde_json::to_string(self)?).await?;
        }
        Ok(())
    }
}

/// Returns the types that a release knows.
pub(super) fn types_of(events: EventFilter) -> TypeVersions {
    let EventFilter::Only(events) = events else {
        return TypeVersions::from([(ALL_TYPES.to_owned(), 0)]);
    };
    let mut types = TypeVersions::new();
    for (event_type, schema_version) in events.iter().flat_map(names_with_version) {
        let version = types.entry(event_type.to_owned()).or_default();
        *version = schema_version.max(*version);
    }
    types
}

/// Returns `true` if `types` has every type of `other`, in its version or a higher one.
fn covers(types: &TypeVersions, other: &TypeVersions) -> bool {
    let knows = |(name, version): (&String, &u32)| types.get(name).is_some_and(|known| known >= version);
    types.contains_key(ALL_TYPES) || other.iter().all(knows)
}

/// Returns the names of an event's type, the former ones too, each with its schema version.
fn names_with_version(event: &EventDescriptor) -> impl Iterator<Item = (&'static str, u32)> {
    let schema_version = event.schema_version;
    event.event_types().map(move |event_type| (event_type, schema_version))
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
/// all types that it knows.
///
/// # Errors
/// If a different process holds the lease, or the store cannot be reached; the former note may stand then.
pub(super) async fn record_rebuild(
    definition: &ProjectionDefinition,
    context: &RunnerContext,
    held_lease: &HeldLease,
) -> Result<(), BoxError> {
    check_held(held_lease).await?;
    ProjectionNote::of(definition).save(&*context.store, &held_lease.lease().role).await
}

/// Notes a stop of the projection that this process feeds, for other processes and for tools.
pub(super) async fn record_stop(
    context: &RunnerContext,
    held_lease: &HeldLease,
    record: &RecordedEvent,
    error: &HandlerError,
) -> Result<(), BoxError> {
    check_held(held_lease).await?;
    let (store, role) = (&*context.store, &held_lease.lease().role);
    let Some(mut note) = ProjectionNote::load(store, role).await? else { return Ok(()) };
    note.stopped = Some(NotedStop::new(context, record, error, note.stopped.as_ref()));
    note.save(store, role).await
}

/// Notes that the rows are right although events were missed, and resumes the projection. Returns `true` if that
/// changed the note.
pub(crate) async fn accept_missed_events(
    inner: &dyn FedProjection,
    context: &RunnerContext,
    stop: &CancellationToken,
) -> Result<bool, RebuildError> {
    let (definition, store) = (inner.definition(), &*context.store);
    let name = definition.name;
    if definition.kind == ProjectionKind::InMemory {
        return Ok(false); // each start replays it from the first event
    }
    let lease_request = context.command_lease_request(projection_role(name), "accept");
    let held_lease = lease_request.seize(stop).await.map_err(|error| RebuildError::store(name, error))?;
    let role = &held_lease.lease().role;
    let accepted = async {
        let Some(former) = ProjectionNote::load(store, role).await? else {
            return Ok(false);
        };
        let own = ProjectionNote::of(&definition);
        let mut note = former.after_owner_change(&own, context.load_checkpoint(role).await?);
        note.left.retain(|name, _| !own.knows(name));
        note.version = own.version;
        let is_news = note != former;
        if is_news {
            note.save(store, role).await?;
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
    let own = types_of(definition.events);
    Ok(match ProjectionNote::load(&*context.store, &projection_role(definition.name)).await? {
        Some(note) if !covers(&own, &note.types) => TypeComparison::KnowsLess,
        Some(note) if !covers(&note.types, &own) => TypeComparison::KnowsMore,
        _ => TypeComparison::Same,
    })
}

/// Checks, once this process holds the lease, whether events of its types were missed.
pub(super) async fn check_types(
    inner: &dyn FedProjection,
    context: &RunnerContext,
    held_lease: &HeldLease,
) -> Result<TypeCheck, BoxError> {
    let (definition, store, role) = (inner.definition(), &*context.store, &held_lease.lease().role);
    if inner.progress().borrow().must_reset_checkpoint {
        return Ok(TypeCheck::Complete); // the feed begins at the first event anyway
    }
    warn_of_rows_without_checkpoint(inner, context, role).await;
    let own = ProjectionNote::of(&definition);
    let Some(former) = ProjectionNote::load(store, role).await? else {
        own.save(store, role).await?;
        return Ok(TypeCheck::Complete);
    };
    let checkpoint = context.load_checkpoint(role).await?;
    let mut note = former.after_owner_change(&own, checkpoint);
    let mut missing = Vec::new();
    for (name, after) in note.left.clone().into_iter().filter(|(name, _)| own.knows(name)) {
        if count_events_of(store, &name, Position::new(after), checkpoint, &former).await? > 0 {
            missing.push(name);
        } else {
            note.left.remove(&name);
        }
    }
    if note != former {
        check_held(held_lease).await?;
        note.save(store, role).await?;
    }
    if missing.is_empty() {
        if note.version < definition.version {
            warn_of_former_version(note.version, &definition);
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

fn warn_of_former_version(version: u32, definition: &ProjectionDefinition) {
    let (name, own) = (definition.name, definition.version);
    let rebuild = match definition.kind {
        ProjectionKind::Transactional if definition.tables.is_empty() => format!("`rebuild {name}`, with `tables(..)`"),
        ProjectionKind::Transactional => format!("`rebuild {name}`"),
        // only the app that feeds it can
        _ => "`app.rebuild`".to_owned(),
    };
    tracing::warn!(
        projection = name,
        "rows of `{name}` were made by version {version}, this release has {own}: {rebuild} makes them anew"
    );
}

/// Counts the events of a type between two positions; for [`ALL_TYPES`] those of types that `former` does not name.
async fn count_events_of(
    store: &dyn EventStore,
    name: &str,
    after: Position,
    through: Position,
    former: &ProjectionNote,
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

    fn note(types: &[(&str, u32)], left: &[(&str, u64)]) -> ProjectionNote {
        ProjectionNote {
            types: types.iter().map(|(name, version)| ((*name).to_owned(), *version)).collect(),
            left: left.iter().map(|(name, after)| ((*name).to_owned(), *after)).collect(),
            ..ProjectionNote::default()
        }
    }

    #[test]
    fn who_knows_more_covers_types_and_versions() {
        let of = |types: &[(&str, u32)]| note(types, &[]).types;
        let (one, two, newer, all) = (of(&[("A", 1)]), of(&[("A", 1), ("B", 1)]), of(&[("A", 2)]), of(&[("*", 0)]));
        assert!(covers(&two, &one) && !covers(&one, &two));
        assert!(covers(&newer, &one) && !covers(&one, &newer));
        assert!(!covers(&newer, &two) && !covers(&two, &newer), "neither knows more");
        assert!(covers(&all, &two) && !covers(&two, &all));
    }

    #[test]
    fn a_type_that_an_owner_does_not_know_is_left_where_the_owner_began() {
        let new = note(&[("A", 1), ("B", 1)], &[]);
        let old = note(&[("A", 1)], &[]);
        let after_old = new.after_owner_change(&old, Position::new(7));
        assert_eq!(after_old, note(&[("A", 1)], &[("B", 7)]));
        assert_eq!(after_old.after_owner_change(&old, Position::new(9)), note(&[("A", 1)], &[("B", 7)]));
        assert_eq!(after_old.after_owner_change(&new, Position::new(9)), note(&[("A", 1), ("B", 1)], &[("B", 7)]));
        assert_eq!(old.after_owner_change(&new, Position::new(9)), note(&[("A", 1), ("B", 1)], &[("B", 0)]));
    }

    #[test]
    fn the_version_of_the_rows_is_that_of_the_first_owner() {
        let of = |version| ProjectionNote { version, ..note(&[("A", 1)], &[]) };
        let (first, second) = (of(1), of(2));
        assert_eq!(first.after_owner_change(&second, Position::new(7)), first);
        assert_eq!(first.after_owner_change(&second, Position::START), second, "there are no rows");
    }

    #[test]
    fn an_error_is_noted_in_one_line_of_bounded_length() {
        assert_eq!(one_line("no such\n  customer\n"), "no such customer");
        assert_eq!(one_line(&"ü".repeat(ERROR_CHARS_MAX + 1)), "ü".repeat(ERROR_CHARS_MAX));
    }
}
