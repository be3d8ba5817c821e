//! Refuses fields that would collide with those of the wire's envelope.

use syn::{Attribute, Field, LitStr, Token, ext::IdentExt, punctuated::Punctuated};

use crate::mistakes::Mistakes;

/// The fields of the envelope; the same as `eventbus::event::RESERVED_FIELDS`.
const RESERVED: [&str; 12] = [
    "event_id",
    "event_type",
    "event_version",
    "occurred_at",
    "aggregate_id",
    "aggregate_type",
    "aggregate_version",
    "tenant_id",
    "actor_id",
    "correlation_id",
    "causation_id",
    "metadata",
];

/// Reports every field whose key on the wire is reserved.
///
/// Reads serde's attributes; the encoder refuses reserved keys that serde makes at run time (`flatten`).
pub(super) fn check(container: &[Attribute], fields: &Punctuated<Field, Token![,]>, mistakes: &mut Mistakes) {
    let container = Serde::of(container);
    for field in fields {
        let Some(ident) = &field.ident else { continue };
        let serde = Serde::of(&field.attrs);
        if serde.skip || serde.flatten {
            continue;
        }
        if serde.renames.is_empty() {
            let name = ident.unraw().to_string();
            if container.keeps(&name) && RESERVED.contains(&name.as_str()) {
                mistakes.at(ident, message(&name));
            }
        } else if let Some(name) = serde.renames.iter().find(|name| RESERVED.contains(&name.value().as_str())) {
            mistakes.at(name, message(&name.value()));
        }
    }
}

fn message(name: &str) -> String {
    format!("`{name}` is a field of the envelope that every event travels in; give the event's own field another name")
}

/// Serde's attributes about the names on the wire.
#[derive(Default)]
struct Serde {
    renames: Vec<LitStr>,
    rename_all: Vec<String>,
    skip: bool,
    flatten: bool,
}

impl Serde {
    /// Parses the attributes; leaves mistakes in them to serde.
    fn of(attrs: &[Attribute]) -> Self {
        let mut serde = Self::default();
        for attr in attrs.iter().filter(|attr| attr.path().is_ident("serde")) {
            let _ = attr.parse_nested_meta(|meta| {
                let (rename, rename_all) = (meta.path.is_ident("rename"), meta.path.is_ident("rename_all"));
                serde.skip |= meta.path.is_ident("skip");
                serde.flatten |= meta.path.is_ident("flatten");
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
    fn keeps(&self, name: &str) -> bool {
        self.rename_all.is_empty()
            || self.rename_all.iter().any(|rule| match rule.as_str() {
                "camelCase" | "kebab-case" => !name.contains('_'),
                "PascalCase" | "UPPERCASE" | "SCREAMING_SNAKE_CASE" | "SCREAMING-KEBAB-CASE" => false,
                _ => true,
            })
    }
}
