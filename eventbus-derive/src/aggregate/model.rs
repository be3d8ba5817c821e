//! The model of an aggregate: the parsed attribute and struct.

use proc_macro2::TokenStream;
use syn::{Ident, LitStr, Path, Visibility};

use crate::surroundings::Taken;

/// An item with `#[derive(Aggregate)]`.
pub(super) struct Model {
    pub(super) krate: Path,
    pub(super) vis: Visibility,
    pub(super) ident: Ident,
    /// The durable name of its type: a constant expression.
    pub(super) aggregate_type: TokenStream,
    pub(super) id_type: TokenStream,
    /// Set if it is a further fold of the streams of another aggregate.
    pub(super) is_fold: bool,
    /// The name of the enum of its events.
    pub(super) event: Ident,
    pub(super) listed: Vec<Listed>,
    /// The wire names of events that it no longer knows.
    pub(super) retired: Vec<LitStr>,
    /// Set if states are kept in snapshots.
    pub(super) snapshot: Option<Snapshot>,
    /// The user's own type of that name, already reported as a mistake: it stands in for the enum.
    pub(super) taken: Option<Taken>,
}

/// An event in `events(..)`.
pub(super) struct Listed {
    pub(super) path: Path,
    /// The last segment, or the name after `as`.
    pub(super) variant: Ident,
}

/// The `snapshot(..)` option.
pub(super) struct Snapshot {
    pub(super) every: u32,
    pub(super) version: u32,
    /// The text of the item, whose changes make snapshots of before useless.
    pub(super) source: String,
}
