//! Feeds the handlers of a process from the feed of their store.
//!
//! Two loops share the work. One follows the end of the feed, and passes each page to all handlers that have read up to
//! there. The other reads for handlers that are behind, the lowest position first; so a handler that catches up, or is slow,
//! holds up none at the end of the feed.
//!
//! Invariant: a shard takes a page only if the page has all its slots and the shard has read exactly up to a place within it;
//! then it has read it all or up to where its room ended. So it does not matter which loop brings a page, or how often.

use std::{
    num::NonZeroUsize,
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    feed_window::Page,
    handler_queue::{HandlerQueue, PAGE_EVENTS, Wanted},
    saver::Saver,
    shared::Shared,
    slots::Slots,
    workers::Workers,
};
use crate::{
    domain::{name::Name, stream::Position},
    port::{FeedFilter, ReadError, backoff::BackoffTimer, feed_page::PageLimits, handler_progress::ALL_TYPES},
    runtime::{
        feed_head::FAILURE_BACKOFF, feed_poller::FeedPoller, head_poll::PageRequest, page_reader::PageReader,
        restore_watch::RestoreWatch,
    },
    support::PAGE_BYTES,
};

/// The limits of a page.
const LIMITS: PageLimits = PageLimits { events: NonZeroUsize::new(PAGE_EVENTS).unwrap(), bytes: PAGE_BYTES };

/// For so long after an event at the end of the feed, a handler that catches up is read for less.
const LIVE_FOR: Duration = Duration::from_millis(100);

/// Feeds the handlers of a process.
pub(super) struct Feeder {
    shared: Arc<Shared>,
    workers: Arc<Workers>,
    saver: Arc<Saver>,
    /// The filter for the types that any handler takes.
    of_types: OnceLock<FeedFilter>,
    /// When an event was last read at the end of the feed; held for moments.
    live_at: Mutex<Option<Instant>>,
}

impl Feeder {
    pub(super) fn new(shared: Arc<Shared>, workers: Arc<Workers>, saver: Arc<Saver>) -> Self {
        Self { shared, workers, saver, of_types: OnceLock::new(), live_at: Mutex::new(None) }
    }

    /// Returns the filter for the events that any handler takes, of the slots of the shards here, and these slots.
    fn reading(&self) -> (FeedFilter, Slots) {
        let slots = self.shared.queues().iter().fold(Slots::default(), |slots, queue| slots.with(queue.slots()));
        let types = || filter_of(self.shared.queues().iter().flat_map(|queue| queue.spec.types()).collect());
        let of_types = self.of_types.get_or_init(types).clone();
        let filter = if slots == Slots::ALL { of_types } else { of_types.slots(slots.iter()) };
        (filter, slots)
    }

