//! The traits that a backend implements, one per capability, and the parts that all backends share.
//!
//! Stores implement [`EventStore`], buses [`EventBus`]. A backend crate needs this module and the values at the root of
//! the crate, and no part of the runtime; it is correct when the suites of `eventbus::testkit` pass.

#[macro_use]
mod delegate;

mod active_subscriber;
pub(crate) mod activity;
mod address;
mod attempts;
mod backlog;
mod bus;
mod bus_error;
mod check;
mod checkpoint;
mod consuming;
mod dead_letter;
mod delivery;
mod dispatch;
mod event_types;
mod filter;
mod floor;
mod group_types;
mod health;
mod in_flight;
mod lease;
mod message;
mod note;
mod outage;
mod page;
mod relay;
mod retry;
mod server_fault;
mod signal;
mod skip;
mod state;
mod stats;
mod store;
mod store_error;
mod subscriber;
mod subscribers;
mod transaction;
mod unfinished;
mod watchdog;

pub use active_subscriber::{ActiveSubscriber, Limits, SpanFn, handler_span};
pub use address::{is_this_machine, redacted};
pub use attempts::{DeliveryAttempts, Failure, HandlerFailure};
pub use backlog::{Announced, BacklogFill, Backlogs, FillOutcome, SkippedBefore};
pub use bus::{EventBus, GroupProgress};
pub use bus_error::{ConnectError, ConsumeError, PublishError, ShutdownError};
pub use check::{check_events, check_ids, check_records, first_result};
pub use checkpoint::{CheckpointError, Checkpoints};
pub(crate) use consuming::within_grace_period;
pub use consuming::{Consuming, StopSignal};
pub use dead_letter::{DeadLetter, DeadLetterError, DeadLetterFilter, DeadLetterPage, DeadLetters};
pub use delivery::{Delivery, HandlerError, HandlerErrorKind};
pub use dispatch::{Outcome, dispatch};
pub use event_types::{EventTypes, ListedEventTypes, StoredEventType};
pub use filter::FeedFilter;
pub use floor::{Floor, Floors};
pub use group_types::{DELIVER_SKIPPED_WITHIN, DueRange, GroupTypes, Unhandled, UnhandledRange, log_skipped_type};
pub use health::{
    CrowdedGroup, Health, HealthStatus, HealthThresholds, OldestUnfinished, RunningHandler, SilentConsumer,
    UnfilledGroup, UnreadableEvents, WaitingForServer,
};
pub use in_flight::{
    DEFAULT_IN_FLIGHT_BYTES, DEFAULT_MAX_WAITING, DisposedEntry, Disposition, DueEntry, GroupContext, InFlight,
    InFlightEntry, RunLock, WorkerSlots, run_workers,
};
pub use lease::{Lease, LeaseError, Leases};
pub use message::MessageId;
pub use note::Notes;
pub use outage::Outage;
pub use page::{PAGE_BYTES, Page, paged};
pub use relay::{
    GroupFloor, GroupFloors, PublishRange, PublishedPosition, Publisher, RangeOutcome, RelayTarget, ResyncOutcome,
    ResyncRequest,
};
pub use retry::RetryPolicy;
pub use server_fault::{ServerFault, source_chain};
pub use signal::{AppendSignal, AppendWatch};
pub(crate) use skip::{Skip, SkipsError, read_around, relay_to, save_skips, skipped_positions, skips, skips_to_note};
pub use state::{Requirements, StateMap, TypeKey};
pub use stats::{BusCounters, BusStats, GroupInfo, StreamInfo, StreamSummary};
pub use store::{Append, AppendEvents, Direction, EventStore, ReadFeed, ReadStream, RecordStream};
pub use store_error::{AppendError, ReadError};
pub use subscriber::{HandlerOptions, HandlerStart, Subscriber, SubscriberStatus, Subscription};
pub use subscribers::{ConsumerReport, Subscribers};
pub use transaction::{FromTransaction, Shadow, Transaction, TransactionSlot, Transactions};
pub use unfinished::{DeadDelivery, ProgressUpdate, UnfinishedDeliveries, UnfinishedDelivery};

pub use crate::domain::json::{from_json, to_json};

/// A boxed future that can move between threads.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
