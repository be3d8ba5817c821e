//! The model of an earlier version of an event: the parsed attribute and struct.

use syn::{Ident, Path};

/// An item with `#[derive(OldEvent)]`.
pub(super) struct Model {
    pub(super) krate: Path,
    pub(super) ident: Ident,
    /// The event of which it holds an earlier version.
    pub(super) event: Path,
    pub(super) version: u32,
}