    /// Follows the end of the feed.
    pub(super) async fn follow_end(&self, cancel: &CancellationToken) {
        let mut poller = FeedPoller::new(self.shared.feed_head());
        let mut reader = self.page_reader();
        let kept = Arc::clone(self.shared.store());
        let _kept = kept.appended().recent().keep();
        let mut restore_watch = RestoreWatch::new(&*kept);
        while !cancel.is_cancelled() {
            let head = match self.checked_head(&mut poller, &mut restore_watch).await {
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
                let filter = self.reading().0;
                self.shared.feed_head().want_page(PageRequest { after, filter, limits: LIMITS });
                if !poller.wait_idle(None, cancel).await {
                    return;
                }
                continue;
            }
            match self.read_end(&mut reader, after, head).await {
                Ok(page) => {
                    restore_watch.note_restores(&*kept);
                    if restore_watch.is_check_due() {
                        // its events may be of an older copy, and would hide that the store lacks the last one
                        reader.close();
                        continue;
                    }
                    self.shared.note_read(&page.events);
                    *self.live_at.lock() = Some(Instant::now());
                    self.shared.window.lock().push(&page);
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

    /// Returns the head, of a store that holds what was read: no older copy has replaced it.
    async fn checked_head(&self, poller: &mut FeedPoller, watch: &mut RestoreWatch) -> Result<Position, ReadError> {
        loop {
            let head = poller.head().await?;
            if poller.take_failure() {
                watch.note_failure();
            }
            watch.note_head(head);
            watch.note_restores(&**self.shared.store());
            if !watch.is_check_due() {
                return Ok(head);
            }
            // the head may be of the store before
            self.saver.check_store().await.map_err(|error| ReadError::Unavailable(error.into()))?;
            watch.mark_checked();
        }
    }

    fn page_reader(&self) -> PageReader<'_> {
        PageReader::new(&**self.shared.store(), LIMITS)
    }

    /// Reads the next page at the end of the feed, as it came with the head if it did.
    async fn read_end(&self, reader: &mut PageReader<'_>, after: Position, head: Position) -> Result<Page, ReadError> {
        let (filter, slots) = self.reading();
        let request = PageRequest { after, filter, limits: LIMITS };
        match self.shared.feed_head().take_page(&request) {
            Some(page) => {
                self.shared.note_feed_read();
                Ok(Page { after, through: page.through, events: page.events, slots })
            }
            None => self.read_page(reader, (after, head), (request.filter, slots)).await,
        }
    }

    /// Reads a page of a range; one without events up to an event that cannot be read, if an operator has skipped it.
    async fn read_page(
        &self,
        reader: &mut PageReader<'_>,
        (after, through): (Position, Position),
        (filter, slots): (FeedFilter, Slots),
    ) -> Result<Page, ReadError> {
        let page = match reader.read(after, through, &filter).await {
            Ok(page) => Page { after, through: page.through, events: page.events, slots },
            Err(error) => Page { after, through: self.shared.skipped(error).await?, events: Vec::new(), slots },
        };
        self.shared.note_feed_read();
        Ok(page)
    }

    /// Offers the window to all handlers.
    fn offer_window(&self) {
        for queue in self.shared.queues() {
            let Some(Wanted::After(after)) = queue.wanted() else { continue };
            self.offer_window_to(queue, after);
        }
    }

    /// Offers the window to a handler that has read up to `after`; returns `false` if the window begins later, or lacks
    /// slots of the handler.
    fn offer_window_to(&self, queue: &Arc<HandlerQueue>, after: Position) -> bool {
        let slots = queue.slots();
        let Some(page) = self.shared.window.lock().page_after(after, slots) else { return false };
        if after < page.through {
            queue.offer(&page, self.shared.clock());
            self.workers.start(queue);
        }
        true
    }

    /// Reads for the handlers that are behind the window. While events come at the end of the feed, it leaves two thirds of
    /// the time to the handlers there. Real time: what it shares is the processor.
    pub(super) async fn feed_backlogs(&self, cancel: &CancellationToken) {
        let mut reader = self.page_reader();
        let mut failures = BackoffTimer::new(FAILURE_BACKOFF);
        loop {
            let began = Instant::now();
            // a page that is dropped unread is read again
            let fed = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                fed = self.feed_backlog(&mut reader) => fed,
            };
            match fed {
                Ok(true) => {
                    failures.reset();
                    if self.live_at.lock().is_some_and(|at| at.elapsed() < LIVE_FOR) {
                        cancel.run_until_cancelled(tokio::time::sleep(2 * began.elapsed())).await;
                    }
                }
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
                    self.feed_left(reader, queue, &wanted).await?;
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
        let page = self.read_page(reader, (after, through), self.reading()).await?;
        self.shared.note_read(&page.events);
        for queue in self.shared.queues() {
            queue.offer(&page, self.shared.clock());
            self.workers.start(queue);
        }
        Ok(true)
    }

    /// Reads a page of the types that a shard was left with.
    async fn feed_left(
        &self,
        reader: &mut PageReader<'_>,
        queue: &Arc<HandlerQueue>,
        wanted: &Wanted,
    ) -> Result<(), ReadError> {
        let Wanted::Left { after, through, .. } = wanted else { return Ok(()) };
        let of_queue = (filter_of(queue.spec.types()), Slots::ALL);
        let page = self.read_page(reader, (*after, *through), of_queue).await?;
        queue.offer_left(wanted, page.through, page.events, self.shared.clock());
        self.workers.start(queue);
        Ok(())
    }
}

/// Returns the filter for events of these types.
pub(super) fn filter_of(types: Vec<Name>) -> FeedFilter {
    if types.contains(&ALL_TYPES) { FeedFilter::all() } else { FeedFilter::all().event_types(types) }
}
