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

pub use eventbus_derive::{Aggregate, DomainEvent, handler, projection};

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
pub use memory::{InMemoryEventBus, InMemoryEventStore};
pub use port::{HandlerError, HandlerErrorKind};
pub use runtime::{
    app::{App, AppBuilder, Published, PublishedError, SettleError},
    definition::{Handler, HandlerDefinition, Projection, ProjectionDefinition, ProjectionKind},
    extract::{Attempt, FromDelivery, FromDeliveryRef, HandlerOutcome, State},
    projection::{
        Projected, ProjectionError, ProjectionGuard, Rebuild, RebuildError, RebuildProgress,
        Rebuilt,
    },
    registry::{EventRegistry, UnknownEventType},
    repository::{AggregateRepository, LoadError, Publication, SaveError, Saved, UpdateError},
    start::{StartError, StartMistake},
    subscription::{EventBusExt, EventHandler},
};
pub use uuid::Uuid;

/// What almost every file of an application needs.
pub mod prelude {
    pub use serde::{Deserialize, Serialize};

    pub use crate::{
        Aggregate, AggregateId, AggregateRepository, AggregateRoot, App, Apply, Attempt,
        DomainEvent, Envelope, EventBusExt, HandlerError, Metadata, RecordedEvent, State, handler,
        projection,
    };
}

/// What generated code names; not for use by hand, and not covered by any promise of stability.
#[doc(hidden)]
pub mod __private {
    pub use inventory;

    pub use crate::{
        domain::{
            aggregate::Lists,
            codec::{Codec, Payload},
            event::{belongs_to, decode_one, decode_with, encode_one, encode_with, unknown},
        },
        port::{
            BoxFuture, Delivery, FromTransaction, HandlerOptions, Requirements, TransactionSlot,
        },
        runtime::{
            definition::{
                EventRegistration, HandlerRegistration, Probe, WithDefault, WithoutDefault,
            },
            extract::decoded,
            projection::{ProjectionRegistration, ProjectionSlot},
        },
    };

    /// Demands that the future of a handler can move between threads, where the handler is declared.
    pub fn must_be_send<F: Future + Send>(future: F) -> F {
        future
    }
}
