//! The enum of the events that an aggregate or a decision is folded from: `events(OrderCreated, legacy::Closed as LegacyClosed)`.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote};
use syn::{
    DeriveInput, Ident, Path, Result, Token, Visibility,
    parse::{Parse, ParseStream},
};

use crate::{
    mistakes::Mistakes,
    options::Options,
    sets,
    surroundings::{self, Taken},
    text,
};

/// The kind of item that has the enum, in the words of messages.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// The name of the attribute: `aggregate`.
    pub(crate) attribute: &'static str,
    /// `an aggregate`.
    pub(crate) noun: &'static str,
    /// The verb for its events: `have`.
    pub(crate) verb: &'static str,
    /// The verb in the third person: `has`.
    pub(crate) third: &'static str,
}

/// The generated enum.
pub(crate) struct EventEnum {
    /// The visibility of the owner, which the enum has too.
    pub(crate) vis: Visibility,
    /// The aggregate or decision.
    pub(crate) owner: Ident,
    /// Its name.
    pub(crate) ident: Ident,
    pub(crate) listed: Vec<Listed>,
    /// The user's own type of that name, already reported as a mistake: it stands in for the enum.
    pub(crate) taken: Option<Taken>,
}

/// An event in `events(..)`.
pub(crate) struct Listed {
    pub(crate) path: Path,
    /// The last segment, or the name after `as`.
    pub(crate) variant: Ident,
}

impl EventEnum {
    /// Parses the options `events` and `event`.
    pub(crate) fn parse(kind: Kind, input: &DeriveInput, options: &Options, mistakes: &mut Mistakes) -> Self {
        let owner = input.ident.clone();
        let event = options.ident("event", mistakes);
        let listed = listed(kind, input, options, mistakes);
        let event = event.unwrap_or_else(|| format_ident!("{}Event", owner, span = owner.span()));
        let is_listed = listed.iter().any(|listed| listed.path.is_ident(&event));
        let taken = if is_listed { None } else { taken(kind, &owner, &event, options, mistakes) };
        let ident = distinct(event, &listed, mistakes);
        Self { vis: input.vis.clone(), owner, ident, listed, taken }
    }

    /// Returns its variants, with the events that they hold.
    pub(crate) fn members(&self) -> Vec<sets::Member> {
        self.listed.iter().map(member).collect()
    }

    /// Writes the enum.
    pub(crate) fn expand(&self, members: &[sets::Member]) -> TokenStream {
        let Self { vis, owner, ident: event, listed, .. } = self;
        let doc = format!("The events of [`{}`].", text::name_of(owner));
        let docs = members.iter().map(|member| format!("A `{}`.", member.code()));
        let (variants, paths): (Vec<_>, Vec<_>) = listed.iter().map(|listed| (&listed.variant, &listed.path)).unzip();
        quote! {
            #[doc = #doc]
            #[allow(
                deprecated,
                private_interfaces,
                clippy::enum_variant_names,
                clippy::large_enum_variant,
                clippy::module_name_repetitions
            )]
            #[derive(::core::fmt::Debug, ::core::clone::Clone)]
            #vis enum #event {
                #(#[doc = #docs] #variants(#paths),)*
            }
        }
    }

    /// Writes the conversions of the enum and of its events, for `root.record(OrderCreated { .. })` and for tests.
    pub(crate) fn expand_recording(&self, krate: &Path) -> TokenStream {
        let Self { ident: event, listed, .. } = self;
        let out = Ident::new("out", Span::mixed_site());
        let conversion = |from: TokenStream, value: TokenStream| {
            quote! {
                #[automatically_derived]
                impl #krate::IntoEvents<#event> for #from {
                    fn into_events(self, #out: &mut ::std::vec::Vec<#event>) {
                        #out.push(#value);
                    }
                }
            }
        };
        let events =
            listed.iter().map(|Listed { path, variant }| conversion(quote!(#path), quote!(#event::#variant(self))));
        let itself = conversion(quote!(#event), quote!(self));
        quote!(#(#events)* #itself)
    }
}

fn member(listed: &Listed) -> sets::Member {
    let member = sets::Member::new(&listed.variant, &listed.path);
    match listed.path.segments.last() {
        Some(last) => member.shown_at(last.ident.span()),
        None => member,
    }
}

fn listed(kind: Kind, input: &DeriveInput, options: &Options, mistakes: &mut Mistakes) -> Vec<Listed> {
    let Some((span, members)) = options.list("events", mistakes) else {
        if options.key("events").is_none() {
            let name = text::name_of(&input.ident);
            mistakes.at(
                &input.ident,
                format!("which events does `{name}` {}? add `#[{}(events(..))]`", kind.verb, kind.attribute),
            );
        }
        return Vec::new();
    };
    if members.is_empty() {
        mistakes.at_span(span, format!("{} {} at least one event: `events(OrderCreated)`", kind.noun, kind.third));
    }
    let mut listed: Vec<Listed> = Vec::new();
    for member in members {
        let Some(event) = event(member, mistakes) else {
            continue;
        };
        match listed.iter().find(|other| other.variant == event.variant) {
            None => listed.push(event),
            Some(other) => mistakes.at(&event.variant, repeated(other, &event)),
        }
    }
    listed
}

fn event(member: TokenStream, mistakes: &mut Mistakes) -> Option<Listed> {
    let listed = syn::parse2::<Listed>(member.clone()).ok();
    if listed.is_none() {
        mistakes.at(member, "expected the path of an event, as in `OrderCreated`, or `legacy::Closed as LegacyClosed`");
    }
    listed
}

/// Renames the enum if an event has its name already, so that rustc reports no further errors.
fn distinct(event: Ident, listed: &[Listed], mistakes: &mut Mistakes) -> Ident {
    match listed.iter().find(|listed| listed.path.is_ident(&event)) {
        None => event,
        Some(same) => {
            mistakes.at(
                &same.path,
                format!(
                    "`{event}` is also the name of the generated enum; give that one another name: `event = OtherName`"
                ),
            );
            format_ident!("__{}", event)
        }
    }
}

/// Reports a type of the user that has the name of the enum already.
fn taken(kind: Kind, owner: &Ident, event: &Ident, options: &Options, mistakes: &mut Mistakes) -> Option<Taken> {
    let taken = surroundings::type_beside(owner, event)?;
    let name = text::name_of(event);
    let message = format!(
        "the enum of the events would be called `{name}`, as another type here is; give it another name: `#[{}(event = OtherName)]`",
        kind.attribute
    );
    match options.key("event") {
        Some(_) => mistakes.at(event, message),
        None => mistakes.at(owner, message),
    }
    Some(taken)
}

fn repeated(first: &Listed, second: &Listed) -> String {
    let name = text::name_of(&second.variant);
    let (one, other) = (text::code_of(&first.path), text::code_of(&second.path));
    if one == other {
        format!("`{name}` is listed twice")
    } else {
        format!("two events are called `{name}`; give one another name: `{other} as Other{name}`")
    }
}

impl Parse for Listed {
    fn parse(input: ParseStream) -> Result<Self> {
        let path = Path::parse_mod_style(input)?;
        let variant = if input.parse::<Option<Token![as]>>()?.is_some() {
            input.parse::<Ident>()?
        } else {
            match path.segments.last() {
                Some(segment) => segment.ident.clone(),
                None => return Err(input.error("expected a path")),
            }
        };
        Ok(Self { path, variant })
    }
}
