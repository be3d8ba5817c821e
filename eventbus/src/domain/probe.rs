//! The functions of an event type that a tool or a test knows only from the registry: they make samples, and read
//! payloads.

#[cfg(feature = "testkit")]
use super::{
    codec::DecodeError,
    name::{InvalidName, Name},
    record::NewEvent,
    stream::{StreamId, Version},
};
use super::{
    codec::EncodeError,
    record::DomainEvent,
    trace::{Shape, Untraceable},
};

/// Payloads of samples of an event, and the shape of its fields.
#[derive(Debug)]
pub(crate) struct Samples {
    pub(crate) payloads: Vec<String>,
    pub(crate) shape: Shape,
}

/// Why a sample could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SampleError {
    /// The type's `Deserialize` accepts no value that was tried.
    #[error(transparent)]
    Untraceable(#[from] Untraceable),
    /// The sample cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// Why a stored payload was not read.
#[cfg(feature = "testkit")]
#[derive(Debug, thiserror::Error)]
pub(crate) enum RereadError {
    /// It is not decoded as the event.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The decoded event cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The name of the event or of its stream is not valid.
    #[error(transparent)]
    Name(#[from] InvalidName),
}

/// The functions of one event type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EventProbe {
    samples: fn() -> Result<Samples, SampleError>,
    #[cfg(feature = "testkit")]
    reread: fn(&str, u32, &str) -> Result<String, RereadError>,
    #[cfg(feature = "testkit")]
    rust_type: fn() -> &'static str,
}

impl EventProbe {
    /// Returns the functions of `E`.
    pub(crate) const fn of<E: DomainEvent>() -> Self {
        Self {
            samples: samples::<E>,
            #[cfg(feature = "testkit")]
            reread: reread::<E>,
            #[cfg(feature = "testkit")]
            rust_type: std::any::type_name::<E>,
        }
    }

    /// Makes samples of the event, as today's program encodes them.
    pub(crate) fn samples(&self) -> Result<Samples, SampleError> {
        (self.samples)()
    }

    /// Decodes a payload that was stored under a name, in a version, and encodes the event again.
    #[cfg(feature = "testkit")]
    pub(crate) fn reread(&self, event_type: &str, version: u32, payload: &str) -> Result<String, RereadError> {
        (self.reread)(event_type, version, payload)
    }

    /// Returns the event's Rust type, as a [`DecodeError::Payload`] names it.
    #[cfg(feature = "testkit")]
    pub(crate) fn rust_type(&self) -> &'static str {
        (self.rust_type)()
    }
}

fn samples<E: DomainEvent>() -> Result<Samples, SampleError> {
    let traced = E::CODEC.trace()?;
    let mut payloads = Vec::new();
    for sample in &traced.samples {
        let payload = sample.encode()?.payload().to_owned();
        if !payloads.contains(&payload) {
            payloads.push(payload);
        }
    }
    Ok(Samples { payloads, shape: traced.shape })
}

#[cfg(feature = "testkit")]
fn reread<E: DomainEvent>(event_type: &str, version: u32, payload: &str) -> Result<String, RereadError> {
    let stored = NewEvent::new(Name::new("event type", event_type)?, version, payload);
    let stored = stored.recorded_as(StreamId::parse("Locked", "1")?, Version::FIRST, None);
    Ok(E::decode(&stored)?.encode()?.payload().to_owned())
}
