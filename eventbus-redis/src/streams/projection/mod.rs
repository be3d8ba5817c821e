//! Projections of a stream into keys of the same Redis.
//!
//! Invariant: one step writes the effects of entries and moves the checkpoint, only if the checkpoint is still where
//! the entries were read after. So any number of runners may run, and die at any moment. A projection stops if entries
//! are gone that it had not processed.

mod apply;
mod batch;
mod effects;
mod error;
mod event_projection;
mod handlers;
mod keys;
mod position;
mod progress;
mod rebuild;
mod step_runner;

pub use self::{
    effects::Effects,
    error::StreamProjectionError,
    event_projection::EventProjection,
    progress::{Applied, ProjectionProgress},
};
