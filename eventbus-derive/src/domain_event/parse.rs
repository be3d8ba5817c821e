//! Parses an item with `#[derive(DomainEvent)]`, and reports every mistake in it.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DataEnum, DataStruct, DeriveInput, Fields, Variant};

use super::{
    lost,
    model::{Aggregate, Event, Kind, Member, Model},
    personal, reserved, tags, unique, upcast,
};
use crate::{
    krate, misplaced,
    mistakes::Mistakes,
    options::{Known, Options},
    parameters::strip_groups,
    shared, text,
};

const OPTIONS: &[Known] = &[
    Known::path("aggregate", "`aggregate = Order`, or `aggregate_type = \"Order\"` when it is in another crate"),
    Known::text("aggregate_type", "`aggregate_type = \"Order\"`"),
    Known::text("type", "`type = \"order.created\"`"),
    Known::number("version", "`version = 2`"),
    Known::list("was", "`was(\"OrderPlaced\")`"),
    Known::list("unique", "`unique(email)`"),
    Known::list("releases", "`releases(email)`"),
    Known::list("tags", "`tags(course, student)`"),
    Known::list("personal", "`personal(email)`"),
    Known::list("upcast", "`upcast(OrderCreatedV1, add_currency)`"),
    krate::CRATE,
];

/// Parses the item; `None` if it cannot be an event or a set of events.
pub(super) fn parse(input: &DeriveInput, mistakes: &mut Mistakes) -> Option<Model> {
    let options = Options::of_attributes("event", OPTIONS, &input.attrs, mistakes);
    let krate = krate::path(&options, mistakes);
    misplaced::check("event", &input.data, mistakes);
    shared::check("an event", &input.data, mistakes);
    if !input.generics.params.is_empty() {
        mistakes.at(&input.generics, "an event cannot be generic: it is stored under one durable name");
        return None;
    }
    let kind = match &input.data {
        Data::Struct(data) => Kind::Event(event(input, data, &options, mistakes)),
        Data::Enum(data) => Kind::Set(members(input, data, &options, mistakes)),
        Data::Union(data) => {
            mistakes.at(data.union_token, "an event is a struct with named fields: a union cannot be written as JSON");
            return None;
        }
    };
    Some(Model { krate, ident: input.ident.clone(), kind })
}

fn event(input: &DeriveInput, data: &DataStruct, options: &Options, mistakes: &mut Mistakes) -> Event {
    match &data.fields {
        Fields::Named(fields) => {
            reserved::check(&input.attrs, &fields.named, mistakes);
            lost::check(&input.attrs, &fields.named, mistakes);
        }
        Fields::Unnamed(fields) => {
            mistakes.at(fields, "an event has named fields: they are the keys of the stored JSON object")
        }
        Fields::Unit => {}
    }
    let event_type = options.name("type", "an event type", mistakes);
    // the struct's name by default: renaming the struct then renames the durable event type
    let event_type = event_type.map_or_else(|| text::name_of(&input.ident), |name| name.value());
    let schema_version = options.number("version", 1..=i32::MAX as u32, mistakes).unwrap_or(1);
    Event {
        former_types: former_types(&event_type, options, mistakes),
        upcasters: upcast::parse(schema_version, options, mistakes),
        unique: unique::parse(&data.fields, options, mistakes),
        tags: tags::parse(&data.fields, options, mistakes),
        personal: personal::parse(input, &data.fields, options, mistakes),
        event_type,
        schema_version,
        aggregate: aggregate(input, options, mistakes),
        is_unit: matches!(data.fields, Fields::Unit),
    }
}

fn former_types(event_type: &str, options: &Options, mistakes: &mut Mistakes) -> Vec<String> {
    let mut former = Vec::new();
    for name in options.names("was", "an event type", mistakes) {
        let value = name.value();
        if value == event_type {
            mistakes.at(&name, format!("`{value}` is today's name of the event: `was` lists those from before"));
        } else if former.contains(&value) {
            mistakes.at(&name, format!("`{value}` is listed twice"));
        } else {
            former.push(value);
        }
    }
    former
}

fn aggregate(input: &DeriveInput, options: &Options, mistakes: &mut Mistakes) -> Aggregate {
    let path = options.path("aggregate", mistakes);
    let name = options.name("aggregate_type", "an aggregate type", mistakes);
    // the keys, not the values: a key with an invalid value is reported already
    match (options.key("aggregate"), options.key("aggregate_type")) {
        (Some(_), Some(second)) => mistakes.at(
            second,
            "`aggregate` already says which aggregate the event belongs to; `aggregate_type` is for one in another crate",
        ),
        (None, None) => {
            let event = text::name_of(&input.ident);
            mistakes.at(
                &input.ident,
                format!(
                    "which aggregate does `{event}` belong to? add `#[event(aggregate = ..)]`, or `#[event(aggregate_type = \"..\")]` when it is in another crate"
                ),
            );
        }
        _ => {}
    }
    match (path, name) {
        (Some(path), _) => Aggregate::Type(path),
        (None, Some(name)) => Aggregate::Name(name.value()),
        (None, None) => Aggregate::Unknown,
    }
}

fn members(input: &DeriveInput, data: &DataEnum, options: &Options, mistakes: &mut Mistakes) -> Vec<Member> {
    let of_events =
        ["aggregate", "aggregate_type", "type", "version", "was", "unique", "releases", "tags", "personal", "upcast"];
    for key in of_events {
        if let Some(key) = options.key(key) {
            mistakes.at(
                key,
                format!("an enum of events has no `{key}` of its own: its variants hold events that have one"),
            );
        }
    }
    if data.variants.is_empty() {
        mistakes.at(&input.ident, "an enum of events has at least one variant: write `A(SomeEvent)`");
    }
    let mut members: Vec<Member> = Vec::new();
    for variant in &data.variants {
        let Some(member) = held_event(variant) else {
            mistakes.at(variant_shape(variant), shape_message(variant));
            continue;
        };
        let code = text::code_of(&member.event);
        match members.iter().find(|other| text::code_of(&other.event) == code) {
            None => members.push(member),
            Some(first) => {
                let first = &first.variant;
                mistakes
                    .at(&member.event, format!("`{code}` is held by variant `{first}` already: leave one of them out"));
            }
        }
    }
    members
}

fn held_event(variant: &Variant) -> Option<Member> {
    let Fields::Unnamed(fields) = &variant.fields else {
        return None;
    };
    if fields.unnamed.len() != 1 {
        return None;
    }
    fields
        .unnamed
        .first()
        .map(|field| Member { variant: variant.ident.clone(), event: strip_groups(&field.ty).clone() })
}

fn variant_shape(variant: &Variant) -> TokenStream {
    let (ident, fields) = (&variant.ident, &variant.fields);
    quote!(#ident #fields)
}

fn shape_message(variant: &Variant) -> String {
    let name = &variant.ident;
    format!(
        "an event variant holds one struct event: write `{name}(SomeEvent)` and put the fields into `struct SomeEvent`"
    )
}
