//! `#[derive(Aggregate)]`: a struct becomes the state of an aggregate, its events become an enum.

mod expand;
mod model;
mod parse;

use proc_macro2::TokenStream;
use syn::DeriveInput;

use crate::{mistakes::Mistakes, shared};

/// Returns the code of the derive. With mistakes it still has the enum and the impls, for the events that were parsed.
pub(crate) fn derive(item: TokenStream, mistakes: &mut Mistakes) -> TokenStream {
    let Some(input) = mistakes.take(syn::parse2::<DeriveInput>(item)) else {
        return TokenStream::new();
    };
    let model = parse::parse(&input, mistakes);
    let mut code = model.map(|model| expand::expand(&model, mistakes.is_empty())).unwrap_or_default();
    code.extend(shared::fallback(&input));
    code
}
