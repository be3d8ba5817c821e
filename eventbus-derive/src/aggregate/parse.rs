//! Finds every mistake of an item with `#[derive(Aggregate)]`.

use quote::{format_ident, quote, quote_spanned};
use syn::{Attribute, Data, DeriveInput, Field, Ident, spanned::Spanned as _};

use super::model::{Model, Snapshot};
use crate::{
    event_enum::{EventEnum, Kind},
    krate, misplaced,
    mistakes::Mistakes,
    options::{Known, Options},
    serde_attributes::SerdeAttributes,
    shared, text,
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

const KIND: Kind = Kind { attribute: "aggregate", noun: "an aggregate", verb: "have", third: "has" };

const SNAPSHOT_OPTIONS: &[Known] =
    &[Known::number("every", "`every = 100`"), Known::number("version", "`version = 2`")];

/// Parses the item; `None` if it cannot be an aggregate.
pub(super) fn parse(input: &DeriveInput, mistakes: &mut Mistakes) -> Option<Model> {
    let options = Options::of_attributes("aggregate", OPTIONS, &input.attrs, mistakes);
    let krate = krate::path(&options, mistakes);
    misplaced::check("aggregate", &input.data, mistakes);
    shared::check("an aggregate", &input.data, mistakes);
    let aggregate_type = options.name("type", "an aggregate type", mistakes);
    let has_typed_id = options.flag("typed_id", mistakes);
    let fold_of = options.path("fold_of", mistakes).filter(|first| {
        let is_itself = first.is_ident(&input.ident) || first.is_ident("Self");
        if is_itself {
            let message = "a fold of itself: `fold_of` names the aggregate whose streams this is a further state of";
            mistakes.at(first, message);
        }
        !is_itself
    });
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
    let events = EventEnum::parse(KIND, input, &options, mistakes);
    Some(Model {
        krate,
        aggregate_type,
        id_type,
        is_fold: options.key("fold_of").is_some(),
        events,
        ident,
        retired,
        snapshot,
    })
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
    fields.into_iter().filter(|field| !SerdeAttributes::of(&field.attrs).skips.is_empty()).collect()
}
