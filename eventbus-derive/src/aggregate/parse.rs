//! Finds every mistake of an item with `#[derive(Aggregate)]`.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::{
    Attribute, Data, DeriveInput, Field, Ident, Path, Result, Token,
    parse::{Parse, ParseStream},
    spanned::Spanned as _,
};

use super::model::{Listed, Model, Snapshot};
use crate::{
    krate, misplaced,
    mistakes::Mistakes,
    options::{Known, Options},
    serde_attributes::SerdeAttributes,
    shared,
    surroundings::{self, Taken},
    text,
};

const OPTIONS: &[Known] = &[
    Known::list("events", "`events(OrderCreated, OrderShipped)`"),
    Known::text("type", "`type = \"Order\"`"),
    Known::path("fold_of", "`fold_of = Order`"),
    Known::ident("event", "`event = OrderEvent`"),
    Known::flag("typed_id", "`#[aggregate(events(..), typed_id)]`"),
    Known::list("snapshot", "`snapshot(every = 100)`"),
    Known::list("retired", "`retired(\"OrderViewed\")`"),
    krate::CRATE,
];

const SNAPSHOT_OPTIONS: &[Known] =
    &[Known::number("every", "`every = 100`"), Known::number("version", "`version = 2`")];

/// Parses the item; `None` if it cannot be an aggregate.
pub(super) fn parse(input: &DeriveInput, mistakes: &mut Mistakes) -> Option<Model> {
    let options = Options::of_attributes("aggregate", OPTIONS, &input.attrs, mistakes);
    let krate = krate::path(&options, mistakes);
    misplaced::check("aggregate", &input.data, mistakes);
    shared::check("an aggregate", &input.data, mistakes);
    let aggregate_type = options.name("type", "an aggregate type", mistakes);
    let event = options.ident("event", mistakes);
    let has_typed_id = options.flag("typed_id", mistakes);
    let fold_of = options.path("fold_of", mistakes).filter(|first| {
        let is_itself = first.is_ident(&input.ident) || first.is_ident("Self");
        if is_itself {
            let message = "a fold of itself: `fold_of` names the aggregate whose streams this is a further state of";
            mistakes.at(first, message);
        }
        !is_itself
    });
    let listed = listed(input, &options, mistakes);
    let retired = options.names("retired", "an event type", mistakes);
    let snapshot = snapshot(input, &options, mistakes);
    if !input.generics.params.is_empty() {
        mistakes.at(&input.generics, "an aggregate cannot be generic: its events are stored under one durable name");
        return None;
    }
    if let Data::Union(data) = &input.data {
        mistakes.at(data.union_token, "an aggregate is a struct or an enum");
        return None;
    }
    let ident = input.ident.clone();
    let (aggregate_type, id_type) = match fold_of {
        Some(first) => {
            for key in ["type", "typed_id"].iter().filter_map(|key| options.key(key)) {
                let first = text::code_of(&first);
                mistakes.at(key, format!("a fold of `{first}` has the type and the ids of `{first}`: remove this"));
            }
            let of_first = |item: Ident| quote_spanned!(first.span()=> <#first as #krate::Aggregate>::#item);
            (of_first(format_ident!("AGGREGATE_TYPE")), of_first(format_ident!("Id")))
        }
        None => {
            let name = aggregate_type.map_or_else(|| text::name_of(&ident), |name| name.value());
            (quote!(#name), if has_typed_id { quote!(#krate::Id<#ident>) } else { quote!(#krate::AggregateId) })
        }
    };
    let event = event.unwrap_or_else(|| format_ident!("{}Event", ident, span = ident.span()));
    let is_listed = listed.iter().any(|listed| listed.path.is_ident(&event));
    let taken = if is_listed { None } else { taken(&ident, &event, &options, mistakes) };
    let event = distinct(event, &listed, mistakes);
    Some(Model {
        krate,
        vis: input.vis.clone(),
        aggregate_type,
        id_type,
        is_fold: options.key("fold_of").is_some(),
        event,
        ident,
        listed,
        retired,
        snapshot,
        taken,
    })
}

fn listed(input: &DeriveInput, options: &Options, mistakes: &mut Mistakes) -> Vec<Listed> {
    let Some((span, members)) = options.list("events", mistakes) else {
        if options.key("events").is_none() {
            let name = text::name_of(&input.ident);
            mistakes.at(&input.ident, format!("which events does `{name}` have? add `#[aggregate(events(..))]`"));
        }
        return Vec::new();
    };
    if members.is_empty() {
        mistakes.at_span(span, "an aggregate has at least one event: `events(OrderCreated)`");
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

fn snapshot(input: &DeriveInput, options: &Options, mistakes: &mut Mistakes) -> Option<Snapshot> {
    let (span, members) = options.list("snapshot", mistakes)?;
    let members = members.into_iter().flat_map(|member| [member, quote!(,)]).collect();
    let options = Options::of_arguments("snapshot", SNAPSHOT_OPTIONS, members, mistakes);
    let every = options.number("every", 1..=u32::MAX, mistakes);
    if options.key("every").is_none() {
        mistakes.at_span(span, "after how many events is the next one taken? write `snapshot(every = 100)`");
    }
    for field in skipped_fields(&input.data) {
        mistakes
            .at(field, "a snapshot would lose this field, which serde skips: remove the attribute, or `snapshot(..)`");
    }
    let version = options.number("version", 1..=u32::MAX, mistakes).unwrap_or(1);
    Some(Snapshot { every: every?, version, source: source_of(input) })
}

/// Returns the tokens of the item without its documentation.
fn source_of(input: &DeriveInput) -> String {
    let mut item = input.clone();
    let undocumented = |attrs: &mut Vec<Attribute>| attrs.retain(|attr| !attr.path().is_ident("doc"));
    undocumented(&mut item.attrs);
    match &mut item.data {
        Data::Struct(data) => data.fields.iter_mut().for_each(|field| undocumented(&mut field.attrs)),
        Data::Enum(data) => {
            for variant in &mut data.variants {
                undocumented(&mut variant.attrs);
                variant.fields.iter_mut().for_each(|field| undocumented(&mut field.attrs));
            }
        }
        Data::Union(_) => {}
    }
    text::tokens_of(item)
}

/// Returns the fields that serde does not write or does not read.
fn skipped_fields(data: &Data) -> Vec<&Field> {
    let fields: Vec<&Field> = match data {
        Data::Struct(data) => data.fields.iter().collect(),
        Data::Enum(data) => data.variants.iter().flat_map(|variant| &variant.fields).collect(),
        Data::Union(_) => Vec::new(),
    };
    fields.into_iter().filter(|field| SerdeAttributes::of(&field.attrs).skips_a_direction).collect()
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
fn taken(aggregate: &Ident, event: &Ident, options: &Options, mistakes: &mut Mistakes) -> Option<Taken> {
    let taken = surroundings::type_beside(aggregate, event)?;
    let name = text::name_of(event);
    let message = format!(
        "the enum of the events would be called `{name}`, as another type here is; give it another name: `#[aggregate(event = OtherName)]`"
    );
    match options.key("event") {
        Some(_) => mistakes.at(event, message),
        None => mistakes.at(aggregate, message),
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
