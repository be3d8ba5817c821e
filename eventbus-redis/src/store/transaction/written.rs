//! What a transaction has written so far, as far as that is known before the commit: so that it reads its own writes.

use std::collections::HashMap;

/// What will be at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// This, or nothing.
    Is(Option<Vec<u8>>),
    /// What is there now and so much.
    Plus(i64),
    /// Only the server knows.
    Unclear,
}

impl Known {
    fn plus(&mut self, by: i64) {
        let sum = match self {
            Self::Plus(before) => before.checked_add(by).map(Self::Plus),
            Self::Is(value) => number(value.as_deref())
                .and_then(|before| before.checked_add(by))
                .map(|sum| Self::Is(Some(sum.to_string().into_bytes()))),
            Self::Unclear => None,
        };
        *self = sum.unwrap_or(Self::Unclear);
    }
}

/// Reads a number as the server does; nothing is 0.
pub(super) fn number(value: Option<&[u8]>) -> Option<i64> {
    value.map_or(Some(0), |value| std::str::from_utf8(value).ok()?.parse().ok())
}

#[derive(Debug, Default)]
pub(super) struct Written(HashMap<String, Key>);

#[derive(Debug, Default)]
struct Key {
    /// The key as a text; none if only its fields are written.
    whole: Option<Known>,
    fields: HashMap<Vec<u8>, Known>,
}

impl Written {
    /// What will be in the key as a text; none: what is there now.
    pub(super) fn whole(&self, key: &str) -> Option<Known> {
        let key = self.0.get(key)?;
        if key.fields.is_empty() { key.whole.clone() } else { Some(Known::Unclear) }
    }

    /// What will be in a field; none: what is there now.
    pub(super) fn field(&self, key: &str, field: &[u8]) -> Option<Known> {
        let key = self.0.get(key)?;
        key.fields.get(field).or(key.whole.as_ref()).cloned()
    }

    pub(super) fn is_touched(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    pub(super) fn set(&mut self, key: &str, whole: Known) {
        self.0.insert(key.to_owned(), Key { whole: Some(whole), fields: HashMap::new() });
    }

    pub(super) fn add(&mut self, key: &str, by: i64) {
        let key = self.0.entry(key.to_owned()).or_default();
        key.whole.get_or_insert(Known::Plus(0)).plus(by);
    }

    pub(super) fn set_field(&mut self, key: &str, field: &[u8], known: Known) {
        self.0.entry(key.to_owned()).or_default().fields.insert(field.to_owned(), known);
    }

    pub(super) fn add_to_field(&mut self, key: &str, field: &[u8], by: i64) {
        let key = self.0.entry(key.to_owned()).or_default();
        let base = key.whole.clone().unwrap_or(Known::Plus(0));
        key.fields.entry(field.to_owned()).or_insert(base).plus(by);
    }
}
