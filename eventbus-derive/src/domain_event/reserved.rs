//! Refuses fields that would collide with those of the wire's envelope.

use syn::{Attribute, Field, Token, ext::IdentExt, punctuated::Punctuated};

use crate::{mistakes::Mistakes, serde_attributes::SerdeAttributes};

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

/// Reports every field whose key on the wire is reserved, and every reserved key that serde adds.
///
/// Reads serde's attributes; the encoder refuses reserved keys that serde makes at run time (`flatten`).
pub(super) fn check(container: &[Attribute], fields: &Punctuated<Field, Token![,]>, mistakes: &mut Mistakes) {
    let container = SerdeAttributes::of(container);
    if let Some(tag) = container.tag.as_ref().filter(|tag| RESERVED.contains(&tag.value().as_str())) {
        mistakes.at(tag, message(&tag.value()));
    }
    for field in fields {
        let Some(ident) = &field.ident else { continue };
        let serde = SerdeAttributes::of(&field.attrs);
        if !serde.skips.is_empty() || serde.flatten {
            continue;
        }
        let renames = serde.rename.names();
        if renames.is_empty() {
            let name = ident.unraw().to_string();
            if container.keeps(&name) && RESERVED.contains(&name.as_str()) {
                mistakes.at(ident, message(&name));
            }
        } else if let Some(name) = renames.into_iter().find(|name| RESERVED.contains(&name.value().as_str())) {
            mistakes.at(name, message(&name.value()));
        }
    }
}

fn message(name: &str) -> String {
    format!("`{name}` is a field of the envelope that every event travels in; give the event's own field another name")
}
