//! Writes the enum of a decision's events, its impls, and the check that each event has a tag.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};

use super::Model;
use crate::{event_enum::EventEnum, sets, text};

/// Writes the enum and the impls; without the checks against its events if the model is not `complete`.
pub(super) fn expand(Model { krate, events }: &Model, complete: bool) -> TokenStream {
    let EventEnum { owner, ident: event, .. } = events;
    if events.taken.is_some() {
        return TokenStream::new();
    }
    let members = events.members();
    let generated = events.expand(&members);
    let impls = sets::impls(krate, event, &members, true);
    let recording = events.expand_recording(krate);
    let checks = complete.then(|| expand_checks(krate, events, &members));
    quote! {
        #generated
        #[allow(deprecated)]
        const _: () = {
            #[automatically_derived]
            impl #krate::__private::Fold for #owner {
                type Event = #event;
            }
            #[automatically_derived]
            impl #krate::Decision for #owner {}
            #impls
            #recording
            #checks
        };
    }
}

fn expand_checks(krate: &syn::Path, events: &EventEnum, members: &[sets::Member]) -> TokenStream {
    let EventEnum { owner, ident: event, .. } = events;
    let decision = text::name_of(owner);
    let tagged = members.iter().enumerate().map(|(index, member)| {
        let code = member.code();
        let message = format!(
            "`{code}` has no tags, so `{decision}` could never read it: add `#[event(.., tags(..))]` to `{code}`"
        );
        quote_spanned! {member.span()=>
            const _: () = ::core::assert!(<#event as #krate::EventSet>::EVENTS.is_tagged(#index), #message);
        }
    });
    let distinct = sets::distinct(krate, event, members);
    let applies = quote_spanned! {owner.span()=>
        const _: fn(&mut #owner, &#event) = <#owner as #krate::Apply>::apply;
    };
    quote!(#(#tagged)* #distinct #applies)
}
