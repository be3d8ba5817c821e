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
//! async fn thank(event: &Deposited, id: &AggregateId) {
//!     println!("thank you, {id}, for {} cents", event.cents);
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
//! - Putting it together: [`App`]. Without a store or bus it runs in memory.
//! - Testing: the module `testkit`, with the feature of that name: tests of commands, decisions, projections and handlers,
//!   an app on a clock that a test moves, and stores and buses that fail on demand.
//! - Answering HTTP requests: the module `axum`, with the feature of that name.
//! - Less common items, by subject: [`app`], [`bus`], [`clock`], [`dead_letter`], [`event`], [`follow`],
//!   [`handler`](mod@handler), [`health`], [`projection`](mod@projection), [`relay`], [`repository`], [`store`].
//! - Backends: crates `eventstore-sqlite`, `eventstore-postgres`, `eventstore-redis`, `eventbus-redis` and
//!   `eventbus-file`; to write one, [`port`], [`delivery`], [`support`] and the suites of `testkit`.
//!
//! # Guarantees
//! A save that returned is durable; a conflict stores no event. The feed of a store neither skips nor repeats nor
//! reorders events. Every handler gets every event that it takes at least once. The relay publishes the stored events in
//! order, at least once. Projections whose state is in memory are exact, and writes of a handler through the store's
//! connection take effect once. Other effects of handlers may be repeated after a crash: deduplicate by
//! [`Metadata::stream`] and [`Metadata::event_id`] where a repetition would hurt.
#![cfg_attr(docsrs, feature(doc_cfg))]

extern crate self as eventbus;

#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub mod axum;
pub mod delivery;
mod domain;
#[cfg(feature = "testkit")]
#[cfg_attr(docsrs, doc(cfg(feature = "testkit")))]
pub mod lock;
mod memory;
pub mod port;
mod runtime;
pub mod support;
#[cfg(feature = "testkit")]
#[cfg_attr(docsrs, doc(cfg(feature = "testkit")))]
pub mod testkit;
#[cfg(test)]
mod tests;

#[doc = include_str!("docs/aggregate.md")]
#[doc(inline)]
pub use eventbus_derive::Aggregate;
#[doc = include_str!("docs/decision.md")]
#[doc(inline)]
pub use eventbus_derive::Decision;
#[doc = include_str!("docs/domain_event.md")]
#[doc(inline)]
pub use eventbus_derive::DomainEvent;
#[doc = include_str!("docs/old_event.md")]
#[doc(inline)]
pub use eventbus_derive::OldEvent;
#[doc = include_str!("docs/handler.md")]
#[doc(inline)]
pub use eventbus_derive::handler;
#[doc = include_str!("docs/projection.md")]
#[doc(inline)]
pub use eventbus_derive::projection;

pub use domain::{
    aggregate::{Aggregate, AggregateRoot, Apply, IntoEvents},
    context::EventContext,
    decision::Decision,
    error::{BoxError, Error, Never, Result},
    id::Id,
    metadata::{EventId, Metadata},
    name::Name,
    record::{DomainEvent, Envelope, EventSet, NewEvent, RecordedEvent},
    stream::{AggregateId, ExpectedVersion, Position, StreamId, Version},
};
pub use memory::{InMemoryEventBus, InMemoryEventStore};
pub use port::delivery::HandlerError;
pub use runtime::{
    app::{App, shutdown_signal},
    extract::{Attempt, State},
    follow::Follow,
    projection::ProjectionHandle,
    repository::{AggregateRepository, LoadError, Repository, SaveError, Saved, UpdateError},
    start::StartError,
    subscription::EventBusExt,
};
pub use uuid::Uuid;

/// An application: its builder, the builder of its in-memory bus, the publishing of its events, skipped events, and
/// mistakes at the start.
pub mod app {
    #[doc(inline)]
    pub use crate::{
        memory::InMemoryEventBusBuilder,
        runtime::{
            app::{AppBuilder, Published, PublishedError, ReplayError, Replayed, SettleError, StandaloneApp},
            skip::{SkipEditor, SkipError, SkippedEvent},
            start::StartMistake,
        },
    };
}

/// Buses as an application uses them: the trait, its errors, and what its calls return.
pub mod bus {
    #[doc(inline)]
    pub use crate::port::{
        ConnectError, ConsumeError, EventBus, GroupProgress, MessageId, PublishError, ShutdownError,
    };
    #[doc(hidden)]
    pub use crate::runtime::{
        app::MergedDeadLetters,
        engine::{bus_of_store, reads_store},
    };
}

