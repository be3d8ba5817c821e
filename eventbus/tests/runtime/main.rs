//! What runs: repository, subscriptions, relay, projections, app; on the backends in memory.

mod app;
mod orders;
mod projections;
mod relay;
mod repository;
mod subscriptions;
mod wait;
