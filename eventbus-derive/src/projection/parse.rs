//! Finds every mistake of an `impl` block with `#[projection]`.

use proc_macro2::{Span, TokenStream};
use syn::{FnArg, ImplItem, ImplItemFn, Item, ItemImpl, Receiver, ReceiverKind, Safety, spanned::Spanned};

use super::model::{Kind, Method, Model};
use crate::{
    krate,
    mistakes::Mistakes,
    options::{Known, Options},
    parameters::{Parameters, strip_groups},
};

const OPTIONS: &[Known] = &[
    Known::text("name", "`name = \"order-statistics\"`"),
    Known::flag("manual", "`#[projection(name = \"..\", manual)]`"),
    krate::CRATE,
];

const ELSEWHERE: &str = "move helpers and constructors to another `impl` block";

/// Reads the arguments of the attribute and the block; `None` if there is nothing to make a projection of.
pub(super) fn parse(arguments: TokenStream, item: &TokenStream, mistakes: &mut Mistakes) -> Option<Model> {
    let options = Options::of_arguments("projection", OPTIONS, arguments, mistakes);
    let krate = krate::path(&options, mistakes);
    let name = options.name("name", "a projection's name", mistakes);
    let manual = options.flag("manual", mistakes);
    if options.key("name").is_none() {
        mistakes.at_span(
            Span::call_site(),
            "a projection needs a durable name: `#[projection(name = \"order-statistics\")]`",
        );
    }
    let block = block(item, mistakes)?;
    if let Some((path, _)) = &block.trait_ {
        mistakes.at(path, "a projection is an `impl` block of the type itself, not of a trait");
        return None;
    }
    if !block.generics.params.is_empty() {
        mistakes.at(
            &block.generics,
            "a projection cannot be generic: it is registered at link time under one durable name",
        );
        return None;
    }
    let methods = methods(&block, mistakes);
    let self_ty = strip_groups(&block.self_ty).clone();
    Some(Model {
        krate,
        name: name.map(|name| name.value()).unwrap_or_default(),
        kind: kind(&methods, mistakes),
        manual,
        span: self_ty.span(),
        self_ty,
        methods,
    })
}

fn block(item: &TokenStream, mistakes: &mut Mistakes) -> Option<ItemImpl> {
    syn::parse2::<ItemImpl>(item.clone())
        .map_err(|error| match syn::parse2::<Item>(item.clone()) {
            Ok(Item::Impl(_)) | Err(_) => mistakes.add(error),
            Ok(_) => mistakes.at(item, "a projection is an `impl` block whose methods take the events"),
        })
        .ok()
}

fn methods(block: &ItemImpl, mistakes: &mut Mistakes) -> Vec<Method> {
    let mut methods = Vec::new();
    let mut has_items = false;
    for item in &block.items {
        has_items = true;
        match item {
            ImplItem::Fn(function) => methods.extend(method(function, mistakes)),
            other => mistakes.at(other, format!("a projection's block holds event methods only; {ELSEWHERE}")),
        }
    }
    if !has_items {
        mistakes.at(
            &block.self_ty,
            "a projection has at least one event method: `fn created(&mut self, event: &OrderCreated)`",
        );
    }
    methods
}

fn method(function: &ImplItemFn, mistakes: &mut Mistakes) -> Option<Method> {
    let signature = &function.sig;
    if let Safety::Unsafe(token) = &signature.safety {
        mistakes.at(token, "an event method cannot be unsafe");
    }
    if !signature.generics.params.is_empty() {
        mistakes.at(&signature.generics, "an event method names concrete types, and leaves lifetimes out");
        return None;
    }
    let takes_mut_self = match signature.inputs.first() {
        Some(FnArg::Receiver(receiver)) => takes_mut_self(receiver),
        _ => None,
    };
    let Some(takes_mut_self) = takes_mut_self else {
        mistakes.at(&signature.ident, format!("an event method takes `&mut self` or `&self`; {ELSEWHERE}"));
        return None;
    };
    if signature.inputs.len() == 1 {
        mistakes.at(
            &signature.ident,
            format!("an event method takes the event after self: `event: &OrderCreated`; {ELSEWHERE}"),
        );
        return None;
    }
    Some(Method {
        ident: signature.ident.clone(),
        cfgs: function.attrs.iter().filter(|attr| attr.path().is_ident("cfg")).cloned().collect(),
        is_async: signature.asyncness.is_some(),
        takes_mut_self,
        parameters: Parameters::parse("an event method", signature, mistakes)?,
        output: signature.output.clone(),
    })
}

/// Whether it is `&mut self` rather than `&self`; `None` if it is neither.
fn takes_mut_self(receiver: &Receiver) -> Option<bool> {
    match &receiver.kind {
        ReceiverKind::Reference(_, None, mutability) => Some(mutability.is_some()),
        _ => None,
    }
}

fn kind(methods: &[Method], mistakes: &mut Mistakes) -> Kind {
    let exclusive = methods.iter().find(|method| method.takes_mut_self);
    let shared = methods.iter().find(|method| !method.takes_mut_self);
    let transactional = |method: &&Method| method.parameters.has_transaction();
    if let Some(exclusive) = exclusive {
        for method in methods.iter().filter(transactional) {
            mistakes.at(
                &method.ident,
                format!(
                    "state in memory (`&mut self` of `{}`) cannot be part of a transaction: take `&self` and keep the rows in the store, or leave the `&mut` parameter out",
                    exclusive.ident
                ),
            );
        }
        if let Some(shared) = shared.filter(|method| !transactional(method)) {
            mistakes.at(
                &shared.ident,
                format!(
                    "the methods of a projection take all `&mut self` (state in memory) or all `&self` (rows elsewhere), and `{}` takes `&mut self`",
                    exclusive.ident
                ),
            );
        }
        Kind::InMemory
    } else if methods.iter().any(|method| transactional(&method)) {
        Kind::Transactional
    } else {
        Kind::AtLeastOnce
    }
}
