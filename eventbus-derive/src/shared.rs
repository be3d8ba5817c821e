//! Fields that cannot be shared between threads.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Field};

use crate::{mistakes::Mistakes, parameters::contains};

/// Reports fields with an `Rc`; `what` names their item (`an event`).
pub(crate) fn check(what: &str, data: &Data, mistakes: &mut Mistakes) {
    for field in with_rc(data) {
        mistakes.at(&field.ty, format!("`Rc` stays in one thread, and {what} is used in any: write `Arc`"));
    }
}

/// Declares a type with such a field as `Send` and `Sync`, so that rustc does not repeat the mistake. The code never
/// compiles.
pub(crate) fn fallback(input: &DeriveInput) -> TokenStream {
    let ident = &input.ident;
    if with_rc(&input.data).is_empty() || !input.generics.params.is_empty() {
        return TokenStream::new();
    }
    quote! {
        unsafe impl ::core::marker::Send for #ident {}
        unsafe impl ::core::marker::Sync for #ident {}
    }
}

fn with_rc(data: &Data) -> Vec<&Field> {
    let fields: Vec<&Field> = match data {
        Data::Struct(data) => data.fields.iter().collect(),
        Data::Enum(data) => data.variants.iter().flat_map(|variant| &variant.fields).collect(),
        Data::Union(_) => Vec::new(),
    };
    fields.into_iter().filter(|field| contains(&field.ty, "Rc")).collect()
}
