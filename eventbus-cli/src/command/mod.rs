//! The subcommands: each file holds the arguments of one and runs it.
//!
//! A subcommand reads with a function of [`query`](crate::query), and shows the result.

mod catalog;
mod causes;
mod completions;
mod copy;
#[cfg(feature = "dashboard")]
mod dashboard;
mod dead_letters;
mod doctor;
mod durations;
mod export;
mod follow;
mod groups;
mod handlers;
mod import;
mod lag;
mod new;
mod projections;
mod rebuild;
mod relay;
mod replay;
mod retirement;
mod schema;
mod skips;
mod status;
mod streams;

#[cfg(feature = "dashboard")]
pub(crate) use self::dashboard::DashboardArgs;
pub(crate) use self::{
    catalog::CatalogArgs,
    causes::CauseArgs,
    completions::CompletionArgs,
    copy::CopyArgs,
    dead_letters::DeadLetterArgs,
    doctor::DoctorArgs,
    durations::{parse_duration, parse_interval},
    export::ExportArgs,
    follow::FollowArgs,
    groups::GroupArgs,
    import::ImportArgs,
    lag::LagArgs,
    new::NewArgs,
    projections::ProjectionArgs,
    rebuild::RebuildArgs,
    relay::RelayArgs,
    replay::ReplayArgs,
    schema::{MigrateArgs, SchemaArgs},
    status::StatusArgs,
    streams::StreamArgs,
};
