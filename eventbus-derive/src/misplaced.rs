//! Attributes on parts of an item, where no macro reads them.

use syn::{Attribute, Data, Field};

use crate::mistakes::Mistakes;

/// Reports attributes called `attribute` on fields and variants: they belong on the item.
pub(crate) fn check(attribute: &str, data: &Data, mistakes: &mut Mistakes) {
    let fields: Vec<&Field> = match data {
        Data::Struct(data) => data.fields.iter().collect(),
        Data::Enum(data) => data.variants.iter().flat_map(|variant| &variant.fields).collect(),
        Data::Union(data) => data.fields.named.iter().collect(),
    };
    for field in fields {
        report(attribute, &field.attrs, mistakes);
    }
    if let Data::Enum(data) = data {
        for variant in &data.variants {
            report(attribute, &variant.attrs, mistakes);
        }
    }
}

fn report(attribute: &str, attrs: &[Attribute], mistakes: &mut Mistakes) {
    for attr in attrs.iter().filter(|attr| attr.path().is_ident(attribute)) {
        mistakes.at(attr, format!("`#[{attribute}(..)]` stands on the whole item, never on a part of it"));
    }
}
