//! `#[derive(DomainEvent)]`: a struct becomes an event, an enum of events a set to ask for.

mod expand;
mod model;
mod parse;
mod reserved;

use proc_macro2::TokenStream;
use syn::DeriveInput;

use crate::mistakes::Mistakes;

/// The code of the derive. With mistakes the impls are still there, so that uses of the type add no errors.
pub(crate) fn derive(item: TokenStream, mistakes: &mut Mistakes) -> TokenStream {
    mistakes
        .take(syn::parse2::<DeriveInput>(item))
        .and_then(|input| parse::parse(&input, mistakes))
        .map(|model| expand::expand(&model, mistakes.is_empty()))
        .unwrap_or_default()
}
