//! `#[derive(Aggregate)]`: a struct becomes the state of an aggregate, its events become an enum.

mod expand;
mod model;
mod parse;

use proc_macro2::TokenStream;

use crate::{derived, mistakes::Mistakes};

/// Returns the code of the derive. With mistakes it still has the enum and the impls, for the events that were parsed.
pub(crate) fn derive(item: TokenStream, mistakes: &mut Mistakes) -> TokenStream {
    derived::derive(item, mistakes, parse::parse, expand::expand)
}
