//! What runs: registry, parameters of handlers, repository, relay, subscriptions, projections, app.

pub(crate) mod app;
pub(crate) mod definition;
pub(crate) mod effect;
pub(crate) mod extract;
mod feed;
pub(crate) mod follow;
pub(crate) mod projection;
pub(crate) mod registry;
pub(crate) mod relay;
pub(crate) mod repository;
pub(crate) mod skip;
pub(crate) mod start;
pub(crate) mod subscription;
pub(crate) mod tenure;
