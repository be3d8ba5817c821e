//! The subcommands: each file holds the arguments of one, and runs it.
//!
//! A subcommand reads by a function of [`query`](crate::query), and shows what that returns.

mod completions;
mod dead_letters;
mod durations;
mod follow;
mod groups;
mod lag;
mod projections;
mod relay;
mod schema;
mod status;
mod streams;

pub(crate) use self::{
    completions::CompletionArgs,
    dead_letters::DeadLetterArgs,
    durations::parse_duration,
    follow::FollowArgs,
    groups::GroupArgs,
    lag::LagArgs,
    projections::ProjectionArgs,
    relay::RelayArgs,
    schema::{MigrateArgs, SchemaArgs},
    status::StatusArgs,
    streams::StreamArgs,
};
