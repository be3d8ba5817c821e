//! Feeds the handlers of a process from the feed of their store.
//!
//! Two loops share the work. One follows the end of the feed, and passes each page to all handlers that have read up to
//! there. The other reads for handlers that are behind, the lowest position first; so a handler that catches up, or is slow,
//! holds up none at the end of the feed.
//!
//! Invariant: a shard takes a page only if it has read exactly up to a place within it, and then has read it all or up to
//! where its room ended. So it does not matter which loop brings a page, or how often.

use std::sync::Arc;

use futures_util::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::{
    handler_queue::{HandlerQueue, Wanted},
    shared::Shared,
    workers::Workers,
};
use crate::{
    domain::{name::Name, record::RecordedEvent, stream::Position},
    port::{FeedFilter, ReadError, RecordStream, backoff::BackoffTimer, handler_progress::ALL_TYPES},
    runtime::{feed_head::FAILURE_BACKOFF, feed_poller::FeedPoller},
};

/// The most events of a page, and of their payloads' bytes.
const PAGE_EVENTS: usize = 256;
const PAGE_BYTES: usize = 1024 * 1024;

/// A page of the feed.
struct Page {
    events: Vec<RecordedEvent>,
    /// The feed is read up to here.
    through: Position,
}

/// Reads pages of a range of the feed, one after the other from one stream as long as each begins where the last ended.
struct PageReader<'s> {
    shared: &'s Shared,
    filter: FeedFilter,
    /// The stream, the position that its next event follows, and the end of its range.
    open: Option<(RecordStream<'s>, Position, Position)>,
}

impl<'s> PageReader<'s> {
    const fn new(shared: &'s Shared, filter: FeedFilter) -> Self {
        Self { shared, filter, open: None }
    }

    async fn read(&mut self, after: Position, through: Position) -> Result<Page, ReadError> {
        let (mut stream, end) = match self.open.take() {
            Some((stream, next, end)) if next == after && end <= through => (stream, end),
            _ => (self.shared.store().read_feed(after, through, &self.filter), through),
        };
        let (mut events, mut bytes) = (Vec::<RecordedEvent>::new(), 0);
        while events.len() < PAGE_EVENTS && bytes < PAGE_BYTES {
            match stream.next().await {
                Some(Ok(event)) => {
                    bytes += event.payload().len();
                    events.push(event);
                }
                // the events before it count, and the next page begins with the error
                Some(Err(_)) if !events.is_empty() => {
                    let through = events.last().and_then(RecordedEvent::position).unwrap_or(after);
                    return Ok(Page { events, through });
                }
                Some(Err(error)) => {
                    let through = self.shared.skipped(error).await?;
                    return Ok(Page { events, through });
                }
                None => return Ok(Page { events, through: end }),
            }
        }
        let through = events.last().and_then(RecordedEvent::position).unwrap_or(after);
        self.open = Some((stream, through, end));
        Ok(Page { events, through })
    }
}

/// Feeds the handlers of a process.
pub(super) struct Feeder {
    shared: Arc<Shared>,
    workers: Arc<Workers>,
}

impl Feeder {
    pub(super) const fn new(shared: Arc<Shared>, workers: Arc<Workers>) -> Self {
        Self { shared, workers }
    }

    /// Returns the filter for the events that any handler takes.
    fn filter(&self) -> FeedFilter {
        filter_of(self.shared.queues().iter().flat_map(|queue| queue.spec.types()).collect())
    }

    /// Follows the end of the feed.
    pub(super) async fn follow_end(&self, cancel: &CancellationToken) {
        let mut poller = FeedPoller::new(self.shared.feed_head());
        let filter = self.filter();
        let kept = Arc::clone(self.shared.store());
        let _kept = kept.appended().recent().keep();
        while !cancel.is_cancelled() {
            let head = match poller.head().await {
                Ok(head) => head,
                Err(error) => {
                    self.shared.note_feed_error(&error);
                    if !poller.wait_after_failure(cancel).await {
                        return;
                    }
                    continue;
                }
            };
            let after = {
                let mut window = self.shared.window.lock();
                if !window.is_begun() {
                    window.begin(head);
                    self.shared.backlog.notify_one();
                }
                window.through()
            };
            // the head is lower for a while after a slow append began
            if after >= head {
                if !poller.wait_idle(None, cancel).await {
                    return;
                }
                continue;
            }
            match self.read_end(after, head, &filter).await {
                Ok(page) => {
                    self.shared.note_read(&page.events);
                    self.shared.window.lock().push(&page.events, page.through);
                    self.offer_window();
                    self.shared.backlog.notify_one();
                }
                Err(error) => {
                    self.shared.note_feed_error(&error);
                    if !poller.wait_after_failure(cancel).await {
                        return;
                    }
                }
            }
        }
    }

