//! The fields of an event, by name: the value that an upcaster without a struct changes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{
    field_error::FieldError,
    json::{from_json, to_json},
};

/// The fields of a stored event, by name. An upcaster changes them from one version of the event to the next.
///
/// A field that no upcaster changes keeps its text: a number of any size and precision stays as it was stored.
///
/// # Examples
/// ```
/// use eventbus::event::{FieldError, Fields};
/// fn to_version_2(fields: &mut Fields) -> Result<(), FieldError> {
///     let total: f64 = fields.take("total")?;
///     fields.insert("cents", (total * 100.0).round() as i64)?;
///     fields.rename("customer", "customer_id");
///     Ok(())
/// }
///
/// let mut fields = Fields::from_value(&serde_json::json!({ "customer": "ada", "total": 9.99 }))?;
/// to_version_2(&mut fields)?;
/// assert_eq!(fields.get::<i64>("cents")?, 999);
/// assert_eq!(fields.get::<String>("customer_id")?, "ada");
/// # Ok::<(), FieldError>(())
/// ```
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
#[must_use]
pub struct Fields(BTreeMap<String, Box<RawValue>>);

impl Fields {
    /// Creates an empty set of fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the fields of a struct or map.
    ///
    /// # Errors
    /// [`FieldError`] if `value` cannot be written as a JSON object.
    pub fn from_value<T: Serialize + ?Sized>(value: &T) -> Result<Self, FieldError> {
        from_json(to_json(value)?)
    }

    /// Reads all fields as one value.
    ///
    /// # Errors
    /// [`FieldError`] if they do not fit `T`.
    ///
    /// # Examples
    /// ```
    /// use eventbus::event::Fields;
    /// let fields = Fields::from_value(&[("cents", 999)].into_iter().collect::<std::collections::BTreeMap<_, _>>())?;
    /// assert_eq!(fields.to_value::<serde_json::Value>()?, serde_json::json!({ "cents": 999 }));
    /// # Ok::<(), eventbus::event::FieldError>(())
    /// ```
    pub fn to_value<T: DeserializeOwned>(&self) -> Result<T, FieldError> {
        from_json(self.to_json()?)
    }

    /// Writes all fields as a JSON object.
    pub(crate) fn to_json(&self) -> Result<String, FieldError> {
        to_json(self)
    }

    /// Reads a field. A field that is not there reads as `null`: `None` if `T` is an `Option`.
    ///
    /// # Errors
    /// [`FieldError`] if it does not fit `T`, or is not there and `T` accepts no `null`.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<T, FieldError> {
        match self.0.get(name) {
            Some(value) => from_json(value.get()).map_err(|error| error.within(name)),
            None => from_json("null").map_err(|_| FieldError::new([], format!("missing field `{name}`"))),
        }
    }

    /// Reads a field as [`get`](Self::get) does, and removes it.
    ///
    /// # Errors
    /// [`FieldError`] as of [`get`](Self::get); the field then stays.
    pub fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, FieldError> {
        let value = self.get(name)?;
        self.0.remove(name);
        Ok(value)
    }

    /// Sets a field, also if it is there already.
    ///
    /// # Errors
    /// [`FieldError`] if `value` cannot be written as JSON.
    pub fn insert<T: Serialize>(&mut self, name: impl Into<String>, value: T) -> Result<(), FieldError> {
        let name = name.into();
        let json = to_json(&value).map_err(|error| error.within(&name))?;
        self.0.insert(name, RawValue::from_string(json)?);
        Ok(())
    }

    /// Renames a field, and returns `true` if it is there. It replaces a field that has the new name.
    pub fn rename(&mut self, name: &str, new_name: impl Into<String>) -> bool {
        let value = self.0.remove(name);
        let is_there = value.is_some();
        self.0.extend(value.map(|value| (new_name.into(), value)));
        is_there
    }

    /// Removes a field, and returns `true` if it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some()
    }

    /// Returns `true` if the field is there, also if it is `null`.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Returns the names of the fields, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: &str) -> Fields {
        from_json(json).unwrap()
    }

    #[test]
    fn a_field_that_nobody_changes_keeps_its_text() {
        let mut fields = fields(r#"{"huge":340282366920938463463374607431768211455,"exact":1.10,"note":"a"}"#);
        fields.insert("note", "b").unwrap();
        assert_eq!(fields.get::<u128>("huge").unwrap(), u128::MAX);
        assert_eq!(
            to_json(&fields).unwrap(),
            r#"{"exact":1.10,"huge":340282366920938463463374607431768211455,"note":"b"}"#
        );
    }

    #[test]
    fn a_missing_field_is_null() {
        let mut fields = fields(r#"{"null":null}"#);
        assert_eq!(fields.get::<Option<u8>>("null").unwrap(), None);
        assert_eq!(fields.get::<Option<u8>>("missing").unwrap(), None);
        assert_eq!(fields.take::<u8>("missing").unwrap_err().to_string(), "missing field `missing`");
        assert_eq!(fields.take::<u8>("null").unwrap_err().to_string(), "field `null`: invalid type: null, expected u8");
        assert!(fields.contains("null") && !fields.contains("missing"));
    }

    #[test]
    fn errors_name_the_field_and_no_value() {
        let mut fields = fields(r#"{"rooms":[{"pin":"1234"}]}"#);
        let error = fields.get::<Vec<BTreeMap<String, u8>>>("rooms").unwrap_err();
        assert_eq!(error.to_string(), "field `rooms[0].pin`: invalid type: string, expected u8");
        let error = fields.insert("rooms", [0.0, f64::NAN]).unwrap_err();
        assert_eq!(error.path(), "rooms[1]");
        assert!(fields.contains("rooms"), "a refused insert changes nothing");
    }
}
