//! For authors of backends and applications: conformance suites, one per port.

pub mod event_store;
mod fault;

pub use fault::{Fault, Faults, FaultyBus, FaultyStore};
