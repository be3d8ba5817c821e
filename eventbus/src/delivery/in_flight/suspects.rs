//! Suspects: entries that were in flight when the process that had them ended. One of them may be the cause.
//!
//! To find it, the consumer runs each suspect alone, after a delay: for ten seconds no other delivery of the bus runs beside
//! it. If the process ends during that run, the cause is this entry or chance; after five such ends in a row the entry
//! becomes a dead letter. If others run on for as long as its delay was, the suspect runs beside them, and so do the
//! suspects of the next ten seconds with no longer delay: no delivery of the bus begins during such a wait, and one
//! after the other they would stall all groups. A suspect whose process ended while it ran alone always waits. An entry
//! that only waited for a retry, or was blocked behind an earlier one of its aggregate, is no suspect.
//!
//! Invariant: the bus persists that a suspect begins before the handlers run. In the other order, a process end that it
//! causes would not count.
//!
//! This table shows the attempts that the bus persists at each step; [`state`](super::state) has all transitions.
//!
//! | stage | event | next stage | persisted attempts |
//! |---|---|---|---|
//! | – | added; in flight when its process ended | `Waiting` | `process_ends` + 1; `next_at`: in 1 s, 2 s … 1 min |
//! | – | the same, with `ended_alone` at 5 | `DeadLettering` | moved to the dead letters |
//! | – | added as a suspect; its process was slow, and lives | `Suspect` | later: `ended_alone` - 1 |
//! | `Waiting` | its delay has passed; the bus has read it again | `Suspect` | – |
//! | `Suspect` | no other delivery runs | `NotingStart` | `ended_alone` + 1, in advance; no `next_at` |
//! | `Suspect` | other deliveries run on for as long as its delay was | `NotingStart` | no `next_at` |
//! | `Suspect`, `ended_alone` at 0 | others ran on for as long, for another suspect, in the last ten seconds | `NotingStart` | no `next_at` |
//! | `NotingStart` | the bus has persisted that it begins | `StartNoted`, `Running` | – |
//! | `NotingStart`, `StartNoted` | nacked | – | `ended_alone` as before; `next_at`: now |
//! | `Running` | runs for ten seconds | `Running`, beside others | – |
//! | `Running` | handled, or failed as any other entry | see [`state`](super::state) | `process_ends` and `ended_alone`: 0 |
//! | `Running` | its group has no handlers any more | `Suspect` | later: `ended_alone` - 1, if it ran alone |
//! | `Running` | aborted at the deadline of a shutdown, by a bus that saves that | – | `ended_alone` as before; `next_at`: now |
//! | `Running` | the process ends | – | – |

use std::{pin::pin, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::Notify, task::JoinSet};

use super::{
    entries::InFlight,
    group_context::{GroupContext, GroupHandlers, RunGuard},
    job::handle,
    state::{Job, NextSuspect, StartNote},
};
use crate::{
    delivery::{StopSignal, run::LONG_RUN_AFTER},
    domain::clock::SharedClock,
};

/// Keeps a suspect alone until this is dropped, for [`LONG_RUN_AFTER`] at most: the handler may never end, and may
/// block its thread.
struct RunAlone {
    /// Locked: the run and the task that releases it both drop it.
    guard: Arc<Mutex<Option<RunGuard>>>,
    _release: JoinSet<()>,
}

impl RunAlone {
    fn begin(guard: RunGuard, clock: SharedClock) -> Self {
        let guard = Arc::new(Mutex::new(Some(guard)));
        let (held, mut release) = (Arc::clone(&guard), JoinSet::new());
        release.spawn(async move {
            clock.sleep(LONG_RUN_AFTER).await;
            held.lock().take();
        });
        Self { guard, _release: release }
    }
}

impl Drop for RunAlone {
    fn drop(&mut self) {
        self.guard.lock().take();
    }
}

/// The task of a consumer that handles suspects, one at a time.
pub(super) struct SuspectRunner {
    in_flight: Arc<InFlight>,
    context: GroupContext,
    stop: StopSignal,
}

impl SuspectRunner {
    pub(super) const fn new(in_flight: Arc<InFlight>, context: GroupContext, stop: StopSignal) -> Self {
        Self { in_flight, context, stop }
    }

    /// Handles suspects until the consumer stops.
    pub(super) async fn run(&self) {
        let taken_over = Arc::new(Notify::new());
        let mut handlers = GroupHandlers::new(&self.context);
        while let Some((number, delay, has_ended_alone)) = self.next_suspect(&mut handlers).await {
            let begun = async {
                let (run_lock, clock) = (&self.context.run_lock, self.in_flight.clock());
                let alone = match !has_ended_alone && run_lock.is_busy(delay, clock) {
                    true => None,
                    false => run_lock.exclusive_within(delay, clock).await,
                };
                let beside = if alone.is_none() { Some(run_lock.shared().await) } else { None };
                if !self.in_flight.note_start(number, alone.is_some()) {
                    return None;
                }
                Some((self.start_noted(number, &taken_over).await?, alone, beside))
            };
            // once the consumer stops, the bus nacks the suspect
            let Some(begun) = self.stop.run_until_stopped(begun).await else { return };
            if let Some((job, alone, _beside)) = begun {
                let _alone = alone.map(|guard| RunAlone::begin(guard, self.in_flight.clock().clone()));
                handle(&self.in_flight, job, &self.context, &handlers, &taken_over).await;
            }
        }
    }

    /// Returns the next suspect that may run, how long to wait for other deliveries to end, and `true` if its process
    /// ended while it ran alone; `None` once stopped.
    async fn next_suspect(&self, handlers: &mut GroupHandlers) -> Option<(u64, Duration, bool)> {
        loop {
            if self.stop.is_stopped() {
                return None;
            }
            // before the state is read: a wake-up between reading and waiting is not lost
            let mut changed = pin!(self.in_flight.woken());
            changed.as_mut().enable();
            handlers.refresh(&self.context);
            let due = match handlers.current.is_empty() {
                true => NextSuspect::Later(None),
                false => self.in_flight.next_suspect(),
            };
            let until = match due {
                NextSuspect::Now { number, delay, has_ended_alone } => return Some((number, delay, has_ended_alone)),
                NextSuspect::Later(until) => until,
            };
            tokio::select! {
                () = changed => {}
                () = self.in_flight.sleep_until(until) => self.in_flight.wake_workers(), // workers may wait for this time too
                _ = handlers.changes.changed() => handlers.is_stale = true,
                () = self.stop.stopped() => {}
            }
        }
    }

    /// Waits until the bus has persisted that a suspect begins; `None` if it is not in flight any more.
    async fn start_noted(&self, number: u64, worker: &Arc<Notify>) -> Option<Job> {
        loop {
            let mut changed = pin!(self.in_flight.woken());
            changed.as_mut().enable();
            match self.in_flight.take_started(number, worker) {
                StartNote::Started(job) => return Some(job),
                StartNote::Released => return None,
                StartNote::Pending => changed.await,
            }
        }
    }
}
