//! The state of an aggregate for tools that do not know its type: folded event by event, and written as JSON.

use serde::Serialize;

use super::trait_probe::Probe;
use crate::domain::aggregate::{Aggregate, Apply};
#[cfg(feature = "catalog")]
use crate::domain::{codec::DecodeError, field_error::FieldError, json::to_json, record::RecordedEvent};

/// The state of an aggregate, for a tool that does not know its type; see
/// [`LinkedAggregate::state`](crate::catalog::LinkedAggregate::state).
#[cfg(feature = "catalog")]
#[derive(derive_more::Debug)]
#[debug("AggregateState")]
pub struct AggregateState(Box<dyn State>);

#[cfg(feature = "catalog")]
impl AggregateState {
    /// Applies the next event of a stream, as a load does: an event of a type that the aggregate has retired changes nothing.
    ///
    /// # Errors
    /// [`DecodeError`] if the event cannot be decoded; the state then stays as it is.
    pub fn apply(&mut self, event: &RecordedEvent) -> Result<(), DecodeError> {
        self.0.apply(event)
    }

    /// Writes the state as its `Serialize` does: compact JSON.
    ///
    /// # Errors
    /// [`FieldError`] if a number in it is NaN or infinite, or if its `Serialize` refuses.
    pub fn to_json(&self) -> Result<String, FieldError> {
        self.0.to_json()
    }
}

#[cfg(feature = "catalog")]
trait State: Send {
    fn apply(&mut self, event: &RecordedEvent) -> Result<(), DecodeError>;
    fn to_json(&self) -> Result<String, FieldError>;
}

#[cfg(feature = "catalog")]
impl<A: Aggregate + Apply + Serialize> State for A {
    fn apply(&mut self, event: &RecordedEvent) -> Result<(), DecodeError> {
        use crate::domain::record::FoldedEvent as _;

        if !A::RETIRED.contains(&event.event_type().as_str()) {
            Apply::apply(self, &A::Event::decode_fields(event.fields())?);
        }
        Ok(())
    }

    fn to_json(&self) -> Result<String, FieldError> {
        to_json(self)
    }
}

/// Makes the state of a new aggregate; `None` if the type has no `Serialize`. Without the feature `catalog` no tool
/// asks for it, and the program has no code for it.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct MakeState(#[cfg(feature = "catalog")] Option<fn() -> AggregateState>);

impl MakeState {
    #[cfg(feature = "catalog")]
    pub(super) fn call(self) -> Option<AggregateState> {
        self.0.map(|make| make())
    }
}

#[doc(hidden)]
pub trait WithJson {
    fn state(&self) -> MakeState;
}

impl<A: Aggregate + Apply + Serialize> WithJson for Probe<A> {
    fn state(&self) -> MakeState {
        MakeState(
            #[cfg(feature = "catalog")]
            Some(|| AggregateState(Box::new(A::default()))),
        )
    }
}

#[doc(hidden)]
pub trait WithoutJson {
    fn state(&self) -> MakeState;
}

impl<A> WithoutJson for &Probe<A> {
    fn state(&self) -> MakeState {
        MakeState(
            #[cfg(feature = "catalog")]
            None,
        )
    }
}
