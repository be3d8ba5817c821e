//! What the macro understood.

use syn::{Ident, Path, Visibility};

/// An item with `#[derive(Aggregate)]`.
pub(super) struct Model {
    pub(super) krate: Path,
    pub(super) vis: Visibility,
    pub(super) ident: Ident,
    pub(super) aggregate_type: String,
    /// The name of the enum of its events.
    pub(super) event: Ident,
    pub(super) listed: Vec<Listed>,
}

/// An event in `events(..)`.
pub(super) struct Listed {
    pub(super) path: Path,
    /// The last segment, or the name after `as`.
    pub(super) variant: Ident,
}
