//! The running parts: event registry, handler parameters, repository, relay, subscriptions, projections, app.

pub(crate) mod aggregate_state;
pub(crate) mod app;
#[cfg(feature = "catalog")]
pub(crate) mod catalog;
pub(crate) mod definition;
pub(crate) mod engine;
pub(crate) mod extract;
mod feed_head;
mod feed_poller;
pub(crate) mod follow;
pub(crate) mod handler_context;
pub(crate) mod handler_inbox;
mod head_poll;
pub(crate) mod held_lease;
pub(crate) mod lease_renewer;
pub(crate) mod metrics;
mod page_reader;
pub(crate) mod projection;
pub(crate) mod registry;
pub(crate) mod relay;
pub(crate) mod repository;
mod restore_watch;
mod retention;
pub(crate) mod skip;
pub(crate) mod start;
mod stored_declarations;
pub(crate) mod subscription;
pub(crate) mod trait_probe;
