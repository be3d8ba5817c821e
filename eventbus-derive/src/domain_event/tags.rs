//! The tags of an event: `tags(course, student = pupil, event_type)`.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{Fields, Ident, Path, Token, parse::Parser};

use super::model::Tag;
use crate::{mistakes::Mistakes, options::Options, text};

/// The tag with the event's own type as its value. No event has a field of this name: the envelope of the wire reserves
/// it.
const EVENT_TYPE: &str = "event_type";

/// Parses the list.
pub(super) fn parse(fields: &Fields, options: &Options, mistakes: &mut Mistakes) -> Vec<Tag> {
    let mut found: Vec<Tag> = Vec::new();
    for member in options.list("tags", mistakes).map(|(_, members)| members).unwrap_or_default() {
        let Some((name, field)) = parse_member(&member) else {
            mistakes.at(
                member,
                "`tags` lists fields, as in `tags(course, student)`; `tags(student = pupil)` names the value of field \
                 `pupil` `student`, and `tags(event_type)` is the type of the event",
            );
            continue;
        };
        if found.iter().any(|other| other.name == name) {
            mistakes.at(&name, format!("`{name}` is listed twice"));
            continue;
        }
        if name == EVENT_TYPE && field != EVENT_TYPE {
            let message = "`event_type` is the tag of the event's own type: give the field's value a different name";
            mistakes.at(&name, message);
            continue;
        }
        if field != EVENT_TYPE && !fields.iter().any(|known| known.ident.as_ref() == Some(&field)) {
            mistakes.at(&field, format!("the event has no field `{field}`"));
            continue;
        }
        found.push(Tag { name, field });
    }
    found
}

fn parse_member(member: &TokenStream) -> Option<(Ident, Ident)> {
    let parser = |input: syn::parse::ParseStream<'_>| {
        let name: Ident = input.parse()?;
        if input.is_empty() {
            return Ok((name.clone(), name));
        }
        input.parse::<Token![=]>()?;
        Ok((name, input.parse()?))
    };
    parser.parse2(member.clone()).ok()
}

/// Writes the list of names for the descriptor, and the list of readers for the codec.
pub(super) fn expand(krate: &Path, ident: &Ident, event_type: &str, tags: &[Tag]) -> (TokenStream, TokenStream) {
    let names = tags.iter().map(|tag| text::name_of(&tag.name));
    let readers = tags.iter().map(|Tag { field, .. }| {
        let event = Ident::new("event", Span::mixed_site().located_at(field.span()));
        match field == EVENT_TYPE {
            true => quote!(|_| ::std::vec![::std::string::String::from(#event_type)]),
            false => quote_spanned!(field.span()=> |#event: &#ident| #krate::__private::tag_values(&#event.#field)),
        }
    });
    (quote!(&[#(#names),*]), quote!(&[#(#readers),*]))
}