/// What is linked into a program: events, aggregates, handlers and projections. For tools; needs the cargo feature
/// `catalog`.
#[cfg(feature = "catalog")]
#[cfg_attr(docsrs, doc(cfg(feature = "catalog")))]
pub mod catalog {
    #[doc(inline)]
    pub use crate::runtime::{
        aggregate_state::AggregateState,
        catalog::{Catalog, EventSamples, LinkedAggregate, LinkedEvent, NoSamples},
    };
}

/// The clock that the framework reads, and that tests replace.
pub mod clock {
    #[doc(inline)]
    pub use crate::domain::clock::{Clock, SharedClock, Sleep, SystemClock, TimedOut};
}

/// Dead letters: listing, replaying and discarding them.
pub mod dead_letter {
    #[doc(inline)]
    pub use crate::port::{DeadLetter, DeadLetterError, DeadLetterFilter, DeadLetterPage, DeadLetters};
}

/// Parts of events: descriptors, filters, attributes, names, codecs and their errors.
pub mod event {
    #[doc(inline)]
    pub use crate::{
        domain::{
            attributes::{Attributes, InvalidAttributes},
            codec::{DecodeError, EncodeError, EncodeFault, EventFields},
            event::{EventDescriptor, EventFilter, Source},
            field_error::FieldError,
            field_text::{FieldText, FieldTexts},
            fields::Fields,
            metadata::{InvalidUuid, parse_uuid},
            name::{InvalidName, MAX_NAME_BYTES, NameFault},
            record::EncodeEvent,
            tag::{InvalidTag, TAG_BYTES_MAX, TAGS_MAX, Tag},
            unique::{UNIQUE_VALUE_BYTES_MAX, UniqueChange, UniqueFault},
            upcast::OldEventOf,
            validity::{EventFault, InvalidEvent, RESERVED_FIELDS},
        },
        runtime::registry::{EventRegistry, UnknownEventType},
    };
}

/// Following the feed of a store by hand: see [`Follow`].
pub mod follow {
    #[doc(inline)]
    pub use crate::runtime::follow::{FollowControl, FollowStatus, Following};
}

/// Handlers of events: their definitions, parameters, subscriptions, deliveries, retries and errors.
pub mod handler {
    #[doc(inline)]
    pub use crate::{
        port::{
            Subscription,
            delivery::{Delivery, HandlerErrorKind},
            retry::RetryPolicy,
            state::{Requirements, StateMap},
            subscriber::{HandlerOptions, HandlerStart},
        },
        runtime::{
            definition::{Handler, HandlerDefinition},
            extract::{EffectKey, FromDelivery, FromDeliveryRef, HandlerOutcome},
            handler_context::HandlerContext,
            subscription::EventHandler,
        },
    };
}

/// What an application, its bus and its groups report to operators.
pub mod health {
    #[doc(inline)]
    pub use crate::port::{
        health::{
            CatchingUp, CrowdedGroup, Health, HealthStatus, HealthThresholds, OldestUnfinished, RunningHandler,
            SilentConsumer, WaitingForServer,
        },
        stats::{BusStats, GroupInfo, InFlightCounts, StreamInfo, StreamSummary},
    };
}

#[doc = include_str!("docs/metrics.md")]
pub mod metrics {
    #[doc(inline)]
    pub use crate::runtime::metrics::{Distribution, MetricFamily, MetricKind, Metrics, Sample, SampleValue};
}

/// Projections: their definitions, status and rebuilds.
pub mod projection {
    #[doc(inline)]
    pub use crate::runtime::{
        definition::{Projection, ProjectionDefinition, ProjectionKind},
        projection::{
            NotedStop, ProjectionError, ProjectionGuard, ProjectionOwner, ProjectionStatus, Rebuild, RebuildError,
            RebuildOwner, RebuildProgress, Rebuilt,
        },
    };
}

/// The relay, which publishes the stored events: its status and errors, and the values that its targets exchange with
/// it.
pub mod relay {
    #[doc(inline)]
    pub use crate::{
        port::relay::{PublishRange, PublishedPosition, RangeOutcome},
        runtime::relay::{BeginError, RelayError, RelayStatus, RepublishError, begin_after, republish},
    };
}

