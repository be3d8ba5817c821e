//! Appending: one statement in one round trip for all concurrent appends, and a second one only for those appends that
//! the first did not store or did not answer.
//!
//! Invariant: a caller gets a definite result only if it is final. A statement that was sent and got no answer may
//! still run in its backend; from then on a result is final only if a late commit of that statement cannot change it.

mod add_tag;
mod blocked_streams;
mod entry;
mod executor;
mod group_commit;
mod in_transaction;
mod multi_stream;
mod plan;
mod retry_budget;
mod stored_at;

use eventbus::{
    RecordedEvent,
    port::{Append, AppendError},
    support::{check_events, check_ids},
};

pub(crate) use self::add_tag::add_tag;
pub use self::in_transaction::PgAppendInError;
pub(crate) use self::in_transaction::append_in_transaction;
pub(crate) use self::{
    group_commit::GroupCommit,
    multi_stream::{MultiStreamStatement, find_command, handled_deliveries, is_handled},
};

/// The result of one append: its events as recorded.
pub(crate) type AppendResult = Result<Vec<RecordedEvent>, AppendError>;

/// Refuses invalid appends before they are sent: the server would refuse the whole statement, with every append in it.
pub(crate) fn check_append(append: &Append) -> Result<(), AppendError> {
    check_ids(&append.stream, &append.events)?;
    check_events(&append.stream, &append.events)
}
