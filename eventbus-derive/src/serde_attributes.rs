//! The attributes of serde that change what is on the wire.

use syn::{Attribute, LitStr, Token};

/// Serde's attributes of an item or a field.
#[derive(Default)]
pub(crate) struct SerdeAttributes {
    pub(crate) renames: Vec<LitStr>,
    /// Further names under which serde reads the field.
    pub(crate) aliases: Vec<LitStr>,
    rename_all: Vec<String>,
    /// The key under which serde adds the name of a struct.
    pub(crate) tag: Option<LitStr>,
    /// Set if serde neither writes nor reads the field.
    pub(crate) skip: bool,
    /// Set if serde does not write the field, or does not read it, or neither.
    pub(crate) skips_a_direction: bool,
    pub(crate) flatten: bool,
    /// Set if serde writes a value of a different type in its place.
    pub(crate) has_substitute: bool,
}

impl SerdeAttributes {
    /// Parses the attributes; leaves mistakes in them to serde.
    pub(crate) fn of(attrs: &[Attribute]) -> Self {
        let mut serde = Self::default();
        for attr in attrs.iter().filter(|attr| attr.path().is_ident("serde")) {
            let _ = attr.parse_nested_meta(|meta| {
                let (rename, rename_all) = (meta.path.is_ident("rename"), meta.path.is_ident("rename_all"));
                serde.skip |= meta.path.is_ident("skip");
                serde.skips_a_direction |=
                    ["skip", "skip_serializing", "skip_deserializing"].iter().any(|skip| meta.path.is_ident(skip));
                serde.flatten |= meta.path.is_ident("flatten");
                serde.has_substitute |= ["into", "transparent"].iter().any(|into| meta.path.is_ident(into));
                if rename || rename_all {
                    let mut keep = |name: LitStr| {
                        if rename {
                            serde.renames.push(name);
                        } else {
                            serde.rename_all.push(name.value());
                        }
                    };
                    if meta.input.peek(Token![=]) {
                        keep(meta.value()?.parse()?);
                    } else {
                        meta.parse_nested_meta(|direction| {
                            keep(direction.value()?.parse()?);
                            Ok(())
                        })?;
                    }
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
        self.rename_all.is_empty()
            || self.rename_all.iter().any(|rule| match rule.as_str() {
                "camelCase" | "kebab-case" => !name.contains('_'),
                "PascalCase" | "UPPERCASE" | "SCREAMING_SNAKE_CASE" | "SCREAMING-KEBAB-CASE" => false,
                _ => true,
            })
    }
}
