//! The text of a field, by which unique values and tags are compared.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use uuid::Uuid;

use super::stream::AggregateId;

/// A field that `#[event(unique(..))]` or `#[event(tags(..))]` can name: it has one text, or none.
///
/// # Examples
/// ```
/// use eventbus::event::FieldText;
///
/// assert_eq!("ada@example.org".to_owned().field_text().as_deref(), Some("ada@example.org"));
/// assert_eq!(Some(4711_u32).field_text().as_deref(), Some("4711"));
/// assert_eq!(None::<String>.field_text(), None);
/// ```
#[diagnostic::on_unimplemented(
    message = "a field of type `{Self}` can be neither unique nor a tag",
    label = "`FieldText` is missing",
    note = "texts, whole numbers, ids, UUIDs and options of these can; for a type of your own: `impl eventbus::event::FieldText for {Self}`"
)]
pub trait FieldText {
    /// Returns the value as a text; `None` if there is none.
    fn field_text(&self) -> Option<Cow<'_, str>>;
}

impl FieldText for str {
    fn field_text(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(self))
    }
}

impl<T: FieldText> FieldText for Option<T> {
    fn field_text(&self) -> Option<Cow<'_, str>> {
        self.as_ref().and_then(FieldText::field_text)
    }
}

impl<T: FieldText + ?Sized> FieldText for &T {
    fn field_text(&self) -> Option<Cow<'_, str>> {
        (**self).field_text()
    }
}

macro_rules! field_texts {
    ($($as_str:ty),*; $($shown:ty),*) => {
        $(impl FieldText for $as_str {
            fn field_text(&self) -> Option<Cow<'_, str>> {
                Some(Cow::Borrowed(self.as_ref()))
            }
        })*
        $(impl FieldText for $shown {
            fn field_text(&self) -> Option<Cow<'_, str>> {
                Some(Cow::Owned(self.to_string()))
            }
        })*
    };
}

field_texts!(
    String, Box<str>, Arc<str>, Cow<'_, str>;
    AggregateId, Uuid, u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize
);

/// A field that `#[event(tags(..))]` can name: a [`FieldText`], or a `Vec` or `BTreeSet` of them, each a tag.
#[diagnostic::on_unimplemented(
    message = "a field of type `{Self}` cannot be a tag",
    label = "`FieldText` is missing",
    note = "texts, whole numbers, ids, UUIDs, and options, `Vec`s and `BTreeSet`s of these can; for a type of your own: `impl eventbus::event::FieldText for {Self}`"
)]
pub trait FieldTexts {
    /// Returns the text of each value.
    fn field_texts(&self) -> Vec<Cow<'_, str>>;
}

#[diagnostic::do_not_recommend]
impl<T: FieldText> FieldTexts for T {
    fn field_texts(&self) -> Vec<Cow<'_, str>> {
        self.field_text().into_iter().collect()
    }
}

impl<T: FieldText> FieldTexts for Vec<T> {
    fn field_texts(&self) -> Vec<Cow<'_, str>> {
        self.iter().filter_map(FieldText::field_text).collect()
    }
}

impl<T: FieldText> FieldTexts for BTreeSet<T> {
    fn field_texts(&self) -> Vec<Cow<'_, str>> {
        self.iter().filter_map(FieldText::field_text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_of_each_type_are_texts() {
        let numbers: [&dyn FieldText; 12] =
            [&1_u8, &1_u16, &1_u32, &1_u64, &1_u128, &1_usize, &1_i8, &1_i16, &1_i32, &1_i64, &1_i128, &1_isize];
        assert!(numbers.iter().all(|number| number.field_text().as_deref() == Some("1")));
    }
}
