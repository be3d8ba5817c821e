//! For authors of backends and applications: conformance suites, one per port.

pub mod event_store;
