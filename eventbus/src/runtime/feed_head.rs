//! The head of a store's feed, as all readers of an app share it: one task polls the store for them.

use std::{pin::pin, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::head_poll::{HeadPoll, PageRequest};
use crate::{
    domain::{clock::SharedClock, stream::Position},
    port::{
        EventStore, ReadError,
        backoff::{Backoff, BackoffTimer},
        feed_page::FeedPage,
    },
};

/// The pauses after failed reads.
pub(super) const FAILURE_BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// Time without an answer to a poll after which readers ask for themselves.
const SLOW_POLL_AFTER: Duration = Duration::from_secs(1);

/// A head of the feed, or a checkpoint, as the store returned it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LoadedPosition {
    pub(super) position: Position,
    /// The number of [possible restores](crate::port::AppendSignal::possible_restores) before the request.
    pub(super) possible_restores: u64,
}

impl LoadedPosition {
    /// Lowers the position to the head of a server that may have taken over since: such a server may lack the last events,
    /// and store different ones at their positions later.
    pub(super) async fn lower_after_restore(&mut self, store: &dyn EventStore) -> Result<(), ReadError> {
        let possible_restores = store.appended().possible_restores();
        if possible_restores != self.possible_restores {
            *self = Self { position: self.position.min(store.head().await?), possible_restores };
        }
        Ok(())
    }
}

/// The page that a reader wants, or has got; one reader of an app has them.
#[derive(Debug, Default)]
enum PolledPage {
    #[default]
    Unwanted,
    Wanted(PageRequest),
    /// With the number of possible restores before it was read.
    Read(PageRequest, FeedPage, u64),
}

/// The result of the last polls by the task of a [`FeedHead`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PolledHead {
    /// The head at the last poll; `None` before the first poll, and while the last one fails or has no answer: readers
    /// then ask the store, and so meet its error.
    pub(super) head: Option<LoadedPosition>,
    /// The number of failed polls, and of polls that found a lower head than the poll before: a reader learns that the
    /// store may have been replaced by an older copy.
    pub(super) failures: u64,
}

/// The shared head of a feed. Cloning shares it.
#[derive(Clone)]
pub(crate) struct FeedHead(Arc<FeedHeadInner>);

struct FeedHeadInner {
    store: Arc<dyn EventStore>,
    clock: SharedClock,
    polled: watch::Sender<PolledHead>,
    /// Wakes a task that does not poll, since there was no reader.
    wanted: Notify,
    /// `true` while a task polls.
    is_shared: watch::Sender<bool>,
    /// Held for moments.
    page: Mutex<PolledPage>,
}

impl FeedHead {
    /// Creates a head that no task polls: each reader polls by itself.
    pub(crate) fn new(store: Arc<dyn EventStore>, clock: SharedClock) -> Self {
        let (polled, wanted, is_shared, page) = Default::default();
        Self(Arc::new(FeedHeadInner { store, clock, polled, wanted, is_shared, page }))
    }

    /// Returns the task that polls for all readers from now on. Once it is dropped, each reader polls by itself.
    pub(crate) fn share(&self) -> FeedHeadTask {
        self.0.is_shared.send_replace(true);
        FeedHeadTask { head: self.clone() }
    }

    pub(crate) fn store(&self) -> &Arc<dyn EventStore> {
        &self.0.store
    }

    pub(crate) fn clock(&self) -> &SharedClock {
        &self.0.clock
    }

    /// Returns a watch of the polled heads; `None` if no task polls.
    pub(super) fn subscribe(&self) -> Option<watch::Receiver<PolledHead>> {
        self.0.is_shared.borrow().then(|| self.0.polled.subscribe())
    }

    /// Asks for a page with the next poll of the task that finds events for it.
    pub(super) fn want_page(&self, request: PageRequest) {
        *self.0.page.lock() = PolledPage::Wanted(request);
    }

    /// Takes the page that was wanted, if a poll has read it from the server that the store has now.
    pub(super) fn take_page(&self, request: &PageRequest) -> Option<FeedPage> {
        let current = self.0.store.appended().possible_restores();
        match std::mem::take(&mut *self.0.page.lock()) {
            PolledPage::Read(of, page, possible_restores) if of == *request && possible_restores == current => {
                Some(page)
            }
            _ => None,
        }
    }

    fn wanted_page(&self) -> Option<PageRequest> {
        match &*self.0.page.lock() {
            PolledPage::Wanted(request) => Some(request.clone()),
            _ => None,
        }
    }

    /// Keeps a page for the reader that still wants it. Without a new event the next poll reads it again.
    fn keep_page(&self, request: PageRequest, page: FeedPage, possible_restores: u64) {
        let mut kept = self.0.page.lock();
        if page.through > request.after && matches!(&*kept, PolledPage::Wanted(wanted) if *wanted == request) {
            *kept = PolledPage::Read(request, page, possible_restores);
        }
    }

    /// Waits until the task has ended.
    pub(super) async fn ended(&self) {
        let mut is_shared = self.0.is_shared.subscribe();
        // the head keeps the sender
        let _ = is_shared.wait_for(|is_shared| !is_shared).await;
    }

    /// Lets the task poll if it does not: there is a reader.
    pub(super) fn begin_polls(&self) {
        self.0.wanted.notify_one();
    }
}

