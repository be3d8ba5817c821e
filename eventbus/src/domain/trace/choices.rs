//! What the passes have learned, and what the present one chooses.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Shape,
    error::{TraceError, Untraceable},
};

/// How often a type may hold itself within one value.
const NESTED_MAX: usize = 2;

/// How deep optional values, lists, maps and variants may nest. Only this limit ends a type that holds itself and has
/// no name, such as one that serde reads as a different type.
const DEPTH_MAX: usize = 24;

/// How much of what is optional a pass puts into the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Amount {
    /// Every optional value, one item in each list and map, high numbers.
    #[default]
    Most,
    /// None of them, low numbers.
    Least,
}

/// A value that a pass offers: the number makes it differ from other fields, the attempt from refused values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer {
    pub(super) amount: Amount,
    pub(super) number: u64,
    pub(super) attempt: usize,
}

/// The variants of an enum at one path.
#[derive(Debug, Default)]
struct Variants {
    names: &'static [&'static str],
    /// Those of which there is a sample.
    accepted: BTreeSet<&'static str>,
    /// Those that lead too deep into a type that holds itself.
    too_deep: BTreeSet<&'static str>,
    chosen: Option<&'static str>,
}

impl Variants {
    fn untried(&self) -> impl Iterator<Item = &'static str> {
        self.names.iter().copied().filter(|name| !self.accepted.contains(name) && !self.too_deep.contains(name))
    }
}

