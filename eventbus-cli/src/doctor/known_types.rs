//! The event types that a program knows.

use std::collections::BTreeMap;

use serde_json::json;

use super::{finding::Finding, outcome::Outcome};

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
        let of_unknown = (!unknown.is_empty()).then(|| {
            let list = names(unknown.iter().map(|(name, _)| name.as_str()).collect());
            Finding::warning(
                format!("events of types that this program does not know are stored: `{list}`"),
                "a load of their aggregates fails, and no handler of this program gets them",
                "if an event was renamed, add `#[event(was(\"..\"))]` with the stored type to it; else deploy the release \
                 that declares the event; `retired(\"..\")` on its aggregate skips stored events, and their effect on the \
                 state is lost",
            )
            .observed(json!({ "types": unknown.iter().map(|(name, _)| name).collect::<Vec<_>>() }))
        });
        let of_newer = (!newer.is_empty()).then(|| {
            let list = names(newer.iter().map(|(name, ..)| name.as_str()).collect());
            let each = newer.iter().map(
                |(name, stored, known)| json!({ "event_type": name, "stored_version": stored, "known_version": known }),
            );
            Finding::warning(
                format!("events of newer schema versions than this program knows are stored: `{list}`"),
                "this program cannot decode them: loads and handlers fail until its newer release runs",
                "deploy the newer release everywhere: first the processes that read, then those that save",
            )
            .observed(json!({ "types": each.collect::<Vec<_>>() }))
        });
        of_unknown.into_iter().chain(of_newer).collect()
    }
}
