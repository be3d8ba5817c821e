//! `#[derive(OldEvent)]`: a struct holds the fields of an earlier version of an event.

mod expand;
mod model;
mod parse;

use proc_macro2::TokenStream;
use syn::DeriveInput;

use crate::mistakes::Mistakes;

/// Returns the code of the derive. With mistakes it still has the impl, so that the event adds no errors.
pub(crate) fn derive(item: TokenStream, mistakes: &mut Mistakes) -> TokenStream {
    let Some(input) = mistakes.take(syn::parse2::<DeriveInput>(item)) else {
        return TokenStream::new();
    };
    let model = parse::parse(&input, mistakes);
    model.map(|model| expand::expand(&model, mistakes.is_empty())).unwrap_or_default()
}
