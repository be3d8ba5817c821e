//! `#[derive(Decision)]`: a struct becomes what a decision knows, folded from events of any streams.

mod expand;
mod parse;

use proc_macro2::TokenStream;
use syn::{DeriveInput, Path};

use crate::{event_enum::EventEnum, mistakes::Mistakes, shared};

/// An item with `#[derive(Decision)]`.
struct Model {
    krate: Path,
    events: EventEnum,
}

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
