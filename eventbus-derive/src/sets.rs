//! The impls of every enum of events, generated or the user's own.
//!
//! Invariant: the code names events only as `<Event as DomainEvent>::..`, each with the span of its type. So a type
//! that is no event gives the same error everywhere, which rustc shows once.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::{Ident, Path, spanned::Spanned};

use crate::text;

/// A variant and the event it holds.
pub(crate) struct Member {
    variant: Ident,
    event: TokenStream,
    span: Span,
    code: String,
}

impl Member {
    /// Creates a variant that holds the event type `event`, which messages point at.
    pub(crate) fn new(variant: &Ident, event: impl ToTokens + Spanned) -> Self {
        Self {
            variant: variant.clone(),
            span: event.span(),
            code: text::code_of(&event),
            event: event.into_token_stream(),
        }
    }

    /// Points messages at `span`.
    pub(crate) fn shown_at(self, span: Span) -> Self {
        Self { span, ..self }
    }

    /// Returns the event as written, for messages.
    pub(crate) fn code(&self) -> &str {
        &self.code
    }

    /// Returns the span that messages about the event point at.
    pub(crate) const fn span(&self) -> Span {
        self.span
    }

    /// Writes `<Event as DomainEvent>::item`.
    pub(crate) fn item(&self, krate: &Path, item: &str) -> TokenStream {
        let (event, item) = (&self.event, Ident::new(item, Span::call_site()));
        quote_spanned!(self.span=> <#event as #krate::DomainEvent>::#item)
    }
}

/// Writes `EventSet`, `FoldedEvent`, `EncodeEvent` and `From` for the enum `ident`.
///
/// An enum that is not `complete` has variants that are no members; the parser has reported them.
pub(crate) fn impls(krate: &Path, ident: &Ident, members: &[Member], complete: bool) -> TokenStream {
    let site = Span::mixed_site();
    let (record, event_type, event) =
        (Ident::new("record", site), Ident::new("event_type", site), Ident::new("event", site));
    let (id, at) = (Ident::new("id", site), Ident::new("at", site));
    let others = (!complete).then(|| quote!(#[allow(unreachable_patterns)] _ => loop {},));
    let variants: Vec<_> = members.iter().map(|member| &member.variant).collect();
    let types: Vec<_> = members.iter().map(|member| &member.event).collect();
    let all = |item| members.iter().map(move |member| member.item(krate, item));
    let (descriptors, named, codecs) = (all("DESCRIPTOR"), all("DESCRIPTOR"), all("CODEC"));
    let (encoded_as, encoded_by) = (all("DESCRIPTOR"), all("CODEC"));
    quote! {
        #[automatically_derived]
        impl #krate::EventSet for #ident {
            const EVENTS: #krate::__private::EventFilter = #krate::__private::EventFilter::Only(&[#(#descriptors),*]);
            const DECODE_FIELDS: ::core::option::Option<#krate::__private::DecodeFields<Self>> =
                ::core::option::Option::Some(<Self as #krate::__private::FoldedEvent>::decode_fields);
            fn decode(
                #record: &#krate::RecordedEvent,
            ) -> ::core::result::Result<Self, #krate::__private::DecodeError> {
                <Self as #krate::__private::FoldedEvent>::decode_fields(#record.fields())
            }
        }
        #[automatically_derived]
        impl #krate::__private::FoldedEvent for #ident {
            fn decode_fields(
                #record: #krate::__private::EventFields<'_>,
            ) -> ::core::result::Result<Self, #krate::__private::DecodeError> {
                let #event_type = #record.event_type.as_str();
                #(if #named.is_named(#event_type) {
                    return #krate::__private::decode_with(&#codecs, #record).map(Self::#variants);
                })*
                ::core::result::Result::Err(#krate::__private::unknown::<Self>(#record.event_type))
            }
        }
        #[automatically_derived]
        impl #krate::__private::EncodeEvent for #ident {
            fn encode_as(
                &self,
                #id: #krate::EventId,
                #at: #krate::__private::OffsetDateTime,
            ) -> ::core::result::Result<#krate::NewEvent, #krate::__private::EncodeError> {
                match *self {
                    #(Self::#variants(ref #event) => {
                        #krate::__private::encode_with(&#encoded_as, &#encoded_by, #event, #id, #at)
                    })*
                    #others
                }
            }
        }
        #(
            #[automatically_derived]
            impl ::core::convert::From<#types> for #ident {
                fn from(#event: #types) -> Self {
                    Self::#variants(#event)
                }
            }
        )*
    }
}

/// Writes the compile-time check that no two events have one wire name.
pub(crate) fn distinct(krate: &Path, ident: &Ident, members: &[Member]) -> TokenStream {
    let checks = members.iter().enumerate().skip(1).map(|(index, member)| {
        let message =
            format!("`{}` has a wire name of an event listed before it; compare `type` and `was` of both", member.code);
        quote_spanned! {member.span=>
            const _: () = ::core::assert!(<#ident as #krate::EventSet>::EVENTS.is_first(#index), #message);
        }
    });
    quote!(#(#checks)*)
}
