//! Upcasting: a stored event of an earlier version becomes one of today's, version by version.
//!
//! The derive writes a chain of the functions below, one link for each earlier version. A link takes the fields as a
//! struct of that version or as [`Fields`], and passes on what the next one takes.

use serde::de::DeserializeOwned;

use super::{error::BoxError, field_error::FieldError, fields::Fields, json::from_json};

/// A struct with the fields of one earlier version of the event `E`; made by `#[derive(OldEvent)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` holds no earlier version of event `{E}`",
    label = "not an earlier version of `{E}`",
    note = "derive it: `#[derive(Deserialize, OldEvent)]` and `#[event(of = {E}, version = ..)]`",
    note = "an upcaster without a struct is a function with a lower-case name: `fn add_currency(fields: &mut Fields)`"
)]
pub trait OldEventOf<E> {
    /// The version whose fields it has.
    const VERSION: u32;
    /// The struct itself; if the struct is not of the event, the chain has no type to convert.
    #[doc(hidden)]
    type Old;

    #[doc(hidden)]
    fn into_old(self) -> Self::Old;
}

/// Marks an event that upcasts the struct `V` of an earlier version; its derive implements it for each one.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "event `{Self}` does not upcast `{V}`",
    label = "`{V}` says it holds an earlier version of `{Self}`",
    note = "add `{V}` to `#[event(version = .., upcast(..))]` on `{Self}`: one upcaster for each earlier version, from 1",
    note = "if a different event lists `{V}`, name that one in `#[event(of = ..)]` on `{V}`"
)]
pub trait Upcasts<V> {}

/// The return value of an upcaster: nothing, or a `Result` that refuses fields.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "an upcaster returns nothing, or a `Result<(), E>` with an error, not `{Self}`",
    label = "the return value of an upcaster",
    note = "it changes the fields it is given: `fn add_currency(fields: &mut Fields) -> Result<(), FieldError>`"
)]
pub trait UpcastOutcome {
    fn into_result(self) -> Result<(), BoxError>;
}

impl UpcastOutcome for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

#[diagnostic::do_not_recommend]
impl<E: Into<BoxError>> UpcastOutcome for Result<(), E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

/// A fault on the way from an earlier version to today's.
#[doc(hidden)]
#[derive(Debug)]
pub enum UpcastFault {
    /// The fields do not fit a struct of the chain, or the event itself.
    Payload { rust_type: &'static str, source: FieldError },
    /// The upcaster of a version refused the fields.
    Refused { version: u32, source: BoxError },
}

/// Decodes the fields of one earlier version as the event `E`.
pub(crate) type Upcaster<E> = fn(&str) -> Result<E, UpcastFault>;

/// Reads stored fields as a struct of their version.
#[doc(hidden)]
pub fn read_old<V: DeserializeOwned>(json: &str) -> Result<V, UpcastFault> {
    from_json(json).map_err(|source| UpcastFault::Payload { rust_type: std::any::type_name::<V>(), source })
}

/// Reads changed fields as the struct of a later version.
#[doc(hidden)]
pub fn read_fields<V: DeserializeOwned>(fields: &Fields) -> Result<V, UpcastFault> {
    fields.to_value().map_err(|source| UpcastFault::Payload { rust_type: std::any::type_name::<V>(), source })
}

/// A struct of an earlier version that converts into `W`, which the next link takes: by `From`, or `TryFrom` with an
/// error.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not convert into `{W}`, which the next version takes",
    label = "`impl From<{Self}> for {W}` is missing",
    note = "`upcast(..)` lists the upcasters by version, from 1: is `{Self}` at its place?",
    note = "if the fields may be wrong: `impl TryFrom<{Self}> for {W}` with an error that is `Send + Sync`"
)]
pub trait ConvertTo<W>: Sized {
    fn convert(self, version: u32) -> Result<W, UpcastFault>;
}

#[diagnostic::do_not_recommend]
impl<V, W: TryFrom<V, Error: Into<BoxError>>> ConvertTo<W> for V {
    fn convert(self, version: u32) -> Result<W, UpcastFault> {
        W::try_from(self).map_err(|source| UpcastFault::Refused { version, source: source.into() })
    }
}

/// Lets the upcaster of `version` change the fields.
#[doc(hidden)]
pub fn change<O: UpcastOutcome>(
    version: u32,
    fields: &mut Fields,
    upcaster: fn(&mut Fields) -> O,
) -> Result<(), UpcastFault> {
    upcaster(fields).into_result().map_err(|source| UpcastFault::Refused { version, source })
}
