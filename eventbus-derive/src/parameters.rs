//! The parameters of handlers and event methods: the event first, then values of the delivery.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::{Attribute, FnArg, Ident, Path, ReturnType, Signature, Type, spanned::Spanned};

use crate::{mistakes::Mistakes, text};

/// The parsed parameters.
pub(crate) struct Parameters {
    pub(crate) event: Event,
    rest: Vec<Parameter>,
}

/// The first parameter.
pub(crate) struct Event {
    /// The event, or the event of a slice.
    pub(crate) ty: Type,
    form: EventForm,
    /// The parameter's type as the user wrote it.
    written: Type,
}

/// The form of the first parameter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum EventForm {
    /// `OrderCreated`.
    Value,
    /// `&OrderCreated`.
    Borrowed,
    /// `&[Envelope<OrderCreated>]`.
    Batch,
}

/// A parameter after the event.
enum Parameter {
    /// `State<T>`.
    Value(Type),
    /// `&Metadata`.
    Borrowed(Type),
    /// `&mut PgConnection`.
    Transaction(Type),
}

impl Parameters {
    /// Parses the parameters after `self`; `who` takes them (`a handler`).
    pub(crate) fn parse(who: &str, signature: &Signature, mistakes: &mut Mistakes) -> Option<Self> {
        for attribute in signature.inputs.iter().flat_map(attributes) {
            // the macro sees the parameter whether or not the compiler leaves it out
            if attribute.path().is_ident("cfg") {
                mistakes.at(attribute, format!("{who} takes each parameter always: put `#[cfg]` on two functions"));
            }
        }
        let mut types = signature.inputs.iter().filter_map(|input| match input {
            FnArg::Typed(typed) => Some(strip_groups(&typed.ty)),
            FnArg::Receiver(_) => None,
        });
        let Some(first) = types.next() else {
            mistakes.at(&signature.ident, format!("{who} takes the event first: `event: &OrderCreated`"));
            return None;
        };
        let event = event(who, first, mistakes);
        let mut rest = Vec::new();
        let mut has_transaction = false;
        for ty in types {
            check_type(who, ty, mistakes);
            check_borrow(who, ty, mistakes);
            let parameter = parameter(ty);
            if matches!(parameter, Parameter::Transaction(_)) {
                if has_transaction {
                    mistakes.at(ty, format!("{who} takes one `&mut` parameter: the transaction of the store"));
                }
                has_transaction = true;
            }
            rest.push(parameter);
        }
        let event = event?;
        if event.is_batch() {
            check_values_of_one_event(&rest, &event, mistakes);
        }
        Some(Self { event, rest })
    }

    /// Returns `true` if one of them is the store's transaction.
    pub(crate) fn has_transaction(&self) -> bool {
        self.rest.iter().any(|parameter| matches!(parameter, Parameter::Transaction(_)))
    }

    /// Returns `true` if one of them needs a value from the application.
    pub(crate) fn has_requirements(&self) -> bool {
        self.rest.iter().any(|parameter| !matches!(parameter, Parameter::Borrowed(_)))
    }

    /// Returns `true` if a visit of a store's events may give them all: one event, and values borrowed from it.
    pub(crate) fn may_be_visited(&self) -> bool {
        !self.event.is_batch() && self.rest.iter().all(|parameter| matches!(parameter, Parameter::Borrowed(_)))
    }

