//! Tags of events: a name and a value, as `course:c1`, by which a decision finds all events about one thing.

use std::{collections::BTreeSet, fmt, sync::Arc};

use super::{
    field_text::{FieldText, FieldTexts},
    name::{InvalidName, Name},
};

/// The largest tag, in bytes of UTF-8, including its name: it is a key of an index.
pub const TAG_BYTES_MAX: usize = 1_000;

/// The most tags of an event.
pub const TAGS_MAX: usize = 64;

/// The tag whose value is the type of the event, as in `#[event(tags(event_type))]`. No field of an event has this name.
pub(crate) const EVENT_TYPE_TAG: &str = "event_type";

/// A tag of events: what they are about. Stores keep it as `course:c1`.
///
/// # Examples
/// ```
/// use eventbus::event::Tag;
///
/// let tag = Tag::new("course", &4711)?;
/// assert_eq!((tag.as_str(), tag.name()), ("course:4711", "course"));
/// assert!(Tag::new("course:", "c1").is_err());
/// # Ok::<(), eventbus::event::InvalidTag>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    /// The name, a colon, the value.
    text: Arc<str>,
}

impl Tag {
    /// Makes a tag of a name and a value.
    ///
    /// # Errors
    /// [`InvalidTag`] if no store can keep it, or if there is no value.
    pub fn new(name: &str, value: &(impl FieldText + ?Sized)) -> Result<Self, InvalidTag> {
        match value.field_text() {
            Some(value) => Self::parse(&format!("{name}:{value}"), name),
            None => Err(InvalidTag::NoValue { name: name.into() }),
        }
    }

    /// Reads a tag that a store has kept.
    ///
    /// # Errors
    /// [`InvalidTag`] if it is not a tag.
    pub fn from_stored(text: &str) -> Result<Self, InvalidTag> {
        Self::parse(text, text.split(':').next().unwrap_or_default())
    }

    fn parse(text: &str, name: &str) -> Result<Self, InvalidTag> {
        Name::new("tag", name).map_err(InvalidTag::UnusableName)?;
        match text.as_bytes().get(name.len()) {
            Some(b':') if !name.contains(':') => {}
            _ => return Err(InvalidTag::Colon { name: name.into() }),
        }
        if text.len() > TAG_BYTES_MAX {
            return Err(InvalidTag::TooLong { name: name.into(), bytes: text.len() });
        }
        if text.contains('\0') {
            return Err(InvalidTag::Nul { name: name.into() });
        }
        Ok(Self { text: text.into() })
    }

    /// The name: `course`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.text.split(':').next().unwrap_or_default()
    }

    /// Name and value: `course:c1`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Leaves out the value, which may be personal.
impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag({})", self.name())
    }
}

/// Why a text is no tag; the message does not show the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTag {
    /// Its name is not valid.
    #[error(transparent)]
    UnusableName(InvalidName),
    /// Its name has a colon, or the text has none after the name.
    #[error("tag `{name}` has no colon between its name and its value, or one in its name")]
    Colon {
        /// The name of the tag.
        name: String,
    },
    /// It has no value: `None`.
    #[error("tag `{name}` has no value")]
    NoValue {
        /// The name of the tag.
        name: String,
    },
    /// It is longer than [`TAG_BYTES_MAX`].
    #[error("tag `{name}` has {bytes} bytes, more than {TAG_BYTES_MAX}")]
    TooLong {
        /// The name of the tag.
        name: String,
        /// Its length, with its name.
        bytes: usize,
    },
    /// It contains U+0000.
    #[error("tag `{name}` contains U+0000")]
    Nul {
        /// The name of the tag.
        name: String,
    },
}

/// Sorts tags, and keeps each once.
pub(crate) fn sorted(tags: impl IntoIterator<Item = Tag>) -> Vec<Tag> {
    tags.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

/// The tags of a field; the derive calls it.
#[doc(hidden)]
pub fn tag_values(field: &(impl FieldTexts + ?Sized)) -> Vec<String> {
    field.field_texts().into_iter().map(Into::into).collect()
}
