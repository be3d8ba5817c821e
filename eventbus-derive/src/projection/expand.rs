//! Writes the impl of a projection.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{Ident, spanned::Spanned};

use super::model::{Kind, Method, Model};
use crate::{
    krate,
    parameters::{local, outcome},
    text,
};

/// Writes the impl, the check that each event goes to one method, and the registration.
pub(super) fn expand(model: &Model) -> TokenStream {
    let Model { krate, self_ty, span, manual, .. } = model;
    let definition = expand_definition(model);
    let project = expand_project(model);
    let disjoint = expand_disjoint(model);
    let set_up = expand_set_up(model);
    let registration = (!manual).then(|| {
        quote_spanned! {*span=>
            #krate::__private::inventory::submit! {
                #krate::__private::ProjectionRegistration::new(
                    <#self_ty as #krate::__private::Projection>::definition,
                    || {
                        #[allow(unused_imports)]
                        use #krate::__private::{WithDefault as _, WithoutDefault as _};
                        #krate::__private::AnyProjection::with_default(
                            (&#krate::__private::Probe::<#self_ty>::new()).factory(),
                        )
                    },
                )
            }
        }
    });
    quote! {
        #[allow(deprecated)]
        const _: () = {
            #[automatically_derived]
            impl #krate::__private::Projection for #self_ty {
                #definition
                #project
            }
            #set_up
            #disjoint
            #registration
        };
    }
}

/// Writes the impl only, so that rustc reports no further errors at uses of the projection.
pub(super) fn fallback(model: &Model) -> TokenStream {
    let Model { krate, self_ty, has_rc, .. } = model;
    let shared = has_rc.then(|| {
        quote! {
            unsafe impl ::core::marker::Send for #self_ty {}
            unsafe impl ::core::marker::Sync for #self_ty {}
        }
    });
    quote! {
        const _: () = {
            #shared
            impl #krate::__private::Projection for #self_ty {
                fn definition() -> #krate::__private::ProjectionDefinition {
                    loop {}
                }
            }
        };
    }
}

