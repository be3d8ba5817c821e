//! Refuses attributes of serde by which an event would lose a field.

use syn::{Attribute, Field, LitStr, Token, ext::IdentExt, punctuated::Punctuated};

use crate::{
    mistakes::Mistakes,
    parameters::{last_name, strip_groups},
    serde_attributes::SerdeAttributes,
    text::code_of,
};

/// Types that serde cannot read if their field is missing: texts, numbers, `bool` and collections.
const NEEDED: [&str; 23] = [
    "bool", "char", "i8", "i16", "i32", "i64", "i128", "isize", "u8", "u16", "u32", "u64", "u128", "usize", "f32",
    "f64", "String", "Vec", "VecDeque", "HashMap", "BTreeMap", "HashSet", "BTreeSet",
];

/// Reports every attribute by which serde does not write a field, does not read it, or reads it under a different name
/// than it writes. It does not see the attributes within the types of fields.
pub(super) fn check(container: &[Attribute], fields: &Punctuated<Field, Token![,]>, mistakes: &mut Mistakes) {
    let container = SerdeAttributes::of(container);
    if container.has_substitute {
        return;
    }
    let rules = &container.rename_all;
    if let Some(key) = &rules.key
        && !container.has_read_substitute
        && rules.written.as_ref().map(LitStr::value) != rules.read.as_ref().map(LitStr::value)
    {
        let message = "`rename_all` would lose fields: they are stored under one name and read under another. Write \
                       `rename_all = \"..\"` for both";
        mistakes.at(key, message);
    }
    for field in fields {
        let serde = SerdeAttributes::of(&field.attrs);
        for skip in &serde.skips {
            let (skipped, when) = (code_of(skip), if skip.is_ident("skip_deserializing") { "read" } else { "stored" });
            let message =
                format!("`{skipped}` would lose this field when the event is {when}: remove the field, or `{skipped}`");
            mistakes.at(skip, message);
        }
        // the fields of a flattened one, and of the type that is read, have attributes of their own
        if serde.flatten || container.has_read_substitute {
            continue;
        }
        if let Some(key) = &serde.rename.key
            && !reads_its_name(field, &serde, !rules.names().is_empty())
        {
            let message = "`rename` would lose this field: it is stored under one name and read under another. Write \
                           `rename = \"..\"` for both, and `alias = \"..\"` for a name that older events have";
            mistakes.at(key, message);
        }
        // serde reads a missing field of other types by `default` alone; an alias may name an `Option`
        let is_needed =
            last_name(strip_groups(&field.ty)).is_some_and(|name| NEEDED.iter().any(|known| name == *known));
        if let Some(key) = &serde.skip_if
            && !serde.default
            && !container.default
            && (serde.has_reader || is_needed)
        {
            let message = "`skip_serializing_if` would leave this field out, and the event could not be read without \
                           it: add `default`";
            mistakes.at(key, message);
        }
    }
}

/// Returns `true` if serde reads the field under the name that it writes, as far as its attributes show: `rename_all`
/// changes the name of a direction without `rename`.
fn reads_its_name(field: &Field, serde: &SerdeAttributes, has_rename_all: bool) -> bool {
    let own = field.ident.as_ref().filter(|_| !has_rename_all).map(|ident| ident.unraw().to_string());
    let (written, read) = (serde.rename.written.as_ref(), serde.rename.read.as_ref());
    let written = written.map(LitStr::value).or_else(|| own.clone());
    let read = read.map(LitStr::value).or(own);
    let is_written = |name: &LitStr| written.as_ref().is_none_or(|written| *written == name.value());
    written == read || serde.aliases.iter().any(is_written)
}
