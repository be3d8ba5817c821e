//! What the macros generate, seen from outside.

mod domain;
mod events;
mod handlers;
mod projections;
mod recording;
