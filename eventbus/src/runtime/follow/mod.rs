//! Following a store's feed: what is there, then what comes, in one stream without a seam.

mod control;
mod feed_reader;

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_core::Stream;
use futures_util::StreamExt as _;
use tokio_util::sync::DropGuard;

pub use self::control::{FollowControl, FollowStatus};
use self::feed_reader::FeedReader;
use crate::{
    domain::{clock::SharedClock, record::RecordedEvent, stream::Position},
    port::{EventStore, FeedFilter, ReadError},
};

/// Which part of a store's feed is to be followed.
///
/// The stream first gives what the store holds, then waits for what is appended, by this process or another. Every event
/// comes once, in position order. A page of events is in memory at a time; the next one is read when it is used up.
///
/// # Examples
/// ```
/// use eventbus::{Follow, InMemoryEventStore, Name, NewEvent, ExpectedVersion, StreamId, port::AppendEvents};
/// use futures_util::TryStreamExt;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
/// let store = InMemoryEventStore::new();
/// let mut events = Follow::of(store.clone()).start();
///
/// let event = NewEvent::new(Name::new("event type", "Deposited")?, 1, r#"{"cents":120}"#);
/// store.append(&StreamId::parse("Account", "1")?, ExpectedVersion::Any, vec![event]).await?;
/// let deposited = events.try_next().await?.expect("it does not end by itself");
/// assert_eq!(deposited.payload(), r#"{"cents":120}"#);
///
/// events.control().stop();
/// assert_eq!(events.try_next().await?, None);
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "nothing is read before `start`"]
pub struct Follow {
    store: Arc<dyn EventStore>,
    after: Position,
    filter: FeedFilter,
    clock: SharedClock,
}

impl Follow {
    /// Follows the whole feed of `store`.
    pub fn new(store: impl EventStore) -> Self {
        Self::from_shared(Arc::new(store))
    }

    pub(crate) fn from_shared(store: Arc<dyn EventStore>) -> Self {
        Self { store, after: Position::START, filter: FeedFilter::all(), clock: SharedClock::SYSTEM }
    }

    /// Begins after this position, for example a checkpoint; for what comes from now on, after the store's `head`.
    pub const fn after(mut self, position: Position) -> Self {
        self.after = position;
        self
    }

    /// Gives only what `filter` asks for.
    pub fn filter(mut self, filter: FeedFilter) -> Self {
        self.filter = filter;
        self
    }

    /// By which clock a store that cannot be reached is tried again; the machine's by default.
    pub fn clock(mut self, clock: impl Into<SharedClock>) -> Self {
        self.clock = clock.into();
        self
    }

    /// Begins to follow; the first page is read when the first event is waited for.
    pub fn start(self) -> Following {
        let control = FollowControl::new(self.after, self.clock);
        let reader = FeedReader::new(self.store, self.after, self.filter, control.clone());
        let events = futures_util::stream::unfold(Some(reader), |reader| async {
            let mut reader = reader?;
            match reader.next().await? {
                Ok(event) => Some((Ok(event), Some(reader))),
                Err(error) => Some((Err(error), None)),
            }
        });
        let stop = control.cancel().clone().drop_guard();
        Following { events: events.boxed(), control, _stop: stop }
    }
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow").field("after", &self.after).field("filter", &self.filter).finish_non_exhaustive()
    }
}

/// The events of a feed, those to come included. It ends when it is stopped, or after an event that is damaged.
///
/// A store that cannot be reached is tried again; [`FollowControl::status`] says so meanwhile.
#[must_use = "a stream does nothing unless it is polled"]
pub struct Following {
    events: Pin<Box<dyn Stream<Item = Result<RecordedEvent, ReadError>> + Send>>,
    control: FollowControl,
    _stop: DropGuard,
}

impl Following {
    /// Pauses, resumes and stops it from elsewhere, and says how far it has come.
    #[must_use]
    pub fn control(&self) -> FollowControl {
        self.control.clone()
    }
}

impl Stream for Following {
    /// [`ReadError::Corrupt`] is the only error, and the last item.
    type Item = Result<RecordedEvent, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.as_mut().poll_next(context)
    }
}

impl fmt::Debug for Following {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Following").field("status", &self.control.status()).finish_non_exhaustive()
    }
}
