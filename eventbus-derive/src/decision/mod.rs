//! `#[derive(Decision)]`: a struct becomes the state of a decision, folded from events of any streams.

mod expand;
mod parse;

use proc_macro2::TokenStream;
use syn::Path;

use crate::{derived, event_enum::EventEnum, mistakes::Mistakes};

/// An item with `#[derive(Decision)]`.
struct Model {
    krate: Path,
    events: EventEnum,
}

/// Returns the code of the derive. With mistakes it still has the enum and the impls, for the events that were parsed.
pub(crate) fn derive(item: TokenStream, mistakes: &mut Mistakes) -> TokenStream {
    derived::derive(item, mistakes, parse::parse, expand::expand)
}
