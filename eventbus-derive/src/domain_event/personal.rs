//! The fields with personal data: `personal(email, address)`.

use syn::{DeriveInput, Fields, Ident, parse2};

use crate::{mistakes::Mistakes, options::Options, serde_attributes::SerdeAttributes, text};

/// Parses the list; returns the present and earlier names of the fields in the stored JSON, without the case and the
/// separators that `rename_all` gives them.
pub(super) fn parse(input: &DeriveInput, fields: &Fields, options: &Options, mistakes: &mut Mistakes) -> Vec<String> {
    let mut found: Vec<Ident> = Vec::new();
    let mut names = Vec::new();
    let Some((span, members)) = options.list("personal", mistakes) else {
        return names;
    };
    if SerdeAttributes::of(&input.attrs).has_substitute {
        mistakes.at_span(
            span,
            "`personal` names fields of the stored JSON, and serde writes this event as a value of a different type: \
             declare the fields of that type, or write the event itself",
        );
    }
    for member in members {
        let Ok(field) = parse2::<Ident>(member.clone()) else {
            mistakes.at(member, "`personal` lists fields, as in `personal(email, address)`");
            continue;
        };
        if found.contains(&field) {
            mistakes.at(&field, format!("`{field}` is listed twice"));
            continue;
        }
        let Some(known) = fields.iter().find(|known| known.ident.as_ref() == Some(&field)) else {
            mistakes.at(&field, format!("the event has no field `{field}`"));
            continue;
        };
        let serde = SerdeAttributes::of(&known.attrs);
        if serde.flatten {
            mistakes.at(&field, format!("`{field}` is flattened: stored events have its fields, and no `{field}`"));
        }
        let renames = serde.rename.names();
        if renames.is_empty() {
            names.push(text::name_of(&field));
        }
        names.extend(renames.into_iter().chain(&serde.aliases).map(syn::LitStr::value));
        found.push(field);
    }
    names
}
