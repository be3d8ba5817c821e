//! The follower and its stream.

use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_core::Stream;
use futures_util::StreamExt as _;
use tokio_util::sync::DropGuard;

use super::{FollowControl, feed_reader::FeedReader};
use crate::{
    domain::{
        clock::SharedClock,
        field_text::FieldText,
        record::RecordedEvent,
        stream::Position,
        tag::{InvalidTag, Tag},
    },
    port::{EventStore, FeedFilter, ReadError},
    runtime::feed_head::FeedHead,
};

/// A follower of a store's feed, before it starts.
///
/// The stream first yields the stored events, then waits for new ones, which this or a different process appends. Every
/// event comes once, in position order. One page of events is in memory at a time; the stream reads the next one when
/// that is used up.
///
/// # Examples
/// ```
/// use eventbus::{Follow, InMemoryEventStore, Name, NewEvent, ExpectedVersion, StreamId, store::AppendEvents};
/// use futures_util::TryStreamExt;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
/// let store = InMemoryEventStore::new();
/// let mut events = Follow::new(store.clone()).start();
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
#[derive(Clone, derive_more::Debug)]
#[debug("Follow {{ after: {after:?}, filter: {filter:?}, .. }}")]
#[must_use = "nothing is read before `start`"]
pub struct Follow {
    store: Arc<dyn EventStore>,
    /// Set if the followers of an app share its polls.
    feed_head: Option<FeedHead>,
    after: Position,
    filter: FeedFilter,
    clock: SharedClock,
}

impl Follow {
    /// Follows the whole feed of `store`.
    pub fn new(store: impl EventStore) -> Self {
        Self::begin(Arc::new(store), None, SharedClock::SYSTEM)
    }

    /// Follows the feed of an app's store, and shares the app's polls and its clock.
    pub(crate) fn shared(feed_head: FeedHead) -> Self {
        let (store, clock) = (Arc::clone(feed_head.store()), feed_head.clock().clone());
        Self::begin(store, Some(feed_head), clock)
    }

    fn begin(store: Arc<dyn EventStore>, feed_head: Option<FeedHead>, clock: SharedClock) -> Self {
        Self { store, feed_head, after: Position::START, filter: FeedFilter::all(), clock }
    }

    /// Begins after this position, for example a checkpoint. To get only new events, pass the store's `head`.
    pub const fn after(mut self, position: Position) -> Self {
        self.after = position;
        self
    }

    /// Yields only the events that `filter` selects. It replaces an earlier filter, but keeps the earlier
    /// [tags](Self::tagged) if it has none of its own.
    pub fn filter(self, filter: FeedFilter) -> Self {
        let filter = match (self.filter.wanted_tags(), filter.wanted_tags()) {
            (Some(tags), None) => filter.tagged_any(tags.clone()),
            _ => filter,
        };
        Self { filter, ..self }
    }

    /// Yields only the events with this tag; of several calls, those with all tags.
    ///
    /// # Errors
    /// [`InvalidTag`] if no event can have it.
    pub fn tagged(self, name: &str, value: &(impl FieldText + ?Sized)) -> Result<Self, InvalidTag> {
        let tag = Tag::new(name, value)?;
        let sets = self.filter.wanted_tags().cloned().unwrap_or_else(|| [BTreeSet::new()].into());
        let sets = sets.into_iter().map(|set| set.into_iter().chain([tag.clone()]).collect::<BTreeSet<_>>());
        let filter = self.filter.clone().tagged_any(sets);
        Ok(Self { filter, ..self })
    }

    /// Sets the clock of polls and of retries while the store cannot be reached; the machine's by default.
    pub fn clock(self, clock: impl Into<SharedClock>) -> Self {
        Self { clock: clock.into(), feed_head: None, ..self }
    }

    /// Starts following; the first poll of the stream reads the first page.
    pub fn start(self) -> Following {
        let control = FollowControl::new(self.after, self.clock.clone());
        let feed_head = self.feed_head.unwrap_or_else(|| FeedHead::new(self.store, self.clock));
        let reader = FeedReader::new(&feed_head, self.after, self.filter, control.clone());
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

/// The stream of a follower. It ends when it is stopped, or after a damaged event.
///
/// While the store cannot be reached the stream retries, and [`FollowControl::status`] shows the error.
#[derive(derive_more::Debug)]
#[debug("Following {{ status: {:?}, .. }}", control.status())]
#[must_use = "a stream does nothing unless it is polled"]
pub struct Following {
    events: Pin<Box<dyn Stream<Item = Result<RecordedEvent, ReadError>> + Send>>,
    control: FollowControl,
    _stop: DropGuard,
}

impl Following {
    /// Returns a control that pauses, resumes and stops the stream from elsewhere, and reports its progress.
    #[must_use]
    pub fn control(&self) -> FollowControl {
        self.control.clone()
    }
}

impl Stream for Following {
    /// An error is the last item: [`ReadError::Corrupt`], or [`ReadError::NoStore`] from an app without a store.
    type Item = Result<RecordedEvent, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.as_mut().poll_next(context)
    }
}
