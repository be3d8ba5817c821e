//! The macros of `eventbus`; use them through that crate.
