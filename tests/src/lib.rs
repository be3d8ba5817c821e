//! Tests over several crates; see `tests/`. The README's code is compiled here.

pub mod fire;
pub mod fixtures;
pub mod modules;
pub mod source;
pub mod stores;

/// The README, whose code blocks are doctests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