    /// Writes the functions that make them from a visited event, each as an `Option`: the event from its fields, the
    /// rest from its stream.
    pub(crate) fn of_visited(&self, krate: &Path) -> Vec<TokenStream> {
        let event = &self.event.ty;
        let decode = quote_spanned!(event.span()=> <#event as #krate::EventSet>::DECODE_FIELDS);
        let rest = self.rest.iter().filter_map(|parameter| match parameter {
            Parameter::Borrowed(ty) => Some(quote_spanned! {ty.span()=>
                <#ty as #krate::__private::FromDeliveryRef>::FROM_STREAM
            }),
            Parameter::Value(_) | Parameter::Transaction(_) => None,
        });
        [decode].into_iter().chain(rest).collect()
    }

    /// Writes the event as the call takes it.
    pub(crate) fn event_argument(&self, event: &Ident) -> TokenStream {
        if self.event.form == EventForm::Value { quote!(#event) } else { quote!(&#event) }
    }

    /// Writes the statements that add the needs of the parameters to `requirements`.
    pub(crate) fn requirements(&self, krate: &Path, requirements: &Ident) -> TokenStream {
        self.rest
            .iter()
            .map(|parameter| match parameter {
                Parameter::Value(ty) => quote_spanned! {ty.span()=>
                    <#ty as #krate::__private::FromDelivery>::requires(#requirements);
                },
                Parameter::Transaction(ty) => quote_spanned! {ty.span()=>
                    <#ty as #krate::__private::FromTransaction<_>>::requires(#requirements);
                },
                Parameter::Borrowed(_) => TokenStream::new(),
            })
            .collect()
    }

    /// Writes the arguments of the call, the decoded `event` first.
    pub(crate) fn arguments(&self, krate: &Path, event: &Ident, delivery: &Ident, transaction: &Ident) -> TokenStream {
        let event = self.event_argument(event);
        let rest = self.rest.iter().map(|parameter| match parameter {
            Parameter::Value(ty) => quote_spanned! {ty.span()=>
                <#ty as #krate::__private::FromDelivery>::from_delivery(#delivery)?
            },
            Parameter::Borrowed(ty) => quote_spanned! {ty.span()=>
                <#ty as #krate::__private::FromDeliveryRef>::from_delivery_ref(#delivery)
            },
            Parameter::Transaction(ty) => quote_spanned! {ty.span()=>
                <#ty as #krate::__private::FromTransaction<_>>::take(#transaction)?
            },
        });
        quote!(#event #(, #rest)*)
    }
}

fn attributes(input: &FnArg) -> &[Attribute] {
    match input {
        FnArg::Typed(typed) => &typed.attrs,
        FnArg::Receiver(receiver) => &receiver.attrs,
    }
}

impl Event {
    /// Writes `<Event as EventSet>::EVENTS`.
    pub(crate) fn filter(&self, krate: &Path) -> TokenStream {
        let ty = &self.ty;
        quote_spanned!(ty.span()=> <#ty as #krate::EventSet>::EVENTS)
    }

    /// Writes the decoding of the event of `delivery`, which returns early with the error.
    pub(crate) fn decode(&self, krate: &Path, delivery: &Ident) -> TokenStream {
        let ty = &self.ty;
        let decoded = quote_spanned!(ty.span()=> <#ty as #krate::EventSet>::decode);
        quote!(#krate::__private::decoded(#decoded(#delivery.record()))?)
    }

    /// Writes the decoding of the events of `deliveries`, which returns early with the first error.
    pub(crate) fn decode_batch(&self, krate: &Path, deliveries: &Ident) -> TokenStream {
        let ty = &self.ty;
        let decode = quote_spanned!(ty.span()=> <#ty as #krate::EventSet>::decode);
        quote!(#krate::__private::decoded_batch(#deliveries, #decode)?)
    }

    /// Returns `true` if it is a slice of events.
    pub(crate) fn is_batch(&self) -> bool {
        self.form == EventForm::Batch
    }

    /// Reports a slice of events, for this reason.
    pub(crate) fn refuse_batch(&self, why: &str, mistakes: &mut Mistakes) {
        if self.is_batch() {
            let code = text::code_of(&self.written);
            mistakes.at(&self.written, format!("`{code}` is a batch of events, and {why}"));
        }
    }
}

/// Writes the conversion of the function's return value into a handler outcome.
pub(crate) fn outcome(krate: &Path, output: &ReturnType, outcome: &Ident) -> TokenStream {
    match output {
        ReturnType::Type(_, ty) if contains(ty, "impl") => {
            quote!(#krate::__private::HandlerOutcome::into_outcome(#outcome))
        }
        ReturnType::Type(_, ty) => quote_spanned! {ty.span()=>
            <#ty as #krate::__private::HandlerOutcome>::into_outcome(#outcome)
        },
        ReturnType::Default => quote!(<() as #krate::__private::HandlerOutcome>::into_outcome(#outcome)),
    }
}

/// Makes a local variable that cannot collide with a name of the user.
pub(crate) fn local(name: &str) -> Ident {
    Ident::new(name, Span::mixed_site())
}

fn event(who: &str, ty: &Type, mistakes: &mut Mistakes) -> Option<Event> {
    check_type(who, ty, mistakes);
    let made = |event, form| Some(Event { ty: event, form, written: ty.clone() });
    match parameter(ty) {
        Parameter::Value(event) => made(event, EventForm::Value),
        Parameter::Borrowed(Type::Slice(slice)) => made(strip_groups(&slice.elem).clone(), EventForm::Batch),
        Parameter::Borrowed(event) => made(event, EventForm::Borrowed),
        Parameter::Transaction(_) => {
            mistakes.at(ty, format!("{who} takes the event first, and never by `&mut`: `event: &OrderCreated`"));
            None
        }
    }
}

fn parameter(ty: &Type) -> Parameter {
    match ty {
        Type::Reference(reference) => {
            let inner = strip_groups(&reference.elem).clone();
            if reference.mutability.is_some() { Parameter::Transaction(inner) } else { Parameter::Borrowed(inner) }
        }
        ty => Parameter::Value(ty.clone()),
    }
}

fn check_type(who: &str, ty: &Type, mistakes: &mut Mistakes) {
    if contains(ty, "impl") {
        mistakes.at(ty, format!("{who} names concrete types: it is registered at link time"));
    }
    if contains(ty, "Rc") {
        mistakes.at(ty, format!("`Rc` stays in one thread, and {who} is called in any: write `Arc`"));
    }
    if let Type::Reference(reference) = ty
        && let Some(lifetime) = &reference.lifetime
        && lifetime.ident == "static"
    {
        mistakes.at(lifetime, format!("leave the lifetime out: {who} borrows for one call"));
    }
}

/// Reports a known parameter of the wrong form: by value, by `&` or by `&mut`; or the repository of an application.
fn check_borrow(who: &str, ty: &Type, mistakes: &mut Mistakes) {
    let (inner, borrow) = match ty {
        Type::Reference(reference) if reference.mutability.is_some() => (strip_groups(&reference.elem), Some("&mut ")),
        Type::Reference(reference) => (strip_groups(&reference.elem), Some("&")),
        ty => (ty, None),
    };
    let Some(name) = last_name(inner) else {
        return;
    };
    if name == "AggregateRepository" {
        let code = text::code_of(inner).replace("AggregateRepository", "Repository");
        let why = "an `AggregateRepository` would save again when the event is delivered again";
        mistakes.at(ty, format!("{who} takes `{code}`, to load and save aggregates: {why}"));
        return;
    }
    let (wanted, why) = match name.as_str() {
        "Metadata" | "RecordedEvent" | "StreamId" | "AggregateId" => (Some("&"), "borrowed from the delivery"),
        "PgConnection" | "PgTransaction" | "SqliteTransaction" => (Some("&mut "), "lent by the store for one call"),
        "State" | "Attempt" | "EffectKey" | "Repository" => (None, "taken by value"),
        _ => return,
    };
    if borrow != wanted {
        let code = text::code_of(inner);
        let wanted = wanted.unwrap_or_default();
        mistakes.at(ty, format!("{who} takes `{wanted}{code}`: it is {why}"));
    }
}

/// Returns the last name in the path of a type: `EffectKey` of `eventbus::handler::EffectKey`.
pub(crate) fn last_name(ty: &Type) -> Option<String> {
    match ty {
        Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
        _ => None,
    }
}

/// Reports parameters beside a batch that belong to one event: the metadata, the record, the effect key.
fn check_values_of_one_event(rest: &[Parameter], batch: &Event, mistakes: &mut Mistakes) {
    for parameter in rest {
        match parameter {
            Parameter::Borrowed(ty) => {
                let (code, event) = (text::code_of(ty), text::code_of(&batch.ty));
                let wanted = match code.as_str() {
                    "RecordedEvent" => "`&[RecordedEvent]`".to_owned(),
                    _ if event.starts_with("Envelope") => format!("`metadata()` of each `{event}`"),
                    _ => format!("`&[Envelope<{event}>]`, and `metadata()` of each"),
                };
                mistakes.at(ty, format!("`&{code}` belongs to one event, and a batch has several: take {wanted}"));
            }
            Parameter::Value(ty) if last_name(ty).is_some_and(|name| name == "EffectKey") => {
                mistakes.at(ty, "`EffectKey` belongs to one event, and a batch has several: take one event");
            }
            Parameter::Value(_) | Parameter::Transaction(_) => {}
        }
    }
}

/// Returns the type without the invisible delimiters that `macro_rules!` puts around it.
pub(crate) fn strip_groups(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => strip_groups(&group.elem),
        Type::Paren(paren) => strip_groups(&paren.elem),
        ty => ty,
    }
}

/// Returns `true` if the type contains `word`.
pub(crate) fn contains(ty: &impl ToTokens, word: &str) -> bool {
    fn search(tokens: TokenStream, word: &str) -> bool {
        tokens.into_iter().any(|token| match token {
            TokenTree::Ident(ident) => ident == word,
            TokenTree::Group(group) => search(group.stream(), word),
            _ => false,
        })
    }
    search(ty.to_token_stream(), word)
}
