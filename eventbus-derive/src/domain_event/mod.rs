//! `#[derive(DomainEvent)]`: a struct becomes an event, an enum becomes a set of events.

mod expand;
mod lost;
mod model;
mod parse;
mod personal;
mod reserved;
mod tags;
mod unique;
mod upcast;

use proc_macro2::TokenStream;

use crate::{derived, mistakes::Mistakes};

/// Returns the code of the derive. With mistakes it still has the impls, so that uses of the type add no errors; only a
/// generic item, a union, or an item that `syn` refuses gets none.
pub(crate) fn derive(item: TokenStream, mistakes: &mut Mistakes) -> TokenStream {
    derived::derive(item, mistakes, parse::parse, expand::expand)
}
