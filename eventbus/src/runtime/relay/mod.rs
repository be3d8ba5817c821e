//! The relay: the one publisher of a store's events.
//!
//! Reads the feed after its position and publishes it in order; a save only wakes it, so a bus outage delays handlers
//! but never fails a save. Of the processes of an app one is the leader, by a lease in the store; the rest stand by. To a
//! bus that is not durable each process relays for itself, from the head of the store at its start.
//!
//! Invariant: the lease only saves double work. Events are published once because a
//! [`RelayTarget`](crate::port::RelayTarget) moves its record of the store together with them; any other durable bus gets events
//! again after a crash between publishing and the checkpoint. The other order would lose them.

mod at_least_once;
mod atomic;
mod begin;
mod checkpoint_names;
mod error;
mod leadership;
mod other_store;
mod range;
mod republish;
mod restore_watch;
mod status;
mod task;

pub use self::{
    begin::begin_after,
    error::{BeginError, RelayError, RepublishError},
    republish::republish,
    status::RelayStatus,
};
pub(crate) use self::{
    other_store::refuse_other_store,
    status::{RelayView, is_published_on_bus},
    task::{Relay, RelayOptions},
};
