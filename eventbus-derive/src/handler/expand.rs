//! Writes the type that stands for a handler.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};

use super::model::{Model, Twin};
use crate::{
    krate,
    parameters::{local, outcome},
    text,
};

/// Writes the type, its `Handler` impl and its registration.
pub(super) fn expand(model: &Model) -> TokenStream {
    let Model { twin: Twin { krate, ident, .. }, name, parameters, manual, .. } = model;
    let twin = expand_twin(&model.twin);
    let filter = parameters.event.filter(krate);
    let source = krate::source(krate, ident.span());
    let requires = expand_requires(model);
    let call = expand_call(model);
    let options = expand_options(model);
    let submit = (!manual).then(|| {
        quote! {
            #krate::__private::inventory::submit! {
                #krate::__private::HandlerRegistration(<#ident as #krate::__private::Handler>::definition)
            }
        }
    });
    quote! {
        #twin
        #[allow(deprecated)]
        const _: () = {
            #[automatically_derived]
            impl #krate::__private::Handler for #ident {
                fn definition() -> #krate::__private::HandlerDefinition {
                    #krate::__private::HandlerDefinition::new(#name, #filter, #source, #requires, #call)
                        #options
                }
            }
            #submit
        };
    }
}

/// Writes the type and an empty `Handler` impl only, so that rustc reports no further errors at its uses.
pub(super) fn fallback(twin: &Twin) -> TokenStream {
    let (krate, ident) = (&twin.krate, &twin.ident);
    let twin = expand_twin(twin);
    quote! {
        #twin
        const _: () = {
            impl #krate::__private::Handler for #ident {
                fn definition() -> #krate::__private::HandlerDefinition {
                    loop {}
                }
            }
        };
    }
}

fn expand_twin(Twin { vis, ident, .. }: &Twin) -> TokenStream {
    let doc =
        format!("The handler [`{name}`](fn@{name}) as a type, for code that names it.", name = text::name_of(ident));
    quote! {
        #[doc = #doc]
        #[allow(dead_code, non_camel_case_types)]
        #[derive(::core::fmt::Debug)]
        #vis struct #ident {}
    }
}

fn expand_options(model: &Model) -> TokenStream {
    let krate = &model.twin.krate;
    let group = model.group.as_ref().map(|group| quote!(.in_group(#group)));
    let start = model.start.map(|start| match start {
        "now" => quote!(.starting(#krate::__private::HandlerStart::Now)),
        _ => quote!(.starting(#krate::__private::HandlerStart::Oldest)),
    });
    let options = [
        model.retries.map(|retries| quote!(.retries(#retries))),
        model.timeout_ms.map(|millis| quote!(.timeout_ms(#millis))),
        model.concurrency.map(|concurrency| quote!(.concurrency(#concurrency))),
        start,
        model.shards.map(|shards| quote!(.shards(#shards))),
        model.max_waiting.map(|max_waiting| quote!(.max_waiting(#max_waiting))),
        model.holds_dead.then(|| quote!(.holding_dead())),
        model.stream.as_ref().map(|stream| quote!(.of_stream(#stream))),
    ];
    let options: TokenStream = options.into_iter().flatten().collect();
    let options =
        (!options.is_empty()).then(|| quote!(.with_options(#krate::__private::HandlerOptions::NONE #options)));
    quote!(#group #options)
}

fn expand_requires(model: &Model) -> TokenStream {
    if !model.parameters.has_requirements() {
        return quote!(|_| {});
    }
    let requirements = local("requirements");
    let demands = model.parameters.requirements(&model.twin.krate, &requirements);
    quote!(|#requirements| { #demands })
}

fn expand_call(model: &Model) -> TokenStream {
    let Twin { krate, ident, .. } = &model.twin;
    let (delivery, event) = (local("delivery"), local("event"));
    let (transaction, returned) = (local("transaction"), local("returned"));
    let slot = if model.parameters.has_transaction() { quote!(#transaction) } else { quote!(_) };
    let decode = model.parameters.event.decode(krate, &delivery);
    let arguments = model.parameters.arguments(krate, &event, &delivery, &transaction);
    let call = quote_spanned!(ident.span()=> #krate::__private::must_be_send(#ident(#arguments)));
    let outcome = outcome(krate, &model.output, &returned);
    quote! {
        |#delivery, #slot| ::std::boxed::Box::pin(async move {
            let #event = #decode;
            let #returned = #call.await;
            #outcome
        })
    }
}
