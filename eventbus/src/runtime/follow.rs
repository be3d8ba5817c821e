//! Following a store's feed: what is there, then what comes, in one stream without a seam.
//!
//! Keep: the position to read on from is moved past what was not asked for only to a head that was asked for *before*
//! reading. A later one may be beyond an event that the reading has not seen.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::feed::FeedWatch;
use crate::{
    domain::{error::Line, record::RecordedEvent, stream::Position},
    port::{EventStore, FeedFilter, ReadError},
};

/// How many events are taken from a page that the store has read; a bound in case it reads without end.
const PAGE: usize = 1_024;

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
}

impl Follow {
    /// Follows the whole feed of `store`.
    pub fn of(store: impl EventStore) -> Self {
        Self::of_shared(Arc::new(store))
    }

    pub(crate) fn of_shared(store: Arc<dyn EventStore>) -> Self {
        Self { store, after: Position::START, filter: FeedFilter::all() }
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

    /// Begins to follow; the first page is read when the first event is waited for.
    pub fn start(self) -> Following {
        let cancel = CancellationToken::new();
        let status = FollowStatus { position: self.after, ..FollowStatus::default() };
        let control = FollowControl(Arc::new(Shared {
            cancel: cancel.clone(),
            is_paused: watch::Sender::new(false),
            status: watch::Sender::new(status),
        }));
        let reader = Reader {
            feed: FeedWatch::new(&self.store),
            store: self.store,
            filter: self.filter,
            cursor: self.after,
            page: VecDeque::new(),
            control: control.clone(),
        };
        let events = futures_util::stream::unfold(Some(reader), |reader| async {
            let mut reader = reader?;
            match reader.next().await? {
                Ok(event) => Some((Ok(event), Some(reader))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Following { events: events.boxed(), control, _stop: cancel.drop_guard() }
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

/// How far someone who follows a feed has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FollowStatus {
    /// Everything up to here was handed out, or not asked for.
    pub position: Position,
    /// Whether it has once come to the end of what there was.
    pub is_live: bool,
    /// Why the store cannot be read at the moment.
    pub trouble: Option<String>,
}

/// Pauses, resumes and stops a [`Following`] from elsewhere. Cloning shares it.
#[derive(Clone)]
pub struct FollowControl(Arc<Shared>);

struct Shared {
    cancel: CancellationToken,
    is_paused: watch::Sender<bool>,
    status: watch::Sender<FollowStatus>,
}

impl FollowControl {
    /// Hands out nothing more until it is resumed.
    pub fn pause(&self) {
        self.0.is_paused.send_replace(true);
    }

    /// Goes on where it was paused.
    pub fn resume(&self) {
        self.0.is_paused.send_replace(false);
    }

    /// Ends the stream; what was read and not handed out yet is not handed out any more.
    pub fn stop(&self) {
        self.0.cancel.cancel();
    }

    /// How far it has come.
    #[must_use]
    pub fn status(&self) -> FollowStatus {
        self.0.status.borrow().clone()
    }

    /// Waits until it has once come to the end of what there was. False: it did not within `timeout`.
    ///
    /// Somebody else has to take the events meanwhile.
    pub async fn live(&self, timeout: Duration) -> bool {
        let mut status = self.0.status.subscribe();
        tokio::time::timeout(timeout, status.wait_for(|status| status.is_live)).await.is_ok()
    }

    /// Waits while it is paused. False: it was stopped.
    async fn may_go_on(&self) -> bool {
        let mut is_paused = self.0.is_paused.subscribe();
        let resumed = is_paused.wait_for(|is_paused| !is_paused);
        self.0.cancel.run_until_cancelled(resumed).await.is_some()
    }

    fn update(&self, update: impl FnOnce(&mut FollowStatus)) {
        self.0.status.send_modify(update);
    }
}

impl fmt::Debug for FollowControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FollowControl").field("status", &self.status()).finish_non_exhaustive()
    }
}

/// Where someone is in a feed.
struct Reader {
    store: Arc<dyn EventStore>,
    filter: FeedFilter,
    /// Everything up to here is in the page, or was handed out before.
    cursor: Position,
    page: VecDeque<RecordedEvent>,
    feed: FeedWatch,
    control: FollowControl,
}

impl Reader {
    /// The next event; `None` once it is stopped.
    async fn next(&mut self) -> Option<Result<RecordedEvent, ReadError>> {
        let cancel = self.control.0.cancel.clone();
        loop {
            if !self.control.may_go_on().await {
                return None;
            }
            if let Some(event) = self.page.pop_front() {
                let position = event.position().unwrap_or(self.cursor);
                self.control.update(|status| status.position = position);
                return Some(Ok(event));
            }
            let looked = cancel.run_until_cancelled(self.read_on()).await?;
            let goes_on = match looked {
                Ok(true) => {
                    self.feed.made_progress();
                    true
                }
                Ok(false) => self.feed.idle(&cancel).await,
                Err(ReadError::Unavailable(error)) => {
                    self.report(&Line(&*error).to_string());
                    self.feed.failed(&cancel).await
                }
                Err(damaged) => return Some(Err(damaged)),
            };
            if !goes_on {
                return None;
            }
        }
    }

    /// Reads what comes next. False: the end is reached for now.
    async fn read_on(&mut self) -> Result<bool, ReadError> {
        let head = self.store.head().await?;
        if head > self.cursor {
            let read = self.store.read_feed(self.cursor, head, &self.filter).ready_chunks(PAGE).next().await;
            match read {
                Some(chunk) => self.take(chunk)?,
                None => self.cursor = head,
            }
        }
        let is_at_the_end = self.page.is_empty() && head <= self.cursor;
        let cursor = self.cursor;
        self.control.update(|status| {
            status.trouble = None;
            if is_at_the_end {
                (status.position, status.is_live) = (cursor, true);
            }
        });
        Ok(!is_at_the_end)
    }

    /// Takes the events of a page; an error behind them is met again by the next reading.
    fn take(&mut self, chunk: Vec<Result<RecordedEvent, ReadError>>) -> Result<(), ReadError> {
        for record in chunk {
            match record {
                Ok(event) => {
                    self.cursor = event.position().unwrap_or(self.cursor);
                    self.page.push_back(event);
                }
                Err(error) if self.page.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn report(&self, error: &str) {
        if self.feed.is_failing() {
            tracing::debug!(error, "store still cannot be followed");
        } else {
            tracing::warn!(error, "store cannot be followed, trying again");
        }
        self.control.update(|status| status.trouble = Some(error.to_owned()));
    }
}
