//! `#[projection]`: the methods of an `impl` block become a read model of events.

mod expand;
mod model;
mod parse;

use proc_macro2::TokenStream;
use quote::quote;

use crate::mistakes::Mistakes;

/// Returns the code of the attribute. With mistakes it still has the `impl` block.
pub(crate) fn attribute(arguments: TokenStream, item: &TokenStream, mistakes: &mut Mistakes) -> TokenStream {
    let projection = parse::parse(arguments, item, mistakes)
        .map(|model| if mistakes.is_empty() { expand::expand(&model) } else { expand::fallback(&model) })
        .unwrap_or_default();
    quote! {
        #[allow(
            clippy::missing_const_for_fn,
            clippy::needless_pass_by_ref_mut,
            clippy::needless_pass_by_value,
            clippy::trivially_copy_pass_by_ref,
            clippy::unused_async,
            clippy::unused_self
        )]
        #item
        #projection
    }
}
