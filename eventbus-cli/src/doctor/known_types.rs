//! The event types that a program knows.

use std::collections::BTreeMap;

use serde_json::json;

use super::outcome::Outcome;

/// The event types that a program knows, each with its schema version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct KnownTypes(BTreeMap<String, u32>);

impl KnownTypes {
    pub(crate) fn new(types: impl IntoIterator<Item = (String, u32)>) -> Self {
        Self(types.into_iter().collect())
    }

    /// Compares stored types, each with its highest schema version, with the known ones.
    pub(crate) fn compare(&self, stored: &[(String, i64)]) -> Outcome {
        let unknown: Vec<_> = stored.iter().filter(|(name, _)| !self.0.contains_key(name)).collect();
        let newer: Vec<_> = stored
            .iter()
            .filter_map(|(name, version)| {
                let known = *self.0.get(name)?;
                (*version > i64::from(known)).then_some((name, version, known))
            })
            .collect();
        let names = |names: Vec<&str>| names.join("`, `");
        let of_unknown = names(unknown.iter().map(|(name, _)| name.as_str()).collect());
        let of_newer = names(newer.iter().map(|(name, ..)| name.as_str()).collect());
        let unknown: Vec<_> = unknown.iter().map(|(name, _)| name).collect();
        let newer: Vec<_> = newer
            .iter()
            .map(
                |(name, stored, known)| json!({ "event_type": name, "stored_version": stored, "known_version": known }),
            )
            .collect();
        [
            json!({ "_is_unknown": !unknown.is_empty(), "_list": of_unknown, "types": unknown }),
            json!({ "_is_newer": !newer.is_empty(), "_list": of_newer, "types": newer }),
        ]
        .into_iter()
        .collect()
    }
}