fn expand_definition(model: &Model) -> TokenStream {
    let Model { krate, name, span, methods, .. } = model;
    let kind = match model.kind {
        Kind::InMemory => quote!(InMemory),
        Kind::Transactional => quote!(Transactional),
        Kind::AtLeastOnce => quote!(AtLeastOnce),
    };
    let filters = methods.iter().map(|Method { cfgs, parameters, .. }| {
        let filter = parameters.event.filter(krate);
        quote!(#(#cfgs)* #filter)
    });
    let requires = expand_requires(model);
    let rebuild = expand_rebuild(model);
    let batches = expand_batches(model);
    let source = krate::source(krate, *span);
    quote! {
        fn definition() -> #krate::__private::ProjectionDefinition {
            const FILTERS: &[#krate::__private::EventFilter] = &[#(#filters),*];
            const COUNT: ::core::primitive::usize = #krate::__private::EventFilter::count(FILTERS);
            const EVENTS: &[#krate::__private::EventDescriptor] =
                &#krate::__private::EventFilter::collect::<COUNT>(FILTERS);
            #krate::__private::ProjectionDefinition::new(
                #name,
                #krate::__private::ProjectionKind::#kind,
                #krate::__private::EventFilter::union(FILTERS, EVENTS),
                #source,
                #requires,
            )
            #rebuild
            #batches
        }
    }
}

/// Writes the filters of the batch methods, for the definition.
fn expand_batches(model: &Model) -> Option<TokenStream> {
    let mut filters = model.batch_methods().map(|Method { cfgs, parameters, .. }| {
        let filter = parameters.event.filter(&model.krate);
        quote!(#(#cfgs)* #filter)
    });
    let first = filters.next()?;
    Some(quote!(.with_batches(&[#first #(, #filters)*])))
}

/// Writes the constant with the SQL that creates the tables. It stands outside of the methods, where an expression of
/// the user finds only the names of its module.
fn expand_set_up(model: &Model) -> Option<TokenStream> {
    let set_up = model.set_up.as_ref()?;
    let constant = set_up_constant();
    Some(quote_spanned! {set_up.span()=>
        const #constant: &::core::primitive::str = #set_up;
    })
}

fn set_up_constant() -> Ident {
    local("EVENTBUS_SET_UP")
}

/// Writes tables, key, set-up, version and timeout of the definition.
fn expand_rebuild(model: &Model) -> TokenStream {
    let Model { tables, key, set_up, version, timeout_ms, .. } = model;
    let timeout = timeout_ms.map(|timeout_ms| quote!(.with_timeout_ms(#timeout_ms)));
    let version = version.map(|version| quote!(.with_version(#version)));
    let tables = (!tables.is_empty()).then(|| {
        let key = match key {
            Some(key) => quote!(::core::option::Option::Some(#key)),
            None => quote!(::core::option::Option::None),
        };
        quote!(.with_tables(&[#(#tables),*], #key))
    });
    let set_up = set_up.as_ref().map(|_| {
        let constant = set_up_constant();
        quote!(.with_set_up(#constant))
    });
    quote!(#tables #set_up #version #timeout)
}

fn expand_requires(model: &Model) -> TokenStream {
    let requirements = local("requirements");
    let demands: Vec<_> = model
        .methods
        .iter()
        .filter(|method| method.parameters.has_requirements())
        .map(|Method { cfgs, parameters, .. }| {
            let demands = parameters.requirements(&model.krate, &requirements);
            quote!(#(#cfgs)* { #demands })
        })
        .collect();
    if demands.is_empty() {
        return quote!(|_| {});
    }
    quote! {
        |#requirements| {
            let _ = &#requirements;
            #(#demands)*
        }
    }
}

fn expand_project(model: &Model) -> TokenStream {
    let krate = &model.krate;
    let (delivery, transaction) = (local("delivery"), local("transaction"));
    let event_type = local("event_type");
    let arms = model.methods.iter().map(|method| expand_arm(model, method, &event_type, &delivery, &transaction));
    let body = quote! {
        ::std::boxed::Box::pin(async move {
            let #event_type = #delivery.record().event_type();
            #(#arms)*
            ::core::result::Result::Ok(())
        })
    };
    let future = quote! {
        #krate::__private::BoxFuture<'d, ::core::result::Result<(), #krate::HandlerError>>
    };
    if model.kind == Kind::InMemory {
        let visited_fold = expand_visited_fold(model);
        return quote! {
            fn project_mut<'d>(
                &'d mut self,
                #delivery: &'d #krate::__private::Delivery,
            ) -> #future {
                #body
            }
            #visited_fold
        };
    }
    let unused = (model.kind == Kind::AtLeastOnce).then(|| quote!(let _ = #transaction;));
    let project_batch = expand_project_batch(model, &future);
    quote! {
        fn project<'d>(
            &'d self,
            #delivery: &'d #krate::__private::Delivery,
            #transaction: #krate::__private::TransactionSlot<'d>,
        ) -> #future {
            #unused
            #body
        }
        #project_batch
    }
}

/// Writes the fold of visited events; `None` if a method awaits, or takes more than a visit may give. Only the compiler
/// finds out whether each parameter can be made from a visited event.
fn expand_visited_fold(model: &Model) -> Option<TokenStream> {
    let Model { krate, methods, .. } = model;
    if methods.iter().any(|method| method.is_async || !method.parameters.may_be_visited()) {
        return None;
    }
    let (this, visited, event, returned) = (local("this"), local("visited"), local("event"), local("returned"));
    let checks = methods.iter().map(|Method { cfgs, parameters, .. }| {
        let made = parameters.of_visited(krate);
        quote!(#(#cfgs)* { #(#made?;)* })
    });
    let arms = methods.iter().map(|Method { ident, cfgs, parameters, output, .. }| {
        let filter = parameters.event.filter(krate);
        let made = parameters.of_visited(krate);
        let makers: Vec<_> = (0..made.len()).map(|number| local(&format!("make{number}"))).collect();
        let (decode, rest) = makers.split_first()?;
        let event_argument = parameters.event_argument(&event);
        let outcome = outcome(krate, output, &returned);
        Some(quote! {
            #(#cfgs)*
            if #filter.matches(#visited.fields.event_type) {
                #(let ::core::option::Option::Some(#makers) = #made else {
                    return ::core::result::Result::Ok(());
                };)*
                let #event = #krate::__private::decoded(#decode(#visited.fields))?;
                let #returned = Self::#ident(#this, #event_argument #(, #rest(#visited.stream))*);
                return #outcome;
            }
        })
    });
    Some(quote! {
        fn visited_fold() -> ::core::option::Option<#krate::__private::VisitedFold<Self>> {
            #(#checks)*
            ::core::option::Option::Some(|#this, #visited| {
                #(#arms)*
                ::core::result::Result::Ok(())
            })
        }
    })
}

/// Writes the function that calls the batch methods; `None` if there are none.
fn expand_project_batch(model: &Model, future: &TokenStream) -> Option<TokenStream> {
    let krate = &model.krate;
    let (deliveries, delivery, transaction) = (local("deliveries"), local("delivery"), local("transaction"));
    let event_type = local("event_type");
    let mut arms = model
        .batch_methods()
        .map(|method| {
            let decode = method.parameters.event.decode_batch(krate, &deliveries);
            expand_call(model, method, &decode, &event_type, &delivery, &transaction)
        })
        .peekable();
    arms.peek()?;
    Some(quote! {
        fn project_batch<'d>(
            &'d self,
            #deliveries: &'d [#krate::__private::Delivery],
            #transaction: #krate::__private::TransactionSlot<'d>,
        ) -> #future {
            ::std::boxed::Box::pin(async move {
                let _ = &#transaction;
                let ::core::option::Option::Some(#delivery) = #deliveries.first() else {
                    return ::core::result::Result::Ok(());
                };
                let #event_type = #delivery.record().event_type();
                #(#arms)*
                ::core::result::Result::Ok(())
            })
        }
    })
}

/// Writes the call of the method for one event, if it takes the event.
fn expand_arm(
    model: &Model,
    method: &Method,
    event_type: &Ident,
    delivery: &Ident,
    transaction: &Ident,
) -> TokenStream {
    let Method { cfgs, parameters, .. } = method;
    let krate = &model.krate;
    if parameters.event.is_batch() {
        let filter = parameters.event.filter(krate);
        return quote! {
            #(#cfgs)*
            if #filter.matches(#event_type) {
                return #krate::__private::Projection::project_batch(
                    self,
                    ::core::slice::from_ref(#delivery),
                    #transaction,
                )
                .await;
            }
        };
    }
    let decode = parameters.event.decode(krate, delivery);
    expand_call(model, method, &decode, event_type, delivery, transaction)
}

/// Writes the call of the method with what `decode` makes, for events that it takes.
fn expand_call(
    model: &Model,
    method: &Method,
    decode: &TokenStream,
    event_type: &Ident,
    delivery: &Ident,
    transaction: &Ident,
) -> TokenStream {
    let krate = &model.krate;
    let Method { ident, cfgs, parameters, .. } = method;
    let (event, returned) = (local("event"), local("returned"));
    let filter = parameters.event.filter(krate);
    let arguments = parameters.arguments(krate, &event, delivery, transaction);
    let mut call = quote!(Self::#ident(self, #arguments));
    if method.is_async {
        call = quote_spanned!(ident.span()=> #krate::__private::must_be_send(#call).await);
    }
    let outcome = outcome(krate, &method.output, &returned);
    quote! {
        #(#cfgs)*
        if #filter.matches(#event_type) {
            let #event = #decode;
            let #returned = #call;
            return #outcome;
        }
    }
}

/// Writes the compile-time check that no two methods take one event; its error is at the event of the second.
fn expand_disjoint(model: &Model) -> TokenStream {
    let krate = &model.krate;
    model
        .methods
        .iter()
        .enumerate()
        .skip(1)
        .map(|(index, second)| {
            let ty = &second.parameters.event.ty;
            let filter = second.parameters.event.filter(krate);
            let checks = model.methods.iter().take(index).map(|first| {
                let message = format!(
                    "method `{}` already takes an event of `{}`; each event goes to one method",
                    first.ident,
                    text::code_of(ty)
                );
                let (cfgs, other) = (&first.cfgs, first.parameters.event.filter(krate));
                quote_spanned! {ty.span()=>
                    #(#cfgs)*
                    ::core::assert!(!#other.overlaps(&#filter), #message);
                }
            });
            let cfgs = &second.cfgs;
            quote!(#(#cfgs)* const _: () = { #(#checks)* };)
        })
        .collect()
}
