//! `#[handler]`: an async function stays as it is, and a type of the same name describes it.

mod expand;
mod model;
mod parse;

use proc_macro2::TokenStream;
use quote::quote;

use crate::mistakes::Mistakes;

/// Returns the code of the attribute. With mistakes it still has the function and its type.
pub(crate) fn attribute(arguments: TokenStream, item: &TokenStream, mistakes: &mut Mistakes) -> TokenStream {
    let twin = match parse::parse(arguments, item, mistakes) {
        parse::Parsed::Handler(model) if mistakes.is_empty() => expand::expand(&model),
        parse::Parsed::Handler(model) => expand::fallback(&model.twin),
        parse::Parsed::Function(twin) => expand::fallback(&twin),
        parse::Parsed::Nothing => TokenStream::new(),
    };
    quote! {
        #[allow(
            clippy::needless_pass_by_ref_mut,
            clippy::needless_pass_by_value,
            clippy::trivially_copy_pass_by_ref,
            clippy::unused_async
        )]
        #item
        #twin
    }
}
