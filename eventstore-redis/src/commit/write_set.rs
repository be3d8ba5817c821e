//! Predicted results of a transaction's writes, so that the transaction reads them before the commit.

use std::collections::HashMap;

/// Value of a key or field after the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PredictedValue {
    /// This value; `None` if it will be missing.
    Exactly(Option<Vec<u8>>),
    /// The current value plus this number.
    CurrentPlus(i64),
    /// Known only to the server.
    Unknown,
}

impl PredictedValue {
    fn add_number(&mut self, by: i64) {
        let sum = match self {
            Self::CurrentPlus(before) => before.checked_add(by).map(Self::CurrentPlus),
            Self::Exactly(value) => parse_number(value.as_deref())
                .and_then(|before| before.checked_add(by))
                .map(|sum| Self::Exactly(Some(sum.to_string().into_bytes()))),
            Self::Unknown => None,
        };
        *self = sum.unwrap_or(Self::Unknown);
    }
}

/// Parses a number as the server does; a missing value is 0.
pub(crate) fn parse_number(value: Option<&[u8]>) -> Option<i64> {
    value.map_or(Some(0), |value| std::str::from_utf8(value).ok()?.parse().ok())
}

#[derive(Debug, Default)]
pub(crate) struct WriteSet(HashMap<String, KeyWrites>);

#[derive(Debug, Default)]
struct KeyWrites {
    /// The key as a text; `None` if the transaction wrote only its fields.
    value: Option<PredictedValue>,
    fields: HashMap<Vec<u8>, PredictedValue>,
}

impl WriteSet {
    /// Returns the text that the key will hold; `None` if the transaction does not change it.
    pub(crate) fn predicted_value(&self, key: &str) -> Option<PredictedValue> {
        let key = self.0.get(key)?;
        if key.fields.is_empty() { key.value.clone() } else { Some(PredictedValue::Unknown) }
    }

    /// Returns the value that the field will hold; `None` if the transaction does not change it.
    pub(crate) fn predicted_field(&self, key: &str, field: &[u8]) -> Option<PredictedValue> {
        let key = self.0.get(key)?;
        key.fields.get(field).or(key.value.as_ref()).cloned()
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    pub(crate) fn set_value(&mut self, key: &str, whole: PredictedValue) {
        self.0.insert(key.to_owned(), KeyWrites { value: Some(whole), fields: HashMap::new() });
    }

    pub(crate) fn add_to_value(&mut self, key: &str, by: i64) {
        let key = self.0.entry(key.to_owned()).or_default();
        key.value.get_or_insert(PredictedValue::CurrentPlus(0)).add_number(by);
    }

    pub(crate) fn set_field(&mut self, key: &str, field: &[u8], known: PredictedValue) {
        self.0.entry(key.to_owned()).or_default().fields.insert(field.to_owned(), known);
    }

    pub(crate) fn add_to_field(&mut self, key: &str, field: &[u8], by: i64) {
        let key = self.0.entry(key.to_owned()).or_default();
        let base = key.value.clone().unwrap_or(PredictedValue::CurrentPlus(0));
        key.fields.entry(field.to_owned()).or_insert(base).add_number(by);
    }
}
