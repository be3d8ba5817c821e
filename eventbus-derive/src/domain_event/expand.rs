//! Writes the impls of an event, or of an enum of events.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{Ident, spanned::Spanned};

use super::{
    model::{Aggregate, Event, Kind, Member, Model},
    tags, unique, upcast,
};
use crate::{sets, text};

/// Writes the impls; without the registration if the model is not `complete`.
pub(super) fn expand(model: &Model, complete: bool) -> TokenStream {
    let impls = match &model.kind {
        Kind::Event(event) => expand_event(model, event, complete),
        Kind::Set(members) => expand_set(model, members, complete),
    };
    quote! {
        #[allow(deprecated)]
        const _: () = { #impls };
    }
}

fn expand_event(model: &Model, event: &Event, complete: bool) -> TokenStream {
    let Model { krate, ident, .. } = model;
    let site = Span::mixed_site();
    let (record, id, at) = (Ident::new("record", site), Ident::new("id", site), Ident::new("at", site));
    let Event { event_type, former_types, schema_version, aggregate, upcasters, unique, tags, personal, is_unit } =
        event;
    let upcast::Chain { functions, decoders, checks } = upcast::expand(krate, ident, upcasters, complete);
    let (unique_names, unique_readers) = unique::expand(krate, ident, unique);
    let (tag_names, tag_readers) = tags::expand(krate, ident, event_type, tags);
    let aggregate_type = match aggregate {
        Aggregate::Type(path) => quote_spanned! {path.span()=>
            <#path as #krate::__private::Lists<#ident>>::AGGREGATE_TYPE
        },
        Aggregate::Name(name) => quote!(#name),
        Aggregate::Unknown => quote!(""),
    };
    let codec = if *is_unit { quote!(UNIT) } else { quote!(JSON) };
    let codec = quote_spanned!(ident.span()=> <#ident as #krate::__private::Payload>::#codec);
    let rust_name = text::name_of(ident);
    let source = crate::krate::source(krate, ident.span());
    let submit = complete.then(|| {
        quote! {
            #krate::__private::inventory::submit! {
                #krate::__private::EventRegistration::of::<#ident>()
            }
        }
    });
    quote! {
        #[automatically_derived]
        impl #krate::EventSet for #ident {
            const EVENTS: #krate::__private::EventFilter =
                #krate::__private::EventFilter::Only(&[<Self as #krate::DomainEvent>::DESCRIPTOR]);
            const DECODE_FIELDS: ::core::option::Option<#krate::__private::DecodeFields<Self>> =
                ::core::option::Option::Some(#krate::__private::decode_one_fields::<Self>);
            fn decode(
                #record: &#krate::RecordedEvent,
            ) -> ::core::result::Result<Self, #krate::__private::DecodeError> {
                #krate::__private::decode_one(#record)
            }
        }
        #[automatically_derived]
        impl #krate::__private::EncodeEvent for #ident {
            fn encode_as(
                &self,
                #id: #krate::EventId,
                #at: #krate::__private::OffsetDateTime,
            ) -> ::core::result::Result<#krate::NewEvent, #krate::__private::EncodeError> {
                #krate::__private::encode_one(self, #id, #at)
            }
        }
        #[automatically_derived]
        impl #krate::DomainEvent for #ident {
            const EVENT_TYPE: &'static ::core::primitive::str = #event_type;
            const SCHEMA_VERSION: ::core::primitive::u32 = #schema_version;
            const AGGREGATE_TYPE: &'static ::core::primitive::str = #aggregate_type;
            const CODEC: #krate::__private::Codec<Self> = #codec
                .at_version(#schema_version, &[#decoders])
                .with_unique(#unique_readers)
                .with_tags(#tag_readers);
            const DESCRIPTOR: #krate::__private::EventDescriptor = #krate::__private::EventDescriptor::new(
                <Self as #krate::DomainEvent>::EVENT_TYPE,
                <Self as #krate::DomainEvent>::AGGREGATE_TYPE,
                <Self as #krate::DomainEvent>::SCHEMA_VERSION,
                ::core::concat!(::core::module_path!(), "::", #rust_name),
                #source,
            )
            .formerly(&[#(#former_types),*])
            .with_unique(#unique_names)
            .with_tags(#tag_names)
            .with_personal(&[#(#personal),*]);
        }
        #functions
        #checks
        #submit
    }
}

fn expand_set(model: &Model, members: &[Member], complete: bool) -> TokenStream {
    let Model { krate, ident, .. } = model;
    let members: Vec<_> = members.iter().map(|member| sets::Member::new(&member.variant, &member.event)).collect();
    let impls = sets::impls(krate, ident, &members, complete);
    let distinct = sets::distinct(krate, ident, &members);
    quote!(#impls #distinct)
}
