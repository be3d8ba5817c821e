//! The model of an aggregate: the parsed attribute and struct.

use proc_macro2::TokenStream;
use syn::{Ident, LitStr, Path};

use crate::event_enum::EventEnum;

/// An item with `#[derive(Aggregate)]`.
pub(super) struct Model {
    pub(super) krate: Path,
    pub(super) ident: Ident,
    /// The durable name of its type: a constant expression.
    pub(super) aggregate_type: TokenStream,
    pub(super) id_type: TokenStream,
    /// Set if the item is a further fold of the streams of a different aggregate.
    pub(super) is_fold: bool,
    pub(super) events: EventEnum,
    /// The wire names of events that the aggregate no longer knows.
    pub(super) retired: Vec<LitStr>,
    /// Set if the repository keeps states in snapshots.
    pub(super) snapshot: Option<Snapshot>,
}

/// The `snapshot(..)` option.
pub(super) struct Snapshot {
    pub(super) every: u32,
    pub(super) version: u32,
    /// The text of the item; a change of it invalidates earlier snapshots.
    pub(super) source: String,
}
