//! The traits that a backend implements, one per capability, and their values and errors.
//!
//! Stores implement [`EventStore`], buses [`EventBus`]. A backend crate needs this module and the values at the root of
//! the crate, and no part of the runtime; it is correct when the suites of `eventbus::testkit` pass.

mod attempts;
mod backlog;
mod backoff;
mod bus;
mod bus_error;
mod checkpoint;
mod dead_letter;
mod delivery;
mod event_types;
mod filter;
mod floor;
mod health;
mod lease;
mod message;
mod note;
mod relay;
mod retry;
mod server_fault;
mod signal;
mod state;
mod stats;
mod store;
mod store_error;
mod subscriber;
mod transaction;
mod unfinished;

pub(crate) use attempts::RetryDecision;
pub use attempts::{DeliveryAttempts, Failure, HandlerFailure};
pub use backlog::{Announced, BacklogFill, Backlogs, FillOutcome, SkippedBefore};
pub use backoff::{Backoff, BackoffTimer};
pub use bus::{EventBus, GroupProgress};
pub use bus_error::{ConnectError, ConsumeError, PublishError, ShutdownError};
pub use checkpoint::{CheckpointError, Checkpoints};
pub use dead_letter::{DeadLetter, DeadLetterError, DeadLetterFilter, DeadLetterPage, DeadLetters};
pub use delivery::{Delivery, HandlerError, HandlerErrorKind};
pub use event_types::{EventTypes, StoredEventType};
pub use filter::FeedFilter;
pub use floor::{Floor, Floors};
pub use health::{
    CrowdedGroup, Health, HealthStatus, HealthThresholds, OldestUnfinished, RunningHandler, SilentConsumer,
    UnfilledGroup, UnreadableEvents, WaitingForServer,
};
pub use lease::{Lease, LeaseError, Leases};
pub use message::MessageId;
pub use note::Notes;
pub use relay::{
    GroupFloor, GroupFloors, PublishRange, PublishedPosition, Publisher, RangeOutcome, RelayTarget, ResyncOutcome,
    ResyncRequest,
};
pub use retry::RetryPolicy;
pub use server_fault::ServerFault;
pub use signal::{AppendSignal, AppendWatch};
pub use state::{Requirements, StateMap, TypeKey};
pub use stats::{BusCounters, BusStats, GroupInfo, StreamInfo, StreamSummary};
pub use store::{Append, AppendEvents, Direction, EventStore, ReadFeed, ReadStream, RecordStream};
pub use store_error::{AppendError, ReadError};
pub use subscriber::{HandlerOptions, HandlerStart, Subscriber, SubscriberStatus, Subscription};
pub use transaction::{FromTransaction, Shadow, Transaction, TransactionSlot, Transactions};
pub use unfinished::{DeadDelivery, ProgressUpdate, UnfinishedDeliveries, UnfinishedDelivery};

/// A boxed future that can move between threads.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
