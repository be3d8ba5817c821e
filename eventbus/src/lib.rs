//! Event-sourced aggregates: annotate events and handlers, and the framework stores, publishes, delivers and replays
//! them.
//!
//! ```standalone_crate
//! use eventbus::prelude::*;
//!
//! #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
//! #[event(aggregate = Account)]
//! struct Deposited { cents: u64 }
//!
//! #[derive(Debug, Default, Aggregate)]
//! #[aggregate(events(Deposited))]
//! struct Account { balance: u64 }
//!
//! impl Apply for Account {
//!     fn apply(&mut self, AccountEvent::Deposited(deposited): &AccountEvent) {
//!         self.balance += deposited.cents;
//!     }
//! }
//!
//! #[handler]
//! async fn thank(event: &Deposited, meta: &Metadata) {
//!     println!("thank you, {}, for {} cents", meta.aggregate_id(), event.cents);
//! }
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> eventbus::Result<()> {
//!     let app = App::builder().discover().start().await?; // in memory
//!     let (accounts, ada) = (app.repository::<Account>(), "ada".parse()?);
//!     accounts.upsert(&ada, |_| Ok::<_, eventbus::Never>(Deposited { cents: 120 })).await?;
//!     assert_eq!(accounts.load(&ada).await?.balance, 120);
//!     Ok(app.settled().await?)
//! }
//! ```
//!
//! # Overview
//! - Events and aggregates: [`DomainEvent`], [`Aggregate`], [`Apply`], [`AggregateRoot`].
//! - Loading and saving: [`AggregateRepository`]; what a save reports: [`Saved`].
//! - Reacting: [`handler`](macro@handler) and [`projection`](macro@projection); by hand: [`EventBusExt`],
//!   [`ProjectionHandle`].
//! - Putting it together: [`App`]. Without a store or bus it runs in memory, which is the app for tests.
//! - Answering HTTP requests: the module `axum`, with the feature of that name.
//! - Backends: crates `eventstore-sqlite`, `eventstore-postgres`, `eventstore-redis`, `eventbus-redis` and `eventbus-file`; to write one,
//!   [`port`], [`delivery`], [`support`] and the feature `testkit`.
//!
//! # Guarantees
//! A save that returned is durable; a conflict stores no event. The feed of a store skips, repeats and reorders no
//! event. The relay publishes the stored events in order, at least once; every consumer group gets every event at least
//! once. Projections whose state is in memory are exact, and writes of a handler through the store's connection are
//! made once. Other effects of handlers may be repeated after a crash: deduplicate by [`Metadata::event_id`] where that
//! would hurt.
#![cfg_attr(docsrs, feature(doc_cfg))]

extern crate self as eventbus;

#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub mod axum;
pub mod delivery;
mod domain;
mod memory;
pub mod port;
mod runtime;
#[cfg(test)]
mod statuses;
pub mod support;
#[cfg(feature = "testkit")]
#[cfg_attr(docsrs, doc(cfg(feature = "testkit")))]
pub mod testkit;

#[doc = include_str!("docs/aggregate.md")]
#[doc(inline)]
pub use eventbus_derive::Aggregate;
#[doc = include_str!("docs/domain_event.md")]
#[doc(inline)]
pub use eventbus_derive::DomainEvent;
#[doc = include_str!("docs/handler.md")]
#[doc(inline)]
pub use eventbus_derive::handler;
#[doc = include_str!("docs/projection.md")]
#[doc(inline)]
pub use eventbus_derive::projection;

pub use crate::runtime::projection::Rebuilt;
pub use domain::{
    aggregate::{Aggregate, AggregateRoot, Apply, IntoEvents},
    attributes::{Attributes, InvalidAttributes},
    clock::{Clock, SharedClock, Sleep, SystemClock, TimedOut},
    codec::{DecodeError, EncodeError, EncodeFault},
    context::EventContext,
    error::{BoxError, Error, Never, Result},
    event::{EventDescriptor, EventFilter, Source},
    field_error::FieldError,
    metadata::{EventId, InvalidUuid, Metadata, parse_uuid},
    name::{InvalidName, MAX_NAME_BYTES, Name, NameFault},
    record::{DomainEvent, EncodeEvent, Envelope, EventSet, NewEvent, RecordedEvent},
    stream::{AggregateId, ExpectedVersion, Position, StreamId, Version},
    validity::{EventFault, InvalidEvent, RESERVED_FIELDS},
};
pub use memory::{InMemoryEventBus, InMemoryEventBusBuilder, InMemoryEventStore};
pub use port::{HandlerError, HandlerErrorKind, HandlerStart};
pub use runtime::{
    app::{App, AppBuilder, Published, PublishedError, SettleError, shutdown_signal},
    definition::{Handler, HandlerDefinition, Projection, ProjectionDefinition, ProjectionKind},
    extract::{Attempt, FromDelivery, FromDeliveryRef, HandlerOutcome, State},
    follow::{Follow, FollowControl, FollowStatus, Following},
    handler_context::HandlerContext,
    projection::{
        ProjectionError, ProjectionGuard, ProjectionHandle, ProjectionOwner, ProjectionStatus, Rebuild, RebuildError,
        RebuildOwner, RebuildProgress,
    },
    registry::{EventRegistry, UnknownEventType},
    relay::{RelayError, RelayStatus, RepublishError},
    repository::{AggregateRepository, LoadError, Publication, SaveError, Saved, UpdateError, UpdateFuture},
    skip::{SkipError, SkippedEvent},
    start::{StartError, StartMistake},
    subscription::{EventBusExt, EventHandler},
};
pub use uuid::Uuid;

/// The names that almost every file of an application uses.
pub mod prelude {
    pub use serde::{Deserialize, Serialize};

    pub use crate::{
        Aggregate, AggregateId, AggregateRepository, AggregateRoot, App, Apply, Attempt, DomainEvent, Envelope,
        EventBusExt, HandlerError, Metadata, RecordedEvent, State, handler, projection,
    };
}

/// The names that generated code uses; not for use by hand, and not covered by any promise of stability.
#[doc(hidden)]
pub mod __private {
    pub use inventory;

    pub use crate::{
        domain::{
            aggregate::Lists,
            codec::{Codec, Payload},
            event::belongs_to,
            record::{decode_one, decode_with, encode_one, encode_with, unknown},
        },
        port::{BoxFuture, Delivery, FromTransaction, HandlerOptions, HandlerStart, Requirements, TransactionSlot},
        runtime::{
            definition::{
                AggregateRegistration, EventRegistration, HandlerRegistration, Probe, WithDefault, WithoutDefault,
            },
            extract::decoded,
            projection::{AnyProjection, ProjectionRegistration},
        },
    };

    /// The names that [`delegate`](crate::testkit::delegate) uses.
    #[cfg(feature = "testkit")]
    pub mod ports {
        pub use std::{sync::Arc, time::Duration};

        pub use async_trait::async_trait;
        pub use time::OffsetDateTime;

        pub use crate::{ExpectedVersion, Name, NewEvent, Position, RecordedEvent, StreamId, Uuid, Version, port::*};
    }

    /// Requires, where a handler is declared, that its future can move between threads.
    pub fn must_be_send<F: Future + Send>(future: F) -> F {
        future
    }
}
