//! Suspects: entries that were in flight when the process that had them ended. One of them may be the cause.
//!
//! To find it, the consumer runs each suspect alone, after a delay: no other delivery of the bus runs beside it. If the
//! process ends during that run, the cause is this entry or chance; after five such ends in a row the entry becomes a
//! dead letter. An entry that only waited for a retry, or was blocked behind an earlier one of its aggregate, is no
//! suspect.
//!
//! Invariant: the bus persists that a suspect begins before the handlers run. In the other order the end that it causes
//! would not count.
//!
//! This table shows the attempts that the bus persists at each step; [`state`](super::state) has all transitions.
//!
//! | stage | event | next stage | persisted attempts |
//! |---|---|---|---|
//! | – | added; in flight when its process ended | `Waiting` | `process_ends` + 1; `next_at`: in 1 s, 2 s … 1 min |
//! | – | the same, with `ended_alone` at 5 | `DeadLettering` | moved to the dead letters |
//! | – | added as a suspect; its process was slow, and lives | `Suspect` | later: `ended_alone` - 1 |
//! | `Waiting` | its delay has passed; the bus has read it again | `Suspect` | no `next_at`, from now on or when it begins |
//! | `Suspect` | no other delivery runs | `NotingStart` | `ended_alone` + 1, in advance; no `next_at` |
//! | `Suspect` | other deliveries run on for as long as its delay was | `NotingStart` | no `next_at` |
//! | `NotingStart` | the bus has persisted that it begins | `StartNoted`, `Running` | – |
//! | `NotingStart`, `StartNoted` | nacked | – | `ended_alone` as before; `next_at`: now |
//! | `Running` | handled, or failed as any other entry | see [`state`](super::state) | `process_ends` and `ended_alone`: 0 |
//! | `Running` | its group has no handlers any more | `Suspect` | later: `ended_alone` - 1 |
//! | `Running` | the process ends | – | – |

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

use super::{
    GroupContext, InFlight,
    group_context::GroupHandlers,
    state::{Job, NextSuspect, StartNote},
};
use crate::port::StopSignal;

impl InFlight {
    /// Handles suspects, one at a time, until `stop`.
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
                () = stop.stopped() => return, // the bus nacks the suspect
            };
            if let Some((job, _alone, _beside)) = begun {
                self.handle(job, context, &handlers, &taken_over).await;
            }
        }
    }

    /// Returns the next suspect that may run, and how long to wait for other deliveries to end; `None` once stopped.
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
            // before the state is read: a wake-up between reading and waiting is not lost
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
                () = self.sleep_until(until) => self.work.notify_waiters(), // workers may wait for this time too
                _ = handlers.changes.changed() => handlers.is_stale = true,
                () = stop.stopped() => {}
            }
        }
    }

    /// Waits until the bus has persisted that a suspect begins; `None` if it is not in flight any more.
    async fn start_noted(&self, number: u64, worker: &Arc<Notify>) -> Option<Job> {
        loop {
            let mut changed = std::pin::pin!(self.work.notified());
            changed.as_mut().enable();
            let start_note = self.state().take_started(number, worker, self.clock.instant());
            match start_note {
                StartNote::Started(job) => return Some(job),
                StartNote::Released => return None,
                StartNote::Pending => changed.await,
            }
        }
    }
}
