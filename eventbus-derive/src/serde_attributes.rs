//! The attributes of serde that change what is on the wire.

use syn::{Attribute, LitStr, Path, Result, Token, meta::ParseNestedMeta};

/// Serde's attributes of an item or a field.
#[derive(Default)]
pub(crate) struct SerdeAttributes {
    pub(crate) rename: Rename,
    /// Further names under which serde reads the field.
    pub(crate) aliases: Vec<LitStr>,
    /// Its names are rules.
    pub(crate) rename_all: Rename,
    /// The key under which serde adds the name of a struct.
    pub(crate) tag: Option<LitStr>,
    /// `skip`, `skip_serializing` and `skip_deserializing`, where they are written.
    pub(crate) skips: Vec<Path>,
    /// `skip_serializing_if`, where it is written.
    pub(crate) skip_if: Option<Path>,
    /// Set if serde reads the field, or each field of the struct, without a value.
    pub(crate) default: bool,
    /// Set if a function reads the field, and not its type.
    pub(crate) has_reader: bool,
    pub(crate) flatten: bool,
    /// Set if serde writes a value of a different type in its place.
    pub(crate) has_substitute: bool,
    /// Set if a value of a different type is read in place of it.
    pub(crate) has_read_substitute: bool,
}

impl SerdeAttributes {
    /// Parses the attributes; leaves mistakes in them to serde.
    pub(crate) fn of(attrs: &[Attribute]) -> Self {
        let mut serde = Self::default();
        for attr in attrs.iter().filter(|attr| attr.path().is_ident("serde")) {
            let _ = attr.parse_nested_meta(|meta| {
                if ["skip", "skip_serializing", "skip_deserializing"].iter().any(|skip| meta.path.is_ident(skip)) {
                    serde.skips.push(meta.path.clone());
                } else if meta.path.is_ident("skip_serializing_if") {
                    serde.skip_if = Some(meta.path.clone());
                }
                serde.default |= meta.path.is_ident("default");
                serde.has_reader |= ["with", "deserialize_with"].iter().any(|reader| meta.path.is_ident(reader));
                serde.flatten |= meta.path.is_ident("flatten");
                serde.has_substitute |= ["into", "transparent"].iter().any(|into| meta.path.is_ident(into));
                serde.has_read_substitute |= ["from", "try_from"].iter().any(|from| meta.path.is_ident(from));
                if meta.path.is_ident("rename") {
                    serde.rename.add(&meta)?;
                } else if meta.path.is_ident("rename_all") {
                    serde.rename_all.add(&meta)?;
                } else if meta.path.is_ident("tag") {
                    serde.tag = Some(meta.value()?.parse()?);
                } else if meta.path.is_ident("alias") {
                    serde.aliases.push(meta.value()?.parse()?);
                } else if meta.input.peek(Token![=]) {
                    meta.value()?.parse::<syn::Expr>()?;
                } else if meta.input.peek(syn::token::Paren) {
                    meta.parse_nested_meta(|inner| {
                        if inner.input.peek(Token![=]) {
                            inner.value()?.parse::<syn::Expr>()?;
                        }
                        Ok(())
                    })?;
                }
                Ok(())
            });
        }
        serde
    }

    /// Returns `true` if one direction of `rename_all` leaves a reserved name as it is.
    pub(crate) fn keeps(&self, name: &str) -> bool {
        let rules = self.rename_all.names();
        rules.is_empty()
            || rules.iter().any(|rule| match rule.value().as_str() {
                "camelCase" | "kebab-case" => !name.contains('_'),
                "PascalCase" | "UPPERCASE" | "SCREAMING_SNAKE_CASE" | "SCREAMING-KEBAB-CASE" => false,
                _ => true,
            })
    }
}

/// The names in `rename` or `rename_all`, by direction.
#[derive(Default)]
pub(crate) struct Rename {
    /// The attribute, where it is written.
    pub(crate) key: Option<Path>,
    /// The name that serde writes.
    pub(crate) written: Option<LitStr>,
    /// The name that serde reads.
    pub(crate) read: Option<LitStr>,
}

impl Rename {
    /// Parses `= "name"`, or `(serialize = "name", deserialize = "name")`.
    fn add(&mut self, meta: &ParseNestedMeta<'_>) -> Result<()> {
        self.key = Some(meta.path.clone());
        if meta.input.peek(Token![=]) {
            let name: LitStr = meta.value()?.parse()?;
            (self.written, self.read) = (Some(name.clone()), Some(name));
            return Ok(());
        }
        meta.parse_nested_meta(|direction| {
            let name = Some(direction.value()?.parse()?);
            match direction.path.is_ident("serialize") {
                true => self.written = name,
                false => self.read = name,
            }
            Ok(())
        })
    }

    /// Returns its names; one if both directions have the same.
    pub(crate) fn names(&self) -> Vec<&LitStr> {
        match (&self.written, &self.read) {
            (Some(written), Some(read)) if written.value() == read.value() => vec![written],
            (written, read) => written.iter().chain(read).collect(),
        }
    }
}
