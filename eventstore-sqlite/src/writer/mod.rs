//! The writes of a store, which has one connection for them: jobs wait in a queue and share the commits of batches; a
//! transaction of a handler or caller gets a permit for exclusive use of the connection, and a watchdog ends it in
//! time.
//!
//! A single caller runs its write in its own task. With a thread that receives commands, as in sqlx-sqlite, an append
//! of a single caller takes 1.2 to 1.6 times the processor time, since each command wakes the thread and each reply
//! wakes the caller.

mod batch;
mod permit;
mod queue;
mod transaction;
mod watchdog;
#[expect(clippy::module_inception, reason = "the file of `Writer`, whose fields no other module may see")]
mod writer;

pub(crate) use self::{
    permit::{ExecutionContext, WritePermit},
    transaction::{CheckedOutConnection, ConnectionGuard, EndReason, HeldConnection},
    writer::{INLINE_EVENTS_MAX, Writer},
};
