//! The writes of a store. It has one connection for them: jobs wait in a queue and share the commits of batches; a
//! transaction of a handler or caller gets a permit to have the connection alone, and a watchdog ends it in time.
//!
//! A lone caller runs its write in its own task. A thread that receives commands, as sqlx-sqlite has it, costs one caller
//! 1.2 to 1.6 times the processor time of an append, since each command wakes the thread and each reply the caller.

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
