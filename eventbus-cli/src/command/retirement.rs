//! Retiring readers that no release has any more: the store forgets their progress.
//!
//! The command holds the lease of a projection or a relay meanwhile, so a reader that a process runs is never retired.
//! A reader that stopped before an event holds no lease between its retries: the operator must stop its process.

use std::{sync::Arc, time::Duration};

use eventbus::{
    Name, Position, app::SkipEditor, clock::SharedClock, port::Lease, store::EventStore, support::ReaderKind,
};
use serde_json::json;

use crate::{
    error::{CommandError, ExitStatus},
    output::Progress,
    query::{RETIRED, SkippedRow},
    session::Session,
};

/// The time for which the role stays taken after a command was killed or interrupted: its lease ends by itself.
const LEASE_TTL: Duration = Duration::from_secs(10);

/// A projection, or the relay to a bus, that is to be retired.
pub(super) struct Retirement<'r> {
    pub(super) kind: ReaderKind,
    pub(super) name: &'r str,
    /// Its name for an operator: "projection `balances`".
    pub(super) shown: String,
    pub(super) position: Position,
    /// The events that it skips by order of an operator.
    pub(super) skipped: &'r [SkippedRow],
    /// The consequence of retiring it, for the question.
    pub(super) consequence: &'static str,
}

impl Retirement<'_> {
    /// Asks the operator, and makes the store forget the reader.
    ///
    /// # Errors
    /// [`CommandError`] if a process runs the reader, the operator did not confirm, or the store cannot be reached: a
    /// further call then goes on. It also goes on after an interrupted call, once that call's lease has ended, within
    /// 10 seconds.
    pub(super) async fn run(&self, session: &Session, store: &Arc<dyn EventStore>) -> Result<ExitStatus, CommandError> {
        let Self { shown, position, consequence, .. } = self;
        if !session.may_change(&format!("retire {shown}, which is at position {position}; {consequence}")).await? {
            return Ok(ExitStatus::Done);
        }
        let name = Name::new("reader", self.name).map_err(|error| CommandError::Usage(error.to_string()))?;
        let role = self.kind.name_of(&name);
        let forgetting = with_lease(&**store, session.clock(), &role, self.forget(store, (&name, &role)));
        Progress::during("retiring", forgetting).await?;
        let body = json!({ "reader": role.as_str(), "retired": true, "position": position.to_string() });
        session.show(&body, |_| format!("retired {shown}, which was at position {position}\n"))
    }

    async fn forget(&self, store: &Arc<dyn EventStore>, (name, role): (&Name, &Name)) -> Result<(), CommandError> {
        let skips = SkipEditor::new(Arc::clone(store));
        for skip in self.skipped {
            skips.unskip(role, skip.position).await?;
        }
        if self.kind == ReaderKind::Relay {
            store.delete_checkpoint(&ReaderKind::HaltedRelay.name_of(name)).await?;
        } else if let Some(notes) = store.notes() {
            notes.delete_note(role).await?;
        }
        // last: after an interruption the checkpoint shows that there is a reader to retire
        Ok(store.delete_checkpoint(role).await?)
    }
}

/// Does `work` under the lease of a role. Renews the lease meanwhile, because a list of skips may be
/// long.
///
/// # Errors
/// The error of `work`; [`CommandError`] if a different process has the role, or takes it before `work` ends.
async fn with_lease<T>(
    store: &dyn EventStore,
    clock: &SharedClock,
    role: &Name,
    work: impl Future<Output = Result<T, CommandError>>,
) -> Result<T, CommandError> {
    let Some(lease) = store.acquire_lease(role, &Name::from_static(RETIRED), LEASE_TTL).await? else {
        return Err(role_taken(store, role).await);
    };
    let done = tokio::select! {
        done = work => done,
        // the process that has the role now may save what `work` would delete
        error = renew(store, clock, &lease) => Err(error),
    };
    // only the work matters: a lease that is not released ends by itself
    let _ = store.release_lease(&lease).await;
    done
}

/// Renews a lease until that fails, and returns the reason.
async fn renew(store: &dyn EventStore, clock: &SharedClock, lease: &Lease) -> CommandError {
    loop {
        clock.sleep(LEASE_TTL / 3).await;
        match store.renew_lease(lease, LEASE_TTL).await {
            Ok(true) => {}
            Ok(false) => return role_taken(store, &lease.role).await,
            Err(error) => return error.into(),
        }
    }
}

/// Returns the error about a role that a different process has.
async fn role_taken(store: &dyn EventStore, role: &Name) -> CommandError {
    let holder = match store.lease_of(role).await {
        Ok(lease) => lease.map_or_else(|| "a process".to_owned(), |lease| format!("`{}`", lease.owner)),
        Err(error) => return error.into(),
    };
    CommandError::fault(format!("{holder} has the role `{role}`: stop it first"))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use eventbus::{InMemoryEventStore, port::Leases as _, testkit::ManualClock};

    use super::*;

    const ROLE: Name = Name::from_static("projection:totals");
    /// Each sleeper of the clock sleeps longer.
    const AN_INSTANT: Duration = Duration::from_millis(1);

    /// Returns a clock that the test moves, and a store whose leases end by it.
    fn store() -> (ManualClock, SharedClock, InMemoryEventStore) {
        let manual = ManualClock::new();
        let clock = SharedClock::new(manual.clone());
        let store = InMemoryEventStore::with_clock(clock.clone());
        (manual, clock, store)
    }

    #[tokio::test]
    async fn a_long_retirement_keeps_its_lease() {
        let (manual, clock, store) = store();
        let work = async {
            let mut is_held = true;
            // three times as long as a lease that is not renewed
            for _ in 0..9 {
                manual.advance(manual.wait_for_sleeper(AN_INSTANT).await);
                is_held &= store.lease_of(&ROLE).await?.is_some();
            }
            Ok::<_, CommandError>(is_held)
        };
        assert!(with_lease(&store, &clock, &ROLE, work).await.unwrap(), "the lease ended before the work");
        assert_eq!(store.lease_of(&ROLE).await.unwrap(), None, "it is released");
    }

    #[tokio::test]
    async fn a_retirement_ends_when_a_process_has_taken_the_role() {
        let (manual, clock, store) = store();
        let vm = Name::from_static("vm:1");
        let work = async {
            let until_renewal = manual.wait_for_sleeper(AN_INSTANT).await;
            store.seize_lease(&ROLE, &vm, LEASE_TTL).await?;
            manual.advance(until_renewal);
            pending::<Result<(), CommandError>>().await
        };
        let error = with_lease(&store, &clock, &ROLE, work).await.unwrap_err();
        assert_eq!(error.to_line(), "`vm:1` has the role `projection:totals`: stop it first");
        assert_eq!(store.lease_of(&ROLE).await.unwrap().unwrap().owner, vm, "it stays with the process");
    }

    #[tokio::test]
    async fn the_lease_of_an_interrupted_retirement_ends_within_ten_seconds() {
        let (manual, clock, store) = store();
        let role = ROLE;
        let work = pending::<Result<(), CommandError>>();
        // as Ctrl-C ends a command
        tokio::select! {
            ended = with_lease(&store, &clock, &role, work) => panic!("{ended:?}"),
            _ = manual.wait_for_sleeper(AN_INSTANT) => {}
        }
        assert!(store.lease_of(&ROLE).await.unwrap().is_some());
        manual.advance(Duration::from_secs(10));
        assert_eq!(store.lease_of(&ROLE).await.unwrap(), None);
    }
}