    /// Reads the next page at the end of the feed, from the appends of this process if they directly follow.
    async fn read_end(&self, after: Position, head: Position, filter: &FeedFilter) -> Result<Page, ReadError> {
        let recent = self.shared.store().appended().recent().read(after, head, PAGE_EVENTS, PAGE_BYTES);
        if let Some(through) = recent.last().and_then(RecordedEvent::position) {
            let events = recent.into_iter().filter(|event| filter.matches(event)).collect();
            return Ok(Page { events, through });
        }
        let page = PageReader::new(&self.shared, filter.clone()).read(after, head).await;
        page.inspect(|_| self.shared.note_feed_read())
    }

    /// Offers the window to all handlers.
    fn offer_window(&self) {
        for queue in self.shared.queues() {
            let Some(Wanted::After(after)) = queue.wanted() else { continue };
            self.offer_window_to(queue, after);
        }
    }

    /// Offers the window to a handler that has read up to `after`; returns `false` if the window begins later.
    fn offer_window_to(&self, queue: &Arc<HandlerQueue>, after: Position) -> bool {
        let (events, through) = {
            let window = self.shared.window.lock();
            (window.after_position(after), window.through())
        };
        let Some(events) = events else { return false };
        if after < through {
            queue.offer(after, through, &events, self.shared.clock());
            self.workers.start(queue);
        }
        true
    }

    /// Reads for the handlers that are behind the window.
    pub(super) async fn feed_backlogs(&self, cancel: &CancellationToken) {
        let mut reader = PageReader::new(&self.shared, self.filter());
        let mut failures = BackoffTimer::new(FAILURE_BACKOFF);
        loop {
            // a page that is dropped unread is read again
            let fed = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                fed = self.feed_backlog(&mut reader) => fed,
            };
            match fed {
                Ok(true) => failures.reset(),
                Ok(false) => {
                    if cancel.run_until_cancelled(self.shared.backlog.notified()).await.is_none() {
                        return;
                    }
                }
                Err(error) => {
                    self.shared.note_feed_error(&error);
                    if cancel.run_until_cancelled(self.shared.clock().sleep(failures.next_jittered())).await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    /// Reads one page for the handlers that are behind; returns `false` if there is none.
    async fn feed_backlog(&self, reader: &mut PageReader<'_>) -> Result<bool, ReadError> {
        let mut lowest = None;
        for queue in self.shared.queues() {
            match queue.wanted() {
                Some(wanted @ Wanted::Left { .. }) => {
                    self.feed_left(queue, &wanted).await?;
                    return Ok(true);
                }
                Some(Wanted::After(after)) if !self.offer_window_to(queue, after) => {
                    lowest = Some(lowest.map_or(after, |lowest: Position| lowest.min(after)));
                }
                _ => {}
            }
        }
        let through = self.shared.window.lock().through();
        let Some(after) = lowest.filter(|after| *after < through) else { return Ok(false) };
        let page = reader.read(after, through).await?;
        self.shared.note_feed_read();
        self.shared.note_read(&page.events);
        for queue in self.shared.queues() {
            queue.offer(after, page.through, &page.events, self.shared.clock());
            self.workers.start(queue);
        }
        Ok(true)
    }

    /// Reads a page of the types that a shard was left with.
    async fn feed_left(&self, queue: &Arc<HandlerQueue>, wanted: &Wanted) -> Result<(), ReadError> {
        let Wanted::Left { after, through, .. } = wanted else { return Ok(()) };
        let mut reader = PageReader::new(&self.shared, filter_of(queue.spec.types()));
        let page = reader.read(*after, *through).await?;
        self.shared.note_feed_read();
        queue.offer_left(wanted, page.through, page.events, self.shared.clock());
        self.workers.start(queue);
        Ok(())
    }
}

/// Returns the filter for events of these types.
pub(super) fn filter_of(types: Vec<Name>) -> FeedFilter {
    if types.contains(&ALL_TYPES) { FeedFilter::all() } else { FeedFilter::all().event_types(types) }
}
