//! Projections of a stream into keys of the same Redis.
//!
//! Invariant: one step writes the effects of entries and moves the checkpoint, only if no other step has moved it since
//! the entries were read. So any number of runners may run, and die at any moment. A projection stops if entries that
//! it had not processed are gone.

mod effects;
mod error;
mod event_projection;
mod handlers;
mod position;
mod progress;
mod step_runner;

pub use self::{
    effects::Effects,
    error::StreamProjectionError,
    event_projection::EventProjection,
    progress::{Applied, ProjectionProgress},
};
