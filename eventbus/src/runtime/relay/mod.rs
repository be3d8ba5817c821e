//! The relay: the one publisher of a store's events.
//!
//! Reads the feed after its position and publishes it in order; a save only wakes it, so a bus outage delays the
//! consumers of the bus, and neither fails a save nor delays handlers of the store. Of the processes of an app one is the
//! leader, by a lease in the store; the rest stand by.
//!
//! Invariant: the lease only saves double work. Events are published once because a
//! [`RelayTarget`](crate::port::RelayTarget) moves its record of the store together with them.

mod begin;
mod checkpoint_names;
mod error;
mod fork;
mod other_store;
mod publisher;
mod range;
mod republish;
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
