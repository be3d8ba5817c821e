//! Tracing: makes sample values of a type through its `Deserialize`, and notes the shape of its fields on the way.
//!
//! A pass offers the type one value for each field that it asks for. If the type refuses a value, the next pass offers
//! a different one, and every variant of an enum has its turn. Two kinds of passes make values that differ in every
//! optional part: one with as much as possible, one with as little.
//!
//! Tracing cannot find what a `Deserialize` does not reveal: the fields of a struct with `flatten`, the variants of an
//! enum that is untagged or internally tagged, and which values a validating type accepts.

mod choices;
mod error;
mod leaf;
mod value;

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

pub use error::Untraceable;

use choices::{Amount, Choices};
use error::TraceError;
use value::Value;

/// Largest number of passes for one type.
const PASSES_MAX: usize = 2_000;

/// The kind of each field by its path: `lines[].sku` is a `string`.
pub(crate) type Shape = BTreeMap<String, String>;

/// Sample values of a type, and the shape of its fields.
#[doc(hidden)]
#[derive(Debug)]
#[cfg_attr(not(feature = "catalog"), allow(dead_code, reason = "only the catalog and the schema lock have samples"))]
pub struct Traced<T> {
    pub(crate) samples: Vec<T>,
    pub(crate) shape: Shape,
}

/// Makes samples of `T`: one for each variant of each enum in it with all optional parts, and one without any.
///
/// # Errors
/// [`Untraceable`] with the field of which no value was accepted.
#[cfg(any(test, feature = "catalog"))]
pub(crate) fn trace<T: DeserializeOwned>() -> Result<Traced<T>, Untraceable> {
    let mut choices = Choices::default();
    let samples = make_samples(&mut choices)?;
    Ok(Traced { samples, shape: choices.into_shape() })
}

/// Returns the shape of `T`; up to the first field that cannot be traced, if there is one.
pub(crate) fn shape_of<T: DeserializeOwned>() -> Shape {
    let mut choices = Choices::default();
    match make_samples::<T>(&mut choices) {
        Ok(_) => choices.into_shape(),
        Err(_) => choices.into_partial_shape(),
    }
}

fn make_samples<T: DeserializeOwned>(choices: &mut Choices) -> Result<Vec<T>, Untraceable> {
    let mut samples = Vec::new();
    for amount in [Amount::Most, Amount::Least] {
        let mut passes = 0..PASSES_MAX;
        loop {
            if passes.next().is_none() {
                return Err(choices.untraceable("too many attempts"));
            }
            choices.begin_pass(amount);
            match T::deserialize(Value::new(choices)) {
                Ok(sample) => {
                    samples.push(sample);
                    choices.accept_pass();
                    if amount == Amount::Least || !choices.has_more_variants() {
                        break;
                    }
                }
                Err(TraceError::Repeat) => {}
                Err(TraceError::DuplicateField(field)) => choices.note_alias(field),
                Err(TraceError::Refused(reason)) => choices.offer_next(&reason)?,
                Err(TraceError::Unsupported(reason)) => return Err(choices.untraceable(&reason)),
            }
        }
    }
    Ok(samples)
}

#[cfg(test)]
mod tests;
