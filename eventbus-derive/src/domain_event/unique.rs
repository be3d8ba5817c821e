//! The unique values of an event: `unique(email, normalize = str::to_lowercase)` and `releases(email)`.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{Fields, Ident, Path, Token, parse::Parser, spanned::Spanned};

use super::model::{Unique, UniqueSource};
use crate::{mistakes::Mistakes, options::Options, text};

/// Parses both lists.
pub(super) fn parse(fields: &Fields, options: &Options, mistakes: &mut Mistakes) -> Vec<Unique> {
    let mut found: Vec<Unique> = Vec::new();
    for member in options.list("unique", mistakes).map(|(_, members)| members).unwrap_or_default() {
        match taken(&member) {
            Some(Member::Field { name, field }) => {
                let source = if fields.iter().any(|known| known.ident.as_ref() == Some(&field)) {
                    UniqueSource::Field(field)
                } else {
                    mistakes.at(&field, format!("the event has no field `{field}`"));
                    UniqueSource::Nothing
                };
                add(&mut found, Unique { name, normalize: None, source }, mistakes);
            }
            Some(Member::Normalize(path)) => match found.last_mut() {
                Some(unique) if unique.normalize.is_none() => unique.normalize = Some(path),
                Some(_) => mistakes.at(path, "`normalize` is given twice for one field"),
                None => mistakes.at(path, "`normalize` follows the field: `unique(email, normalize = str::to_lowercase)`"),
            },
            None => mistakes.at(
                member,
                "`unique` lists fields, as in `unique(email, normalize = str::to_lowercase)`; `unique(email = address)` \
                 names the value of field `address` `email`",
            ),
        }
    }
    for member in options.list("releases", mistakes).map(|(_, members)| members).unwrap_or_default() {
        match syn::parse2::<Ident>(member.clone()) {
            Ok(name) => add(&mut found, Unique { name, normalize: None, source: UniqueSource::Nothing }, mistakes),
            Err(_) => mistakes.at(member, "`releases` lists names of unique values, as in `releases(email)`"),
        }
    }
    found
}

fn add(found: &mut Vec<Unique>, unique: Unique, mistakes: &mut Mistakes) {
    if found.iter().any(|other| other.name == unique.name) {
        mistakes.at(&unique.name, format!("`{}` is listed twice", unique.name));
    } else {
        found.push(unique);
    }
}

/// A member of the list `unique(..)`.
enum Member {
    Field { name: Ident, field: Ident },
    Normalize(Path),
}

fn taken(member: &TokenStream) -> Option<Member> {
    let parser = |input: syn::parse::ParseStream<'_>| {
        let name: Ident = input.parse()?;
        if input.is_empty() {
            return Ok(Member::Field { field: name.clone(), name });
        }
        input.parse::<Token![=]>()?;
        match name == "normalize" {
            true => Path::parse_mod_style(input).map(Member::Normalize),
            false => Ok(Member::Field { name, field: input.parse()? }),
        }
    };
    parser.parse2(member.clone()).ok()
}

/// Writes the list of names for the descriptor, and the list of readers for the codec.
pub(super) fn expand(krate: &Path, ident: &Ident, unique: &[Unique]) -> (TokenStream, TokenStream) {
    let private = quote!(#krate::__private);
    let names = unique.iter().map(|Unique { name, normalize, source }| {
        let (name, takes) = (text::name_of(name), matches!(source, UniqueSource::Field(_)));
        let (function, written) = match normalize {
            Some(path) => (quote_spanned!(path.span()=> #path), text::code_of(path)),
            None => (quote!(#private::as_it_is), String::new()),
        };
        quote!(#private::UniqueName { name: #name, normalize: #function, normalized_by: #written, takes: #takes })
    });
    let readers = unique.iter().map(|Unique { source, .. }| match source {
        UniqueSource::Field(field) => {
            let event = Ident::new("event", Span::mixed_site().located_at(field.span()));
            quote_spanned!(field.span()=> |#event: &#ident| #private::unique_value(&#event.#field))
        }
        UniqueSource::Nothing => quote!(|_| ::core::option::Option::None),
    });
    (quote!(&[#(#names),*]), quote!(&[#(#readers),*]))
}