/// A part of the value that the pass is within, outermost first.
#[derive(Debug)]
enum Part {
    /// A struct or enum; by name and fields or variants, as names alone are not unique.
    Type(&'static str, &'static [&'static str]),
    /// An optional value, a list or a map at a path, which may be left empty.
    Optional(String),
    /// The chosen variant of the enum at a path.
    Variant(String, &'static str),
}

/// The choices of all passes, by the path of the field.
#[derive(Debug, Default)]
pub(super) struct Choices {
    amount: Amount,
    /// The number of each field, from 1.
    numbers: BTreeMap<String, u64>,
    /// How many values a field has refused.
    attempts: BTreeMap<(Amount, String), usize>,
    variants: BTreeMap<String, Variants>,
    /// The optional values that stay empty, as they would hold their own type again.
    left_empty: BTreeSet<String>,
    /// The aliases of a struct's fields, and the fields to offer before them.
    aliases: BTreeSet<(&'static str, &'static str)>,
    first_fields: BTreeSet<(&'static str, &'static str)>,
    /// The shape from the passes that made a value, and from the present one.
    shape: Shape,
    pass_shape: Shape,
    path: String,
    within: Vec<Part>,
    /// The field that was offered a value last.
    last: String,
    /// The struct and the key that were offered last.
    last_key: Option<(&'static str, &'static str)>,
}

impl Choices {
    pub(super) fn begin_pass(&mut self, amount: Amount) {
        self.amount = amount;
        self.path.clear();
        self.within.clear();
        self.last.clear();
        self.last_key = None;
        self.pass_shape.clear();
        self.variants.values_mut().for_each(|variants| variants.chosen = None);
    }

    /// Records that the pass made a value.
    pub(super) fn accept_pass(&mut self) {
        self.shape.append(&mut self.pass_shape);
        for variants in self.variants.values_mut() {
            variants.accepted.extend(variants.chosen);
        }
    }

    /// Returns `true` if a variant had no turn yet.
    pub(super) fn has_more_variants(&self) -> bool {
        self.variants.values().any(|variants| variants.untried().next().is_some())
    }

    pub(super) fn into_shape(self) -> Shape {
        self.shape
    }

    /// Returns the shape with what the present pass has seen.
    pub(super) fn into_partial_shape(mut self) -> Shape {
        self.shape.append(&mut self.pass_shape);
        self.shape
    }

    pub(super) fn untraceable(&self, reason: &str) -> Untraceable {
        Untraceable { path: self.last.clone(), reason: reason.into() }
    }

    /// Makes the next pass offer a different value for the field that was offered one last.
    pub(super) fn offer_next(&mut self, reason: &str) -> Result<(), Untraceable> {
        const ATTEMPTS_MAX: usize = 24;
        let attempt = self.attempts.entry((self.amount, self.last.clone())).or_default();
        *attempt += 1;
        if *attempt > ATTEMPTS_MAX { Err(self.untraceable(reason)) } else { Ok(()) }
    }

    /// Records that two of the offered keys name this field.
    pub(super) fn note_alias(&mut self, field: &'static str) {
        if let Some((name, key)) = self.last_key {
            if key == field {
                // an alias was offered before
                self.first_fields.insert((name, field));
            } else {
                self.aliases.insert((name, key));
            }
        }
    }

    /// Returns the keys to offer to a struct: each field once, by its name.
    pub(super) fn keys(&self, name: &'static str, fields: &'static [&'static str]) -> Vec<&'static str> {
        let mut keys: Vec<_> = fields.iter().copied().filter(|key| !self.aliases.contains(&(name, *key))).collect();
        keys.sort_by_key(|key| !self.first_fields.contains(&(name, *key)));
        keys
    }

    pub(super) fn begin_key(&mut self, name: &'static str, key: &'static str) {
        self.last_key = Some((name, key));
    }

    /// Notes the kind of the field at the present path.
    pub(super) fn note(&mut self, kind: &str) {
        if self.amount == Amount::Most {
            self.pass_shape.insert(self.path.clone(), kind.into());
        }
    }

    /// Notes that the field at the present path is optional.
    pub(super) fn note_optional(&mut self) {
        if self.amount == Amount::Most {
            let kind = self.pass_shape.entry(self.path.clone()).or_default();
            if !kind.ends_with('?') {
                kind.push('?');
            }
        }
    }

    /// Returns what to offer to the field at the present path.
    pub(super) fn offer(&mut self) -> Offer {
        let next = self.numbers.len() as u64 + 1;
        let number = *self.numbers.entry(self.path.clone()).or_insert(next);
        self.last.clone_from(&self.path);
        let attempt = self.attempts.get(&(self.amount, self.path.clone())).copied().unwrap_or_default();
        Offer { amount: self.amount, number, attempt }
    }

    /// Runs `within` at a path below the present one.
    pub(super) fn at<T>(&mut self, step: &str, within: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        if !self.path.is_empty() && !step.starts_with(['[', '{']) {
            self.path.push('.');
        }
        self.path.push_str(step);
        let result = within(self);
        self.path.truncate(length);
        result
    }

    /// Returns `true` if an optional value, a list or a map at the present path is to be left empty.
    pub(super) fn is_empty_here(&self) -> bool {
        self.amount == Amount::Least || self.left_empty.contains(&self.path)
    }

    /// Runs `within` in an optional value at the present path.
    ///
    /// # Errors
    /// [`TraceError::Repeat`] if too many parts hold each other; the next pass leaves one empty.
    pub(super) fn within_optional<T>(
        &mut self,
        within: impl FnOnce(&mut Self) -> Result<T, TraceError>,
    ) -> Result<T, TraceError> {
        if self.within.len() >= DEPTH_MAX {
            self.last.clone_from(&self.path);
            return Err(self.leave_out());
        }
        self.within.push(Part::Optional(self.path.clone()));
        let result = within(self);
        self.within.pop();
        result
    }

    /// Runs `within` in a struct or an enum.
    ///
    /// # Errors
    /// [`TraceError::Repeat`] if the value holds the type too often; the next pass leaves a part empty for it.
    pub(super) fn within_type<T>(
        &mut self,
        name: &'static str,
        parts: &'static [&'static str],
        within: impl FnOnce(&mut Self) -> Result<T, TraceError>,
    ) -> Result<T, TraceError> {
        let is_same = |part: &Part| matches!(part, Part::Type(other, others) if *other == name && *others == parts);
        if self.within.iter().filter(|part| is_same(part)).count() >= NESTED_MAX {
            self.last.clone_from(&self.path);
            return Err(self.leave_out());
        }
        self.within.push(Part::Type(name, parts));
        let result = within(self);
        self.within.pop();
        result
    }

    /// Makes later passes leave out the innermost part around the present path that can be left out.
    fn leave_out(&mut self) -> TraceError {
        let innermost = self.within.iter().rev().find(|part| !matches!(part, Part::Type(..)));
        match innermost {
            Some(Part::Optional(path)) => {
                self.left_empty.insert(path.clone());
                // the variants within it have no turn any more
                self.variants.retain(|other, _| !is_below(other, path));
            }
            Some(Part::Variant(path, variant)) => {
                self.variants.entry(path.clone()).or_default().too_deep.insert(variant);
                let within = if path.is_empty() { (*variant).to_owned() } else { format!("{path}.{variant}") };
                self.variants.retain(|other, _| !is_below(other, &within));
            }
            _ => return TraceError::Unsupported("the type always holds itself".into()),
        }
        TraceError::Repeat
    }

    /// Chooses a variant of the enum at the present path, and runs `within` with it.
    ///
    /// # Errors
    /// [`TraceError::Repeat`] if all variants lead too deep.
    pub(super) fn with_variant<T>(
        &mut self,
        names: &'static [&'static str],
        within: impl FnOnce(&mut Self, &'static str) -> Result<T, TraceError>,
    ) -> Result<T, TraceError> {
        let path = self.path.clone();
        let variants = self.variants.entry(path.clone()).or_default();
        variants.names = names;
        let (untried, accepted) = (variants.untried().next(), variants.accepted.clone());
        // a variant that was accepted leads to one within it that was not
        let leads_on = || accepted.iter().copied().find(|variant| self.has_more_below(&path, variant));
        let Some(chosen) = untried.or_else(leads_on).or_else(|| accepted.first().copied()) else {
            return Err(self.leave_out());
        };
        self.variants.entry(path.clone()).or_default().chosen = Some(chosen);
        self.within.push(Part::Variant(path, chosen));
        let result = self.at(chosen, |choices| within(choices, chosen));
        self.within.pop();
        result
    }

    fn has_more_below(&self, path: &str, variant: &str) -> bool {
        let path = if path.is_empty() { variant.to_owned() } else { format!("{path}.{variant}") };
        self.variants.iter().any(|(other, variants)| is_below(other, &path) && variants.untried().next().is_some())
    }
}

/// Returns `true` if `path` is `parent`, or the path of a part of the value there.
fn is_below(path: &str, parent: &str) -> bool {
    let rest = path.strip_prefix(parent);
    rest.is_some_and(|rest| parent.is_empty() || rest.is_empty() || rest.starts_with(['.', '[', '{']))
}
