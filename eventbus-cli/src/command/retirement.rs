//! Readers that no release has any more: the store forgets how far they got.
//!
//! The command holds the lease of the reader meanwhile, so a reader that a process runs is never retired.

use std::{sync::Arc, time::Duration};

use eventbus::{
    Name, Position,
    app::SkipEditor,
    port::{Lease, ProgressUpdate},
    store::EventStore,
    support::ReaderKind,
};
use serde::Serialize;

use crate::{
    error::{CommandError, ExitStatus},
    output::serialize_position,
    query::{RETIRED, SkippedRow},
    session::Session,
};

/// The time for which the command holds the lease: much longer than its few statements take.
const LEASE_TTL: Duration = Duration::from_secs(60);

/// A projection, or the relay to a bus, that is to be retired.
pub(super) struct Retirement<'r> {
    pub(super) kind: ReaderKind,
    pub(super) name: &'r str,
    /// What it is for an operator: "projection `balances`".
    pub(super) shown: String,
    pub(super) position: Position,
    /// The events that it skips by order of an operator.
    pub(super) skipped: &'r [SkippedRow],
    /// What becomes of it, for the question.
    pub(super) consequence: &'static str,
}

#[derive(Debug, Serialize)]
struct Retired<'r> {
    reader: &'r str,
    retired: bool,
    /// Where it was.
    #[serde(serialize_with = "serialize_position")]
    position: Position,
}

impl Retirement<'_> {
    /// Asks, and has the store forget the reader.
    ///
    /// # Errors
    /// [`CommandError`] if a process runs the reader, it was not confirmed, or the store cannot be reached: then a further
    /// call goes on.
    pub(super) async fn run(&self, session: &Session, store: &Arc<dyn EventStore>) -> Result<ExitStatus, CommandError> {
        let Self { shown, position, consequence, .. } = self;
        if !session.may_change(&format!("retire {shown}, which is at position {position}; {consequence}")).await? {
            return Ok(ExitStatus::Done);
        }
        let name = Name::new("reader", self.name).map_err(|error| CommandError::Usage(error.to_string()))?;
        let role = self.kind.name_of(&name);
        let lease = hold(&**store, &role, RETIRED).await?;
        let forgotten = self.forget(store, (&name, &role)).await;
        store.release_lease(&lease).await?;
        forgotten?;
        let body = Retired { reader: role.as_str(), retired: true, position: *position };
        session.printer().show(&body, |_| format!("retired {shown}, which was at position {position}\n"))?;
        Ok(ExitStatus::Done)
    }

    async fn forget(&self, store: &Arc<dyn EventStore>, (name, role): (&Name, &Name)) -> Result<(), CommandError> {
        let skips = SkipEditor::new(Arc::clone(store));
        for skip in self.skipped {
            skips.unskip(role, skip.position).await?;
        }
        if self.kind == ReaderKind::Relay {
            for floor in store.floors(name).await? {
                store.forget_floor(name, &floor.group).await?;
            }
            store.delete_checkpoint(&ReaderKind::HaltedRelay.name_of(name)).await?;
        } else if let Some(notes) = store.notes() {
            // the event types that it has handled
            notes.delete_note(role).await?;
        }
        // last: by its checkpoint a reader is found again after an interruption
        Ok(store.delete_checkpoint(role).await?)
    }
}

/// Has a store forget a group of the in-process bus to `destination`, apart from its dead letters. Returns the number of
/// deliveries that waited.
///
/// # Errors
/// [`CommandError`] if a process runs the bus, or the store cannot be reached: then a further call goes on.
pub(super) async fn forget_group(
    store: &dyn EventStore,
    destination: &Name,
    group: &Name,
) -> Result<u64, CommandError> {
    // the bus delivers in the process that has the relay to it
    let lease = hold(store, &ReaderKind::Relay.name_of(destination), "eventbus").await?;
    let forgotten = forget_progress(store, group).await;
    store.release_lease(&lease).await?;
    forgotten
}

async fn forget_progress(store: &dyn EventStore, group: &Name) -> Result<u64, CommandError> {
    let waiting = store.waiting_deliveries(group).await?;
    let finished = waiting.iter().map(|delivery| delivery.position).collect();
    store.save_progress(group, &ProgressUpdate { finished, ..Default::default() }).await?;
    store.delete_checkpoint(&ReaderKind::GroupReadLimit.name_of(group)).await?;
    // last: by its checkpoint a group is found again after an interruption
    store.delete_checkpoint(&ReaderKind::Group.name_of(group)).await?;
    Ok(waiting.len() as u64)
}

/// Takes the lease of a role.
async fn hold(store: &dyn EventStore, role: &Name, owner: &'static str) -> Result<Lease, CommandError> {
    let owner = Name::from_static(owner);
    if let Some(lease) = store.acquire_lease(role, &owner, LEASE_TTL).await? {
        return Ok(lease);
    }
    let holder =
        store.lease_of(role).await?.map_or_else(|| "a process".to_owned(), |lease| format!("`{}`", lease.owner));
    Err(CommandError::fault(format!("{holder} has the role `{role}`: stop it first")))
}