/// What the calls of [`AggregateRepository`], and of [`App::together`] and [`App::decision`], take and return.
pub mod repository {
    #[doc(inline)]
    pub use crate::{
        domain::{aggregate::Fold, decision::DecidedEvent, id::AggregateKey, idempotency_key::IdempotencyKey},
        runtime::repository::{
            BoundaryError, Change, Deciding, DecidingOnce, DuplicateValue, FindByError, HistoryError, HistoryStep,
            Once, OnceError, Publication, SavedTogether, TaggedEvents, TakeSnapshotError, TakenValues, Together,
            UpdateFuture,
        },
    };
}

/// Stores as an application uses them: their traits, the filter of their feed, and their errors.
pub mod store {
    #[doc(inline)]
    pub use crate::port::{
        Append, AppendError, AppendEvents, CheckpointError, Direction, EventStore, FeedFilter, LeaseError,
        MissingEvent, MultiStreamAppends, ReadError, ReadFeed, ReadStream, RecordStream, SnapshotError,
        append_batches::AppendBatches,
        boundaries::{Boundaries, Boundary, BoundaryCondition, BoundaryRead, FURTHER_TAGS},
        feed_end::FeedEnd,
        feed_page::{FeedPage, PageLimits},
        multi_stream_append::{
            Handled, HandledCommand, HandledDelivery, MULTI_STREAM_APPENDS_MAX, MultiStreamAppend, MultiStreamOutcome,
        },
        unique_values::{UniqueKey, UniqueValues, unique_scope},
        visited_event::{
            VisitEvent, VisitFeedEvent, VisitedEvent, VisitedFeedEvent, visit_feed_records, visit_records,
        },
    };
}

/// The names that almost every file of an application uses.
pub mod prelude {
    // The macros only: modules of these names stand at the root beside them.
    #[doc(no_inline)]
    pub use eventbus_derive::{handler, projection};
    pub use serde::{Deserialize, Serialize};

    pub use crate::{
        Aggregate, AggregateId, AggregateRepository, AggregateRoot, App, Apply, Attempt, Decision, DomainEvent,
        Envelope, EventBusExt, HandlerError, Id, Metadata, OldEvent, RecordedEvent, Repository, State,
    };
}

/// The names that generated code uses; not for use by hand, and not covered by any promise of stability.
#[doc(hidden)]
pub mod __private {
    pub use inventory;
    pub use time::OffsetDateTime;

    pub use crate::{
        domain::{
            aggregate::{Fold, Lists},
            codec::{Codec, DecodeError, EncodeError, EventFields, Payload},
            event::{EventDescriptor, EventFilter, Source, belongs_to},
            fields::Fields,
            record::{
                DecodeFields, EncodeEvent, FoldedEvent, decode_one, decode_one_fields, decode_with, encode_one,
                encode_with, read_current, unknown,
            },
            snapshot_codec::{SnapshotCodec, SnapshotState},
            tag::tag_values,
            trace::{Traced, Untraceable},
            unique::{UniqueName, as_it_is, unique_value},
            upcast::{ConvertTo, OldEventOf, UpcastFault, Upcasts, change, read_fields, read_old},
        },
        port::{
            BoxFuture, FromTransaction,
            delivery::Delivery,
            state::Requirements,
            subscriber::{HandlerOptions, HandlerStart},
            transaction::TransactionSlot,
        },
        runtime::{
            aggregate_state::{WithJson, WithoutJson},
            definition::{
                AggregateRegistration, EventRegistration, Handler, HandlerDefinition, HandlerRegistration, Projection,
                ProjectionDefinition, ProjectionKind, VisitedFold,
            },
            extract::{FromDelivery, FromDeliveryRef, HandlerOutcome, decoded, decoded_batch},
            projection::{AnyProjection, ProjectionRegistration},
            trait_probe::{Probe, WithDefault, WithoutDefault},
        },
    };

    /// The names that [`delegate`](crate::testkit::delegate) uses.
    #[cfg(feature = "testkit")]
    pub mod ports {
        pub use std::{collections::BTreeMap, sync::Arc, time::Duration};

        pub use async_trait::async_trait;
        pub use time::OffsetDateTime;

        pub use crate::{
            ExpectedVersion, Name, NewEvent, Position, RecordedEvent, StreamId, Uuid, Version, delivery::*, handler::*,
            health::*, port::handler_progress::*, port::listings::*, port::*, relay::*, store::*,
        };
    }

    /// Requires, where a handler is declared, that its future can move between threads.
    pub fn must_be_send<F: Future + Send>(future: F) -> F {
        future
    }
}
