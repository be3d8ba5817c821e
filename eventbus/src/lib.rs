//! eventbus
#![cfg_attr(docsrs, feature(doc_cfg))]

extern crate self as eventbus;

mod domain;
mod memory;
pub mod port;
mod runtime;
#[cfg(feature = "testkit")]
#[cfg_attr(docsrs, doc(cfg(feature = "testkit")))]
pub mod testkit;

pub use domain::{
    aggregate::{Aggregate, AggregateRoot, Apply, IntoEvents},
    attributes::{Attributes, InvalidAttributes},
    codec::{DecodeError, EncodeError, EncodeFault, RESERVED_FIELDS},
    context::EventContext,
    error::{BoxError, Error, Result},
    event::{DomainEvent, EncodeEvent, EventDescriptor, EventFilter, EventSet, Source},
    metadata::{EventId, InvalidUuid, Metadata, parse_uuid},
    name::{InvalidName, MAX_NAME_BYTES, Name, NameFault},
    record::{Envelope, NewEvent, RecordedEvent},
    stream::{AggregateId, ExpectedVersion, Position, StreamId, Version},
};
pub use memory::InMemoryEventBus;
pub use port::HandlerError;
