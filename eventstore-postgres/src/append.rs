//! Appending: one statement in one round trip for all who append at once, and a second one only for those of whom it
//! stored nothing or gave no answer.
//!
//! Keep: nothing is told the caller as certain that is not. Once a statement went out without an answer, its backend
//! may still be running; only what no late commit can change is final then.

mod blocked_streams;
mod entry;
mod executor;
mod group_commit;
mod in_transaction;
mod plan;
mod retry_budget;
mod stored_at;

use eventbus::{
    RecordedEvent,
    port::{Append, AppendError, check_events, check_ids},
};

pub(crate) use self::group_commit::GroupCommit;
pub use self::in_transaction::PgAppendInError;
pub(crate) use self::in_transaction::append_in_transaction;

/// What becomes of an append.
pub(crate) type AppendResult = Result<Vec<RecordedEvent>, AppendError>;

/// Finds what is refused without asking the server, which would refuse all that it is sent together with.
pub(crate) fn check_append(append: &Append) -> Result<(), AppendError> {
    check_ids(&append.stream, &append.events)?;
    check_events(&append.stream, &append.events)
}