/// The task of a [`FeedHead`].
///
/// | State | Event | Next state |
/// |---|---|---|
/// | idle | a reader that subscribed has asked the store, see [`FeedHead::begin_polls`] | polling |
/// | polling | an answer | waiting; readers wake if the head, or the number of possible restores, has changed |
/// | polling | an error | failed; readers wake, and ask the store themselves |
/// | polling | no answer for a second | polling; readers wake, and ask the store themselves, each second |
/// | waiting | a signal of an append, or the pause of [`HeadPoll`] is over | polling; idle if no reader is left |
/// | failed | after 50 ms: a signal of an append, or a backoff is over | polling; idle if no reader is left |
/// | any | cancelled, or dropped | ended: each reader polls by itself |
pub(crate) struct FeedHeadTask {
    head: FeedHead,
}

impl FeedHeadTask {
    pub(crate) async fn run(self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.poll()).await;
    }

    async fn poll(&self) {
        let FeedHeadInner { store, clock, polled, wanted, .. } = &*self.head.0;
        let _kept = store.appended().recent().keep();
        let mut poll = HeadPoll::new(Arc::clone(store), clock.clone());
        let mut failures = BackoffTimer::new(FAILURE_BACKOFF);
        loop {
            if polled.receiver_count() == 0 {
                polled.send_modify(|last| last.head = None);
                wanted.notified().await;
                poll.reset();
                continue;
            }
            let possible_restores = store.appended().possible_restores();
            let wanted = self.head.wanted_page();
            if let Ok((position, page)) = self.answer_of(poll.poll_with_page(wanted.as_ref())).await {
                if let (Some(wanted), Some(page)) = (wanted, page) {
                    self.head.keep_page(wanted, page, possible_restores);
                }
                let head = LoadedPosition { position, possible_restores };
                polled.send_if_modified(|last| {
                    last.failures += u64::from(last.head.is_some_and(|former| position < former.position));
                    last.head.replace(head) != Some(head)
                });
                failures.reset();
                poll.wait().await;
            } else {
                // wakes each time: a reader may have reached the store since the last failure
                polled.send_modify(|last| *last = PolledHead { head: None, failures: last.failures + 1 });
                // the failed appends of an outage signal too
                clock.sleep(FAILURE_BACKOFF.delay(1)).await;
                poll.wait_for(failures.next_jittered()).await;
            }
        }
    }

    /// Waits for the answer to a poll; while there is none, wakes the readers each second.
    async fn answer_of<T>(&self, poll: impl Future<Output = T>) -> T {
        let FeedHeadInner { clock, polled, .. } = &*self.head.0;
        let mut poll = pin!(poll);
        loop {
            // the poll goes on: a store may answer late, and its own limits end it
            tokio::select! {
                biased; // an answer that is there needs no timer
                answer = &mut poll => return answer,
                () = clock.sleep(SLOW_POLL_AFTER) => polled.send_modify(|last| last.head = None),
            }
        }
    }
}

impl Drop for FeedHeadTask {
    fn drop(&mut self) {
        self.head.0.is_shared.send_replace(false);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::{
        domain::{
            name::Name,
            record::NewEvent,
            stream::{ExpectedVersion, StreamId},
        },
        memory::InMemoryEventStore,
        port::{AppendEvents as _, FeedFilter, ReadFeed as _, feed_page::PageLimits},
    };

    fn page_after(position: u64) -> PageRequest {
        let limits = PageLimits { events: NonZeroUsize::MIN, bytes: 1 };
        PageRequest { after: position.into(), filter: FeedFilter::all(), limits }
    }

    /// Stores an event as another process would: nothing here has it in memory.
    async fn append_elsewhere(store: &InMemoryEventStore) {
        let stream = StreamId::parse("Order", "1").unwrap();
        store
            .append(&stream, ExpectedVersion::Any, vec![NewEvent::new(Name::from_static("Noted"), 1, "{}")])
            .await
            .unwrap();
        store.appended().recent().clear();
    }

    /// Polls until the head is found; returns the positions of the page that came with it.
    async fn polled_page(head: &FeedHead, found: u64, request: &PageRequest) -> Option<Vec<Option<Position>>> {
        let mut polled = head.subscribe().unwrap();
        head.begin_polls();
        polled.wait_for(|polled| polled.head.is_some_and(|head| head.position == found)).await.unwrap();
        let page = head.take_page(request)?;
        Some(page.events.iter().map(|event| event.position()).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_comes_with_the_poll_that_finds_its_events() {
        let store = InMemoryEventStore::new();
        let head = FeedHead::new(Arc::new(store.clone()), SharedClock::SYSTEM);
        tokio::spawn(head.share().run(CancellationToken::new()));
        assert_eq!(polled_page(&head, 0, &page_after(0)).await, None, "none is wanted");
        head.want_page(page_after(0));
        assert_eq!(polled_page(&head, 0, &page_after(0)).await, None, "there is none yet");
        head.want_page(page_after(0));
        append_elsewhere(&store).await;
        assert_eq!(polled_page(&head, 1, &page_after(0)).await, Some(vec![Some(Position::new(1))]));
        head.want_page(page_after(1));
        append_elsewhere(&store).await;
        assert_eq!(polled_page(&head, 2, &page_after(0)).await, None, "it is behind another position");
        head.want_page(page_after(2));
        append_elsewhere(&store).await;
        let mut polled = head.subscribe().unwrap();
        polled.wait_for(|polled| polled.head.is_some_and(|head| head.position == 3)).await.unwrap();
        store.appended().note_possible_restore();
        assert_eq!(head.take_page(&page_after(2)), None, "it is of a server that may be gone");
    }
}
