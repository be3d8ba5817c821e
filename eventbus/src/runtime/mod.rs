//! What runs: registry, parameters of handlers, repository, relay, subscriptions, projections, app.

pub(crate) mod definition;
pub(crate) mod extract;
pub(crate) mod projection;
