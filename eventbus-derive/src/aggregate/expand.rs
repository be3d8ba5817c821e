//! Writes the enum of an aggregate's events, its impls, and the checks that make both lists agree.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};

use super::model::{Model, Snapshot};
use crate::{
    event_enum::{EventEnum, Listed},
    sets,
    surroundings::Taken,
    text,
};

/// Writes the enum and the impls; without the checks against its events if the model is not `complete`.
pub(super) fn expand(model: &Model, complete: bool) -> TokenStream {
    let Model { krate, ident, events: EventEnum { ident: event, .. }, aggregate_type, id_type, retired, .. } = model;
    if let Some(taken) = &model.events.taken {
        return fallback(model, taken);
    }
    let snapshot = model.snapshot.as_ref().map(|snapshot| expand_snapshot(model, snapshot));
    let members = model.events.members();
    let events = model.events.expand(&members);
    let impls = sets::impls(krate, event, &members, true);
    let recording = model.events.expand_recording(krate);
    let checks = if complete {
        let (checks, registration) = (expand_checks(model, &members), expand_registration(model));
        quote!(#checks #registration)
    } else {
        quote! {
            impl<E> #krate::__private::Lists<E> for #ident {
                const AGGREGATE_TYPE: &'static ::core::primitive::str = #aggregate_type;
            }
        }
    };
    quote! {
        #events
        #[allow(deprecated)]
        const _: () = {
            #[automatically_derived]
            impl #krate::Aggregate for #ident {
                const AGGREGATE_TYPE: &'static ::core::primitive::str = #aggregate_type;
                const RETIRED: &'static [&'static ::core::primitive::str] = &[#(#retired),*];
                #snapshot
                type Id = #id_type;
            }
            #[automatically_derived]
            impl #krate::__private::Fold for #ident {
                type Event = #event;
            }
            #impls
            #recording
            #checks
        };
    }
}

/// Writes impls for the user's own type in place of the enum, so that rustc reports no further errors at uses of the
/// aggregate.
///
/// The impl of a missing trait keeps rustc from checking function bodies, which may use the enum's variants. Because of
/// our `compile_error!`, rustc does not report the missing trait itself.
fn fallback(model: &Model, taken: &Taken) -> TokenStream {
    let Model { krate, ident, events: EventEnum { ident: event, listed, .. }, aggregate_type, id_type, .. } = model;
    let unless = |derived: &str, code: TokenStream| (!taken.derives(derived)).then_some(code);
    let clone =
        unless("Clone", quote! { impl ::core::clone::Clone for #event { fn clone(&self) -> Self { loop {} } } });
    let debug = unless(
        "Debug",
        quote! {
            impl ::core::fmt::Debug for #event {
                fn fmt(&self, _: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result { loop {} }
            }
        },
    );
    let set = unless(
        "DomainEvent",
        quote! {
            impl #krate::EventSet for #event {
                const EVENTS: #krate::__private::EventFilter = #krate::__private::EventFilter::All;
                fn decode(_: &#krate::RecordedEvent) -> ::core::result::Result<Self, #krate::__private::DecodeError> { loop {} }
            }
            impl #krate::__private::FoldedEvent for #event {
                fn decode_fields(_: #krate::__private::EventFields<'_>) -> ::core::result::Result<Self, #krate::__private::DecodeError> { loop {} }
            }
            impl #krate::__private::EncodeEvent for #event {
                fn encode_as(&self, _: #krate::EventId, _: #krate::__private::OffsetDateTime) -> ::core::result::Result<#krate::NewEvent, #krate::__private::EncodeError> { loop {} }
            }
        },
    );
    let paths = listed.iter().map(|listed| &listed.path);
    quote! {
        #[allow(deprecated)]
        const _: () = {
            impl #krate::Aggregate for #ident {
                const AGGREGATE_TYPE: &'static ::core::primitive::str = #aggregate_type;
                type Id = #id_type;
            }
            impl #krate::__private::Fold for #ident {
                type Event = #event;
            }
            impl<E> #krate::__private::Lists<E> for #ident {
                const AGGREGATE_TYPE: &'static ::core::primitive::str = #aggregate_type;
            }
            impl #krate::IntoEvents<#event> for #event {
                fn into_events(self, _: &mut ::std::vec::Vec<#event>) { loop {} }
            }
            #(impl #krate::IntoEvents<#event> for #paths {
                fn into_events(self, _: &mut ::std::vec::Vec<#event>) { loop {} }
            })*
            #clone
            #debug
            #set
            impl NothingIsCheckedUntilTheEnumHasAnotherName for #event {}
        };
    }
}

