//! Finds every mistake of an item with `#[derive(Decision)]`.

use syn::{Data, DeriveInput};

use super::Model;
use crate::{
    event_enum::{EventEnum, Kind},
    krate, misplaced,
    mistakes::Mistakes,
    options::{Known, Options},
    shared,
};

const OPTIONS: &[Known] = &[
    Known::list("events", "`events(CourseDefined, Enrolled)`"),
    Known::ident("event", "`event = SeatsEvent`"),
    krate::CRATE,
];

const KIND: Kind = Kind { attribute: "decision", noun: "a decision", verb: "read", third: "reads" };

/// Parses the item; `None` if it cannot be a decision.
pub(super) fn parse(input: &DeriveInput, mistakes: &mut Mistakes) -> Option<Model> {
    let options = Options::of_attributes("decision", OPTIONS, &input.attrs, mistakes);
    let krate = krate::path(&options, mistakes);
    misplaced::check("decision", &input.data, mistakes);
    shared::check("a decision", &input.data, mistakes);
    let events = EventEnum::parse(KIND, input, &options, mistakes);
    if !input.generics.params.is_empty() {
        mistakes.at(&input.generics, "a decision cannot be generic: write one for each type");
        return None;
    }
    if let Data::Union(data) = &input.data {
        mistakes.at(data.union_token, "a decision is a struct or an enum");
        return None;
    }
    Some(Model { krate, events })
}
