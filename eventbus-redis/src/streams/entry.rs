//! An entry of a stream, and its decoded fields.

use std::fmt;

use eventbus::{BoxError, port::MessageId, support::from_json};
use serde::de::DeserializeOwned;

use crate::{keys::plain_field as field, reply::Entry};

/// An entry of a stream, written by any program. A field is decoded only when a method reads it.
///
/// # Examples
/// ```no_run
/// use eventbus_redis::streams::{EntryError, StreamEntry};
/// # #[derive(serde::Deserialize)] struct OrderCreated { total: f64 }
/// fn total(entry: &StreamEntry) -> Result<f64, EntryError> {
///     Ok(entry.data::<OrderCreated>()?.total)
/// }
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamEntry {
    /// The id that Redis gave the entry.
    pub id: MessageId,
    /// The fields and their values; `None` if the entry was deleted while it was pending.
    fields: Option<Vec<(String, Vec<u8>)>>,
}

/// Reason why a field of an entry cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// The entry was deleted while it was pending; its fields are lost.
    #[error("entry {entry} was deleted")]
    Deleted {
        /// The entry.
        entry: MessageId,
    },
    /// The entry has no such field: another program wrote it.
    #[error("entry {entry} has no field `{field}`")]
    Missing {
        /// The entry.
        entry: MessageId,
        /// The field.
        field: &'static str,
    },
    /// The field holds a value of a different form.
    #[error("field `{field}` of entry {entry} cannot be read")]
    Invalid {
        /// The entry.
        entry: MessageId,
        /// The field.
        field: &'static str,
        /// The reason.
        source: BoxError,
    },
}

impl EntryError {
    /// Returns the id of the entry.
    #[must_use]
    pub const fn entry(&self) -> &MessageId {
        match self {
            Self::Deleted { entry } | Self::Missing { entry, .. } | Self::Invalid { entry, .. } => entry,
        }
    }
}

impl StreamEntry {
    /// Returns the type of the event, such as `order.created`.
    ///
    /// # Errors
    /// [`EntryError`] names the entry and the field `type`.
    pub fn event_type(&self) -> Result<&str, EntryError> {
        self.text(field::TYPE)
    }

    /// Returns the time when the event was published, by the clock of its publisher, in milliseconds since 1970.
    ///
    /// # Errors
    /// [`EntryError`] names the entry and the field `timestamp`.
    pub fn timestamp_ms(&self) -> Result<u64, EntryError> {
        let text = self.text(field::TIMESTAMP)?;
        text.parse().map_err(|error| self.invalid(field::TIMESTAMP, error))
    }

    /// Returns the data of the event, decoded from JSON.
    ///
    /// # Errors
    /// [`EntryError`] names the entry and the field `data`.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, EntryError> {
        from_json(self.bytes(field::DATA)?).map_err(|error| self.invalid(field::DATA, error))
    }

    /// Returns the bytes of a field of any name; if several fields have that name, of the last one.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        let mut fields = self.fields().iter().rev();
        fields.find(|(field, _)| field == name).map(|(_, value)| value.as_slice())
    }

    /// Returns all fields, in their order.
    #[must_use]
    pub fn fields(&self) -> &[(String, Vec<u8>)] {
        self.fields.as_deref().unwrap_or_default()
    }

    /// Returns `true` if the entry was deleted while it was pending.
    #[must_use]
    pub const fn is_deleted(&self) -> bool {
        self.fields.is_none()
    }

    fn bytes(&self, name: &'static str) -> Result<&[u8], EntryError> {
        if self.is_deleted() {
            return Err(EntryError::Deleted { entry: self.id.clone() });
        }
        self.field(name).ok_or_else(|| EntryError::Missing { entry: self.id.clone(), field: name })
    }

    fn text(&self, name: &'static str) -> Result<&str, EntryError> {
        std::str::from_utf8(self.bytes(name)?).map_err(|error| self.invalid(name, error))
    }

    fn invalid(&self, field: &'static str, source: impl Into<BoxError>) -> EntryError {
        EntryError::Invalid { entry: self.id.clone(), field, source: source.into() }
    }
}

impl fmt::Debug for StreamEntry {
    /// Shows the values as texts; bytes that are not UTF-8 are replaced.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = |(name, value): &(String, Vec<u8>)| (name.clone(), String::from_utf8_lossy(value).into_owned());
        let fields: Option<Vec<_>> = self.fields.as_ref().map(|fields| fields.iter().map(texts).collect());
        f.debug_struct("StreamEntry").field("id", &self.id).field("fields", &fields).finish()
    }
}

impl From<Entry> for StreamEntry {
    fn from(Entry { id, fields }: Entry) -> Self {
        Self { id: MessageId::new(id), fields }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(fields: &[(&str, &[u8])]) -> StreamEntry {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec()));
        Entry { id: "7-1".into(), fields: Some(fields.collect()) }.into()
    }

    #[test]
    fn what_is_damaged_is_named_with_entry_and_field() {
        let foreign = entry(&[("type", b"created"), ("order_id", b"123")]);
        assert_eq!(foreign.data::<u64>().unwrap_err().to_string(), "entry 7-1 has no field `data`");
        assert_eq!((foreign.event_type().ok(), foreign.field("order_id")), (Some("created"), Some(&b"123"[..])));
        assert!(format!("{foreign:?}").contains(r#"[("type", "created"), ("order_id", "123")]"#), "{foreign:?}");
        let damaged = entry(&[("type", b"\xff"), ("timestamp", b"soon"), ("data", b"{")]);
        let text = |error: EntryError| (error.entry().to_string(), error.to_string());
        let of = |field: &str| ("7-1".to_owned(), format!("field `{field}` of entry 7-1 cannot be read"));
        assert_eq!(text(damaged.event_type().unwrap_err()), of("type"));
        assert_eq!(text(damaged.timestamp_ms().unwrap_err()), of("timestamp"));
        assert_eq!(text(damaged.data::<u64>().unwrap_err()), of("data"));
        let deleted = StreamEntry { id: MessageId::new("7-1"), fields: None };
        assert!(matches!(deleted.event_type(), Err(EntryError::Deleted { .. })));
        assert_eq!(entry(&[("data", b"1"), ("data", b"2")]).data::<u64>().ok(), Some(2));
    }
}
