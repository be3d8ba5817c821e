//! Finds every mistake of an item with `#[derive(OldEvent)]`.

use syn::{Data, DeriveInput, Fields};

use super::model::Model;
use crate::{
    krate, misplaced,
    mistakes::Mistakes,
    options::{Known, Options},
    text,
};

const OPTIONS: &[Known] =
    &[Known::path("of", "`of = OrderCreated`"), Known::number("version", "`version = 1`"), krate::CRATE];

/// Parses the item; `None` if it cannot be an earlier version of an event.
pub(super) fn parse(input: &DeriveInput, mistakes: &mut Mistakes) -> Option<Model> {
    let options = Options::of_attributes("event", OPTIONS, &input.attrs, mistakes);
    let krate = krate::path(&options, mistakes);
    misplaced::check("event", &input.data, mistakes);
    let name = text::name_of(&input.ident);
    for (key, what) in [
        ("of", "which event is `{}` an earlier version of? add"),
        ("version", "which version of the event has the fields of `{}`? add"),
    ] {
        if options.key(key).is_none() {
            let question = what.replace("{}", &name);
            mistakes.at(&input.ident, format!("{question} `#[event(of = .., version = ..)]`"));
        }
    }
    if !input.generics.params.is_empty() {
        mistakes.at(&input.generics, "an earlier version of an event cannot be generic, as the event itself");
        return None;
    }
    match &input.data {
        Data::Struct(data) if matches!(data.fields, Fields::Named(_)) => {}
        Data::Struct(data) if matches!(data.fields, Fields::Unit) => mistakes.at(
            &input.ident,
            "a version without fields needs no struct: list a function that adds what the next one has, or `_`",
        ),
        _ => mistakes
            .at(&input.ident, "an earlier version of an event is a struct with named fields, as the event itself"),
    }
    let event = options.path("of", mistakes);
    let version = options.number("version", 1..=i32::MAX as u32, mistakes);
    Some(Model { krate, ident: input.ident.clone(), event: event?, version: version? })
}
