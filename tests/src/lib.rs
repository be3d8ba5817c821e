//! Tests over several crates; see `tests/`. The code of the README, and of the page of the crate `eventbus`, is compiled here.

pub mod fire;
pub mod fixtures;
pub mod modules;
pub mod source;
pub mod stores;

/// The README, whose code blocks are doctests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

/// The page of the crate `eventbus`, likewise.
#[cfg(doctest)]
#[doc = include_str!("../../eventbus/README.md")]
pub struct CratePage;
