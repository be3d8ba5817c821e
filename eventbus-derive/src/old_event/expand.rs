//! Writes the impl of an earlier version of an event, and the checks against the event.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;

use super::model::Model;
use crate::text;

/// Writes the impl; without the checks if the model is not `complete`.
pub(super) fn expand(model: &Model, complete: bool) -> TokenStream {
    let Model { krate, ident, event, version } = model;
    let checks = complete.then(|| {
        let (old, code) = (text::name_of(ident), text::code_of(event));
        let message = format!(
            "`{old}` holds version {version} of `{code}`, which is no earlier one: compare the `version = ..` of both"
        );
        quote_spanned! {event.span()=>
            // one body: the version is compared only if the event upcasts the struct
            const _: () = {
                const fn upcasts<E: #krate::__private::Upcasts<V>, V>() {}
                upcasts::<#event, #ident>();
                ::core::assert!(#version < <#event as #krate::DomainEvent>::SCHEMA_VERSION, #message);
            };
        }
    });
    quote! {
        #[allow(deprecated)]
        const _: () = {
            #[automatically_derived]
            impl #krate::__private::OldEventOf<#event> for #ident {
                const VERSION: ::core::primitive::u32 = #version;
                type Old = Self;
                fn into_old(self) -> Self { self }
            }
            #checks
        };
    }
}
