//! The traits that a backend implements, one per capability, and their values and errors.
//!
//! Stores implement [`EventStore`], buses [`EventBus`]. A backend crate needs this module, the values that its
//! methods name (at the root and in `event`, `handler`, `health` and `relay`), `support` and, for a bus, `delivery`, but
//! no part of the runtime. It is correct when the suites of `eventbus::testkit` pass.

pub(crate) mod app_number;
pub(crate) mod append_batches;
pub(crate) mod attempts;
pub(crate) mod backoff;
pub(crate) mod boundaries;
mod bus;
mod bus_error;
mod checkpoint;
mod dead_letter;
pub(crate) mod delivery;
mod event_types;
pub mod feed_end;
pub mod feed_page;
mod filter;
pub mod handler_progress;
pub(crate) mod handler_saves;
pub(crate) mod health;
pub(crate) mod histogram;
mod lease;
pub mod listings;
mod message;
mod missing_event;
pub(crate) mod multi_stream_append;
mod note;
#[cfg(feature = "opentelemetry")]
pub(crate) mod receivers;
mod recent_appends;
mod record_stream;
pub(crate) mod relay;
pub(crate) mod retry;
pub(crate) mod run_meter;
mod server_fault;
mod signal;
mod snapshot;
pub(crate) mod state;
pub(crate) mod stats;
mod store;
mod store_error;
pub(crate) mod subscriber;
pub(crate) mod transaction;
pub(crate) mod unique_values;
pub(crate) mod visited_event;

pub use bus::{EventBus, GroupProgress};
pub use bus_error::{ConnectError, ConsumeError, PublishError, ShutdownError};
pub use checkpoint::{CheckpointError, Checkpoints};
pub use dead_letter::{DeadLetter, DeadLetterError, DeadLetterFilter, DeadLetterPage, DeadLetters};
pub use event_types::{EventTypes, StoredEventType};
pub use filter::FeedFilter;
pub use handler_progress::HandlerProgress;
pub use lease::{Lease, LeaseError, Leases};
pub use message::MessageId;
pub use missing_event::MissingEvent;
pub use multi_stream_append::{Append, MultiStreamAppends};
pub use note::Notes;
pub use record_stream::RecordStream;
pub use relay::RelayTarget;
pub use server_fault::ServerFault;
pub use signal::{AppendSignal, AppendWatch};
pub use snapshot::{SnapshotError, SnapshotRead, Snapshots, StoredSnapshot};
pub use state::TypeKey;
pub use store::{AppendEvents, Direction, EventStore, ReadFeed, ReadStream};
pub use store_error::{AppendError, ReadError};
pub use subscriber::{Subscriber, SubscriberStatus, Subscription};
pub use transaction::{FromTransaction, Shadow, Transaction, Transactions};

/// A boxed future that can move between threads.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
