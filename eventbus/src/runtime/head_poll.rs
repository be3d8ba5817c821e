//! Polls of a store's head: when the next one is due.
//!
//! Invariant: the watch of the append signal is older than each poll, so a signal that arrives during a poll, or
//! between a poll and the wait, leads to another poll.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    domain::{clock::SharedClock, stream::Position},
    port::{
        AppendWatch, EventStore, FeedFilter, ReadError,
        backoff::{Backoff, BackoffTimer},
        feed_end::FeedEnd,
        feed_page::{FeedPage, PageLimits},
    },
};

/// The longest pause between two polls while the store [announces](AppendSignal::set_hears_all) the appends of all
/// processes.
///
/// An event that no store announces is found within this time: its process ended between commit and announcement; its
/// statement waited for a lock when its caller gave up, and stored it later; its process is not connected for
/// announcements, as it waits up to 30 seconds until it connects again; or this process has lost its connection without
/// a sign.
///
/// [AppendSignal::set_hears_all]: crate::port::AppendSignal::set_hears_all
const ANNOUNCED_PAUSE_MAX: Duration = Duration::from_secs(5);
/// The longest pause otherwise.
pub(super) const PAUSE_MAX: Duration = Duration::from_millis(250);
/// The pauses between polls since the last append: each about as long as the time since then.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(5), ANNOUNCED_PAUSE_MAX);

/// Time since the last event that no signal announced, as one of a store that does not notify, in which more of them
/// are expected: the longest pause is [`PAUSE_MAX`].
const UNANNOUNCED_EXPECTED: Duration = Duration::from_secs(60);

/// The page that a reader at the end of the feed wants with the next poll of the head: one round trip instead of two.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PageRequest {
    pub(super) after: Position,
    pub(super) filter: FeedFilter,
    pub(super) limits: PageLimits,
}

/// Polls a store's head, often while events come, ever more seldom while none do.
///
/// Where this process alone appends, the head follows from its [appends](crate::port::AppendSignal::notify_of): the
/// store is polled then at the longest pause only.
///
/// | the signal hears all processes | appends open at the last poll | an unannounced event in the last minute | longest pause |
/// |---|---|---|---|
/// | no | any | any | 250 ms |
/// | yes | yes: a roll-back, which is not announced, may let readers see later events | any | 250 ms |
/// | yes | no | yes: a store appends that does not notify | 250 ms |
/// | yes | no | no | 5 s |
pub(super) struct HeadPoll {
    store: Arc<dyn EventStore>,
    appended: AppendWatch,
    pauses: BackoffTimer,
    clock: SharedClock,
    last: Option<FeedEnd>,
    polled_at: Option<Instant>,
    /// [`unknown_appends`](crate::port::AppendSignal) before the last poll.
    unknown_appends: u64,
    /// Set if the next poll is due after a long pause without a signal, although signals are heard.
    is_unannounced: bool,
    unannounced_at: Option<Instant>,
}

impl HeadPoll {
    pub(super) fn new(store: Arc<dyn EventStore>, clock: SharedClock) -> Self {
        let appended = store.appended().watch();
        let pauses = BackoffTimer::new(PAUSES);
        Self {
            store,
            appended,
            pauses,
            clock,
            last: None,
            polled_at: None,
            unknown_appends: 0,
            is_unannounced: false,
            unannounced_at: None,
        }
    }

    /// Returns the head, by the appends of this process, or else as the store answers.
    ///
    /// Not cancel-safe: the poll is noted before the answer, `last` after it. No caller drops a poll and uses the same
    /// `HeadPoll` again.
    pub(super) async fn poll(&mut self) -> Result<Position, ReadError> {
        self.poll_with_page(None).await.map(|(head, _)| head)
    }

    /// Returns the head as [`poll`](Self::poll) does, and the page that is wanted with it if the store answered and the
    /// page can be read.
    pub(super) async fn poll_with_page(
        &mut self,
        wanted: Option<&PageRequest>,
    ) -> Result<(Position, Option<FeedPage>), ReadError> {
        let is_unannounced = std::mem::take(&mut self.is_unannounced);
        if let (Some(head), Some(last)) = (self.head_by_own_appends(), &mut self.last) {
            last.head = head;
            return Ok((head, None));
        }
        // before the poll: an append that ends meanwhile may be unknown to it
        self.unknown_appends = self.store.appended().unknown_appends();
        self.polled_at = Some(self.clock.instant());
        let page = match wanted {
            // the reader that wants the page meets an event that cannot be read when it reads for itself
            Some(wanted) => self.store.read_page(wanted.after, &wanted.filter, wanted.limits).await.ok(),
            None => None,
        };
        let polled = match &page {
            Some(page) => Ok(page.end),
            None => self.store.feed_end().await,
        };
        let former = std::mem::replace(&mut self.last, polled.as_ref().ok().copied());
        // an older copy may have replaced the store
        match &polled {
            Ok(end) if former.is_some_and(|former| end.head < former.head) => {
                self.store.appended().note_possible_restore();
            }
            Ok(_) => {}
            // without a signal, which would end the pause after the failure
            Err(_) => self.store.appended().recent().clear(),
        }
        let end = polled?;
        if former.is_some_and(|former| former.has_open_appends) && !end.has_open_appends {
            // a commit between the snapshot of the poll and its view of open appends is in neither
            self.pauses.reset();
        }
        if former.is_some_and(|former| former.head < end.head) {
            self.pauses.reset(); // more may come soon
            if is_unannounced {
                self.unannounced_at = Some(self.clock.instant());
            }
        }
        Ok((end.head, page))
    }

    /// Begins again with short pauses, after events were read.
    pub(super) fn reset(&mut self) {
        self.pauses.reset();
    }

    /// Waits until the next poll is due: at once after an append, else after a pause.
    pub(super) async fn wait(&mut self) {
        let pause = self.pauses.next_delay().min(self.longest_pause());
        let hears_all = self.hears_all();
        // after a short pause the signal may be on its way
        self.is_unannounced = self.wait_for(pause).await && hears_all && pause >= PAUSE_MAX;
    }

    fn hears_all(&self) -> bool {
        self.last.is_some_and(|end| !end.has_open_appends) && self.appended.hears_all()
    }

    fn longest_pause(&self) -> Duration {
        let expects_unannounced = self.unannounced_at.is_some_and(|at| self.clock.elapsed(at) < UNANNOUNCED_EXPECTED);
        if self.hears_all() && !expects_unannounced { ANNOUNCED_PAUSE_MAX } else { PAUSE_MAX }
    }

    /// Returns the head if it follows from the last poll and the appends of this process since, and another poll is not
    /// due.
    fn head_by_own_appends(&self) -> Option<Position> {
        let last = self.last.filter(|end| !end.has_open_appends)?;
        let is_due = self.polled_at.is_none_or(|at| self.clock.elapsed(at) >= self.longest_pause());
        let appended = self.store.appended();
        if is_due || appended.unknown_appends() != self.unknown_appends {
            return None;
        }
        appended.recent().end_after(last.head)
    }

    /// Waits for a pause, or until an append. Returns `true` if the pause is over.
    pub(super) async fn wait_for(&mut self, pause: Duration) -> bool {
        // an append does not wait for the poll
        tokio::select! {
            () = self.appended.begun_or_appended() => {
                if self.head_by_own_appends().is_none() {
                    self.pauses.reset();
                }
                false
            }
            () = self.clock.sleep(pause) => true,
        }
    }
}
