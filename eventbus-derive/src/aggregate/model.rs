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
    /// Set if it is a further fold of the streams of another aggregate.
    pub(super) is_fold: bool,
    pub(super) events: EventEnum,
    /// The wire names of events that it no longer knows.
    pub(super) retired: Vec<LitStr>,
    /// Set if states are kept in snapshots.
    pub(super) snapshot: Option<Snapshot>,
}

/// The `snapshot(..)` option.
pub(super) struct Snapshot {
    pub(super) every: u32,
    pub(super) version: u32,
    /// The text of the item, whose changes make snapshots of before useless.
    pub(super) source: String,
}