fn expand_snapshot(Model { krate, ident, .. }: &Model, snapshot: &Snapshot) -> TokenStream {
    let Snapshot { every, version, source } = snapshot;
    let (private, rust_name) = (quote!(#krate::__private), text::name_of(ident));
    let form = quote_spanned!(ident.span()=> <#ident as #private::SnapshotState>::FORM);
    quote! {
        const SNAPSHOT: ::core::option::Option<#private::SnapshotCodec<Self>> =
            ::core::option::Option::Some(#private::SnapshotCodec::new(
                ::core::concat!(::core::module_path!(), "::", #rust_name),
                #every,
                #version,
                #source,
                #form,
            ));
    }
}

/// Registers the aggregate, so that an app finds two aggregates of one type when it starts.
fn expand_registration(model: &Model) -> TokenStream {
    let Model { krate, ident, aggregate_type, is_fold, retired, .. } = model;
    let (rust_name, source) = (text::name_of(ident), crate::krate::source(krate, ident.span()));
    quote! {
        #krate::__private::inventory::submit! {
            #krate::__private::AggregateRegistration {
                aggregate_type: #aggregate_type,
                rust_type: ::core::concat!(::core::module_path!(), "::", #rust_name),
                source: #source,
                is_fold: #is_fold,
                retired: &[#(#retired),*],
                state: || {
                    #[allow(unused_imports)]
                    use #krate::__private::{WithJson as _, WithoutJson as _};
                    (&#krate::__private::Probe::<#ident>::new()).state()
                },
                is_test: ::core::cfg!(test),
            }
        }
    }
}

fn expand_checks(model: &Model, members: &[sets::Member]) -> TokenStream {
    let Model { krate, ident, events: EventEnum { ident: event, listed, .. }, aggregate_type, retired, .. } = model;
    let aggregate = text::name_of(ident);
    let retired = retired.iter().map(|name| {
        let message =
            format!("`{}` is the name of a listed event, today's or a former one: it is not retired", name.value());
        quote_spanned! {name.span()=>
            const _: () = ::core::assert!(!<#event as #krate::EventSet>::EVENTS.has_name(#name), #message);
        }
    });
    let lists = listed.iter().map(|Listed { path, .. }| {
        quote! {
            #[automatically_derived]
            impl #krate::__private::Lists<#path> for #ident {
                const AGGREGATE_TYPE: &'static ::core::primitive::str = #aggregate_type;
            }
        }
    });
    let belongs = members.iter().map(|member| {
        let code = member.code();
        let message = format!(
            "`{code}` is listed by aggregate `{aggregate}` but belongs to another aggregate type; compare its `#[event(aggregate = ..)]`, \
             or add `fold_of = ..` if `{aggregate}` is a further state of that aggregate's streams"
        );
        let named = member.item(krate, "AGGREGATE_TYPE");
        quote_spanned! {member.span()=>
            const _: () = ::core::assert!(
                #krate::__private::belongs_to(#named, #aggregate_type),
                #message
            );
        }
    });
    let unique = members.iter().enumerate().map(|(index, member)| {
        let code = member.code();
        let normalized = format!("`{code}` normalizes a unique value in another way than an event listed before it");
        let released = format!("`{code}` releases a unique value that no event of `{aggregate}` takes");
        quote_spanned! {member.span()=>
            const _: () = {
                ::core::assert!(<#event as #krate::EventSet>::EVENTS.normalizes_alike(#index), #normalized);
                ::core::assert!(<#event as #krate::EventSet>::EVENTS.takes_what_is_released(#index), #released);
            };
        }
    });
    let distinct = sets::distinct(krate, event, members);
    let applies = quote_spanned! {ident.span()=>
        const _: fn(&mut #ident, &#event) = <#ident as #krate::Apply>::apply;
    };
    quote!(#(#lists)* #(#belongs)* #(#retired)* #(#unique)* #distinct #applies)
}
