//! Suspects: entries that were in flight when the process that had them ended. One of them may have ended it.
//!
//! To find out which, each runs alone, after a delay: nothing else of the bus runs beside it. Then a process that ends has
//! ended of it, or by chance; after five times in a row it is taken for the cause. An entry that only waited for a retry,
//! or behind another one of its aggregate, was not in flight.
//!
//! | stage | what happens | next stage | what is noted with the entry |
//! |---|---|---|---|
//! | – | taken in, in flight when its process ended | waiting | one more end; a delay: 1 s, 2 s … 1 min |
//! | – | the same, after the fifth end alone | burying | it becomes a dead letter |
//! | – | taken in, its process lives and was slow | suspect, if it was one | – |
//! | waiting | its delay has passed, and it is read again | suspect | – |
//! | suspect | nothing else runs | marking | one more end alone, as if it had ended already; no delay |
//! | suspect | others run on for as long as its delay was | marking | no delay |
//! | marking | that is written down | running | – |
//! | marking | it is given back | – | that it has not begun |
//! | running | handled, or failed as any other | – | no ends |
//! | running | the process ends | – | – |

use std::{sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};

use super::{GroupContext, InFlight, state::Job, workers::GroupHandlers};
use crate::port::StopSignal;

/// What is to be done about suspects.
#[derive(Debug)]
pub(super) enum NextSuspect {
    /// This one may run, alone if all others end within this time.
    Now(u64, Duration),
    /// None may, until this time at most.
    Later(Option<Instant>),
}

/// A suspect of which it is to be written down that it begins.
#[derive(Debug)]
pub(super) enum StartNote {
    /// It is written down.
    Started(Job),
    /// It is not written down yet.
    Pending,
    /// It is in hand no more.
    Released,
}

impl InFlight {
    /// Handles suspects, one at a time, until it is to stop.
    pub(super) async fn run_suspects(&self, context: &GroupContext, stop: &StopSignal) {
        let taken_over = Arc::new(Notify::new());
        let mut handlers = GroupHandlers::new(context);
        while let Some((number, delay)) = self.next_suspect(context, &mut handlers, stop).await {
            let begun = async {
                let alone = self.clock.timeout(delay, context.run_lock.exclusive()).await.ok();
                let beside = if alone.is_none() { Some(context.run_lock.shared().await) } else { None };
                if !self.state().note_start(number, alone.is_some()) {
                    return None;
                }
                self.outbox.notify_one();
                Some((self.start_noted(number, &taken_over).await?, alone, beside))
            };
            let begun = tokio::select! {
                begun = begun => begun,
                () = stop.stopped() => return, // it is given back
            };
            if let Some((job, _alone, _beside)) = begun {
                self.handle(job, context, &handlers, &taken_over).await;
            }
        }
    }

    /// The next suspect that may run, and how long to wait for the others to end; nothing when it is to stop.
    async fn next_suspect(
        &self,
        context: &GroupContext,
        handlers: &mut GroupHandlers,
        stop: &StopSignal,
    ) -> Option<(u64, Duration)> {
        loop {
            if stop.is_stopped() {
                return None;
            }
            let mut changed = std::pin::pin!(self.work.notified());
            changed.as_mut().enable();
            handlers.refresh(context);
            let due = match handlers.current.is_empty() {
                true => NextSuspect::Later(None),
                false => {
                    let mut state = self.state();
                    let due = state.next_suspect(self.clock.instant(), self.bounds);
                    self.notify_waiters(state);
                    due
                }
            };
            let until = match due {
                NextSuspect::Now(number, delay) => return Some((number, delay)),
                NextSuspect::Later(until) => until,
            };
            tokio::select! {
                () = changed => {}
                () = self.sleep_until(until) => self.work.notify_waiters(), // others may have waited for this time too
                _ = handlers.changes.changed() => handlers.is_stale = true,
                () = stop.stopped() => {}
            }
        }
    }

    /// Waits until it is written down that a suspect begins; `None` if it is in hand no more.
    async fn start_noted(&self, number: u64, worker: &Arc<Notify>) -> Option<Job> {
        loop {
            let mut changed = std::pin::pin!(self.work.notified());
            changed.as_mut().enable();
            let marked = self.state().take_started(number, worker, self.clock.instant());
            match marked {
                StartNote::Started(job) => return Some(job),
                StartNote::Released => return None,
                StartNote::Pending => changed.await,
            }
        }
    }
}
