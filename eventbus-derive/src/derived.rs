//! What the derives of shared types have in common.

use proc_macro2::TokenStream;
use syn::DeriveInput;

use crate::{mistakes::Mistakes, shared};

/// Returns the code of a derive. `parse` returns a model of the item, if it can also of one with mistakes; `expand`
/// returns the model's code, and gets `true` if the item has no mistakes.
pub(crate) fn derive<M>(
    item: TokenStream,
    mistakes: &mut Mistakes,
    parse: impl FnOnce(&DeriveInput, &mut Mistakes) -> Option<M>,
    expand: impl FnOnce(&M, bool) -> TokenStream,
) -> TokenStream {
    let Some(input) = mistakes.take(syn::parse2::<DeriveInput>(item)) else {
        return TokenStream::new();
    };
    let model = parse(&input, mistakes);
    let mut code = model.map(|model| expand(&model, mistakes.is_empty())).unwrap_or_default();
    code.extend(shared::fallback(&input));
    code
}
