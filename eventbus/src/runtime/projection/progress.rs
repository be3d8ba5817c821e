//! Progress of a projection: its position, its stops and its problems.

use std::sync::Arc;

use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::{ProjectionError, meter::ProjectionMeter};
use crate::{
    domain::{
        clock::SharedClock,
        error::{BoxError, ErrorLine},
        record::RecordedEvent,
        shown::{lasted, rfc3339},
        stream::Position,
    },
    port::{
        EventStore, ServerFault,
        delivery::HandlerError,
        health::{CatchingUp, WaitingForServer},
    },
    runtime::definition::{ProjectionDefinition, ProjectionKind},
};

/// Progress of a projection in this process.
#[derive(Debug, Clone, Default)]
pub(super) struct ProjectionProgress {
    pub(super) position: Position,
    /// Grows whenever the position is set back or the state is replaced: the reader of the feed starts anew.
    pub(super) generation: u64,
    /// Set while the checkpoint in the store has yet to be set back too.
    pub(super) must_reset_checkpoint: bool,
    /// Number of events handled since the last restart.
    pub(super) events: u64,
    pub(super) stopped: Option<ProjectionError>,
    /// The error that makes the feed or the checkpoint unavailable at the moment.
    pub(super) problem: Option<String>,
    /// Time of the first such error.
    pub(super) problem_since: Option<OffsetDateTime>,
    /// The database's own report of the problem, if it has one.
    pub(super) server_fault: Option<ServerFault>,
    /// Time of the last stop, also of one that has ended.
    pub(super) stopped_since: Option<OffsetDateTime>,
    /// Position of the stop: a later one ends it.
    pub(super) stopped_at: Position,
    /// Set while this process feeds it.
    pub(super) is_owner: bool,
    /// Set once the app that fed it was shut down.
    pub(super) is_app_stopped: bool,
    /// The lowest head of the feed since the app started: the head at the start, or a lower one of a server that took
    /// over. `None` until the store has answered.
    pub(super) first_head: Option<Position>,
    /// Set once the position has reached `first_head`.
    pub(super) has_caught_up: bool,
}

impl ProjectionProgress {
    /// Returns the server that it waits for, if its store is not available.
    pub(super) fn waiting(&self, name: &'static str) -> Option<WaitingForServer> {
        let since = self.problem_since?;
        let fault = self.server_fault.as_ref().map_or_else(|| "it cannot be used".into(), ToString::to_string);
        Some(WaitingForServer { name: name.into(), fault, since: rfc3339(since) })
    }

    /// Returns its progress if its process is not ready before it includes more events: its state is in memory, and has yet
    /// to reach the first head. A stop ends this for good: all processes would be unready, or become so when they go on.
    pub(super) fn catching_up(&self, definition: &ProjectionDefinition) -> Option<CatchingUp> {
        let may_catch_up =
            self.stopped_since.is_none() || matches!(self.stopped, Some(ProjectionError::WentBack { .. }));
        let is_behind = definition.kind == ProjectionKind::InMemory && !self.has_caught_up && may_catch_up;
        is_behind.then(|| CatchingUp { name: definition.name.into(), position: self.position })
    }

    /// Returns why the position will not grow any more; `None` if it may.
    pub(super) fn end_reason(&self, name: &'static str) -> Option<ProjectionError> {
        let shut_down = ProjectionError::ShutDown { name, position: self.position };
        self.stopped.clone().or(self.is_app_stopped.then_some(shut_down))
    }
}

/// Marks a projection as fed by an app, until dropped.
pub(super) struct FeedGuard<'a>(&'a watch::Sender<ProjectionProgress>);

impl Drop for FeedGuard<'_> {
    fn drop(&mut self) {
        // after a panic the app begins it anew, and a different process may feed it by then
        let is_app_stopped = !std::thread::panicking();
        self.0.send_modify(|progress| (progress.is_app_stopped, progress.is_owner) = (is_app_stopped, false));
    }
}

/// The progress cell of a projection: its feeder writes it, readers watch it, and the cell logs stops and outages.
pub(crate) struct ProgressCell {
    /// The name of the projection.
    projection: &'static str,
    progress: watch::Sender<ProjectionProgress>,
    /// The clock of the app that feeds it; behind a lock, as the app starts after the handle is made.
    clock: Mutex<SharedClock>,
    meter: Arc<ProjectionMeter>,
}

// lock order: methods read the clock before they change the watch, and log after that
impl ProgressCell {
    pub(super) fn new(projection: &'static str) -> Self {
        let (progress, clock, meter) = Default::default();
        Self { projection, progress, clock, meter }
    }

    pub(super) fn borrow(&self) -> watch::Ref<'_, ProjectionProgress> {
        self.progress.borrow()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<ProjectionProgress> {
        self.progress.subscribe()
    }

    pub(super) fn position(&self) -> Position {
        self.borrow().position
    }

    /// Waits by this clock from now on.
    pub(super) fn set_clock(&self, clock: SharedClock) {
        *self.clock.lock() = clock;
    }

    pub(super) fn clock(&self) -> SharedClock {
        self.clock.lock().clone()
    }

    /// The counters of the projection.
    pub(super) const fn meter(&self) -> &Arc<ProjectionMeter> {
        &self.meter
    }

    /// Raises the position to `position`, if it is lower.
    pub(super) fn raise_position(&self, position: Position) {
        self.update(|progress| {
            progress.position = progress.position.max(position);
            true
        });
    }

    /// Notes a head of the feed: state in memory has caught up once its position has reached the lowest one.
    pub(crate) fn note_head(&self, head: Position) {
        self.update(|progress| {
            let is_lowest = progress.first_head.is_none_or(|first| head < first);
            if is_lowest {
                progress.first_head = Some(head);
            }
            is_lowest
        });
    }

    /// Records that the state is replaced by one that includes all events up to `position`: the feed is read anew.
    pub(super) fn record_replacement(&self, position: Position) {
        self.update(|progress| {
            progress.position = position;
            progress.generation += 1;
            progress.stopped = None;
            true
        });
    }

    /// Records that all events up to `position` are handled, `events` more. Returns `false` if the position was set
    /// back meanwhile.
    pub(super) fn advance(&self, events: u64, position: Position, generation: u64) -> bool {
        let mut current = true;
        self.update(|progress| {
            current = progress.generation == generation;
            let moved = current && progress.position < position;
            if moved {
                progress.position = position;
                progress.events += events;
            }
            moved
        });
        current
    }

    /// Records that this process, the owner, has handled `events` more, and all events up to `position`.
    pub(super) fn advance_by_owner(&self, events: u64, position: Position) {
        self.meter.count_events(events);
        self.update(|progress| {
            progress.position = position;
            progress.events += events;
            true
        });
    }

    /// Applies `change` and returns its result. Resumes a projection that gets past its stop; logs each end of a stop.
    fn update(&self, change: impl FnOnce(&mut ProjectionProgress) -> bool) -> bool {
        let mut ended_since = None;
        let changed = self.progress.send_if_modified(|progress| {
            let since = progress.stopped_since.filter(|_| progress.stopped.is_some());
            let changed = change(progress);
            if changed && progress.position > progress.stopped_at {
                progress.stopped = None;
            }
            progress.has_caught_up |= progress.first_head.is_some_and(|head| progress.position >= head);
            ended_since = since.filter(|_| progress.stopped.is_none());
            changed
        });
        if let Some(since) = ended_since {
            self.log_recovery(since);
        }
        changed
    }

    /// Takes the position of the checkpoint, also a lower one, unless the checkpoint is to be set back. Returns `true`
    /// if the position has changed.
    pub(super) fn follow_checkpoint(&self, position: Position) -> bool {
        self.update(|progress| {
            let moved = progress.position != position && !progress.must_reset_checkpoint;
            if !moved {
                return false;
            }
            if position < progress.position {
                progress.generation += 1;
            }
            progress.position = position;
            true
        })
    }

    /// Sets the position back to `position`, if it is higher, and returns position and generation; `None` if it was set back,
    /// or the state replaced, since `generation`.
    pub(super) fn set_back(&self, position: Position, generation: u64) -> Option<(Position, u64)> {
        let mut set_back = None;
        self.update(|progress| {
            let is_current = progress.generation == generation;
            let moves = is_current && position < progress.position;
            if moves {
                (progress.position, progress.generation) = (position, generation + 1);
            }
            set_back = is_current.then_some((progress.position, progress.generation));
            moves
        });
        set_back
    }

    /// Records that the checkpoint was set back too, unless the position was set back again meanwhile.
    pub(super) fn confirm_checkpoint_reset(&self, generation: u64) {
        self.progress.send_if_modified(|progress| {
            progress.must_reset_checkpoint &= progress.generation != generation;
            false
        });
    }

    /// Records whether this process feeds it.
    pub(super) fn set_owner(&self, is_owner: bool) {
        self.progress.send_modify(|progress| progress.is_owner = is_owner);
    }

    /// Returns `true` if it stopped at the event at `wanted`.
    fn is_stopped_at(&self, wanted: Position) -> bool {
        let progress = self.borrow();
        matches!(&progress.stopped, Some(ProjectionError::Stopped { position, .. }) if *position == wanted)
    }

    /// Returns `true` if skipping this event may resume it: it stopped at the event, or before a damaged one, which may
    /// be this one.
    pub(crate) fn may_resume_after(&self, skipped: Position) -> bool {
        let progress = self.borrow();
        let is_before =
            matches!(&progress.stopped, Some(ProjectionError::Damaged { position, .. }) if *position <= skipped);
        drop(progress);
        is_before || self.is_stopped_at(skipped)
    }

    /// Returns `true` if it stopped before an event that cannot be read: it has handled all events before it, and no
    /// part of it.
    pub(crate) fn is_stopped_before_damage(&self) -> bool {
        matches!(&self.borrow().stopped, Some(ProjectionError::Damaged { .. }))
    }

    /// Resumes it. Returns `false` if it was not stopped.
    pub(crate) fn resume(&self) -> bool {
        self.update(|progress| progress.stopped.take().is_some())
    }

    /// Resumes it if the reason of its stop is gone: events that an older release missed, or an event that could not be
    /// read.
    pub(super) fn resume_if(&self, is_gone: impl FnOnce(&ProjectionError) -> bool) {
        self.update(|progress| progress.stopped.take_if(|stopped| is_gone(stopped)).is_some());
    }

    /// Resumes it if a different process has handled the event before which it stopped.
    pub(super) fn resume_past(&self, checkpoint: Position) {
        self.update(|progress| {
            let is_past = matches!(
                &progress.stopped,
                Some(ProjectionError::Stopped { position, .. } | ProjectionError::Damaged { position, .. })
                    if *position <= checkpoint
            );
            if is_past {
                progress.stopped = None;
                progress.position = checkpoint;
            }
            is_past
        });
    }

    /// Sets the position back to the start, so that the owner handles the whole feed again.
    pub(super) fn restart(&self) {
        self.update(|progress| {
            progress.position = Position::START;
            progress.generation += 1;
            progress.events = 0;
            progress.must_reset_checkpoint = true;
            progress.stopped = None;
            true
        });
    }

    /// Waits until the position was set back, or the state replaced, since `generation`.
    pub(super) async fn wait_for_restart(&self, generation: u64) {
        // an error would mean a dropped sender, which `self` owns
        let _ = self.subscribe().wait_for(|progress| progress.generation != generation).await;
    }

    /// Follows the checkpoint again, which belongs to a different process and was not set back.
    pub(super) fn undo_restart(&self) {
        self.progress.send_modify(|progress| progress.must_reset_checkpoint = false);
    }

    /// Sets or clears the error that makes the feed or the checkpoint unavailable. Returns `true` if an outage begins.
    pub(super) fn set_problem(&self, problem: Option<(String, Option<ServerFault>)>) -> bool {
        let (problem, server_fault) = problem.map_or((None, None), |(problem, fault)| (Some(problem), fault));
        let (mut began, mut ended_since, now) = (false, None, self.clock().now());
        self.progress.send_if_modified(|progress| {
            let changed = progress.problem != problem;
            began = progress.problem.is_none() && problem.is_some();
            ended_since = progress.problem_since.filter(|_| problem.is_none());
            progress.problem_since = match problem {
                Some(_) => progress.problem_since.or(Some(now)),
                None => None,
            };
            (progress.problem, progress.server_fault) = (problem, server_fault);
            changed
        });
        if let Some(since) = ended_since {
            self.log_recovery(since);
        }
        began
    }

    /// Logs the end of a stop or an outage.
    fn log_recovery(&self, since: OffsetDateTime) {
        tracing::info!(projection = self.projection, lasted = ?lasted(since, self.clock().now()), "projection goes on");
    }

    /// Marks it as fed by an app, until the guard is dropped.
    pub(super) fn feed_guard(&self) -> FeedGuard<'_> {
        self.progress.send_modify(|progress| progress.is_app_stopped = false);
        FeedGuard(&self.progress)
    }

    /// Stops before an event that could not be handled, unless the position was set back meanwhile.
    pub(super) fn stop_at(&self, record: &RecordedEvent, error: &HandlerError, generation: u64) {
        let position = record.position().unwrap_or(Position::START);
        if self.is_stopped_at(position) {
            tracing::warn!(projection = self.projection, %position, %error, "projection still cannot handle the event");
        } else {
            tracing::error!(
                projection = self.projection, %position, event_type = %record.event_type(), %error,
                "projection stopped before an event and retries it every minute: fix its error, or skip the event"
            );
        }
        self.stop(ProjectionError::Stopped { name: self.projection, position, error: error.to_string() }, generation);
    }

    /// Stops state in memory until it is folded anew, from the start: an older copy, which ends at `head`, has replaced the
    /// store. Not if a rebuild has replaced the state since `generation`.
    pub(super) fn stop_behind(&self, head: Position, generation: u64) {
        tracing::error!(
            projection = self.projection,
            "an older copy has replaced the store, which lacks events that the state in memory includes: it is folded anew"
        );
        // the store has answered
        self.set_problem(None);
        let now = self.clock().now();
        self.progress.send_if_modified(|progress| {
            let is_current = progress.generation == generation;
            if is_current {
                progress.stopped = Some(ProjectionError::WentBack { name: self.projection });
                (progress.stopped_since, progress.stopped_at) = (Some(now), head);
                (progress.position, progress.generation) = (Position::START, generation + 1);
                (progress.has_caught_up, progress.first_head) = (false, Some(head));
            }
            is_current
        });
    }

    /// Stops before an event that the store cannot read.
    pub(super) fn stop_at_damage(&self, error: &BoxError) {
        let name = self.projection;
        let (position, generation) = {
            let progress = self.borrow();
            (Position::new(progress.position.get() + 1), progress.generation)
        };
        let error = ErrorLine(&**error).to_string();
        if matches!(&self.borrow().stopped, Some(ProjectionError::Damaged { .. })) {
            tracing::warn!(projection = name, %position, error, "projection still cannot read the event");
        } else {
            tracing::error!(
                projection = name, %position, error,
                "projection stopped before an event that cannot be read and retries it every minute: repair or skip it"
            );
        }
        self.stop(ProjectionError::Damaged { name, position, error }, generation);
    }

    /// Stops, unless the position was set back meanwhile.
    pub(super) fn stop(&self, error: ProjectionError, generation: u64) {
        // the store has answered
        self.set_problem(None);
        let now = self.clock().now();
        self.progress.send_if_modified(|progress| {
            let current = progress.generation == generation;
            if current && progress.stopped.replace(error).is_none() {
                (progress.stopped_since, progress.stopped_at) = (Some(now), progress.position);
            }
            current
        });
    }

    /// Reports an error of the store; logs a warning if an outage begins with it.
    pub(super) fn report_problem(&self, error: &BoxError, store: &dyn EventStore) {
        let fault = store.server_fault(&**error);
        let (projection, error) = (self.projection, ErrorLine(&**error).to_string());
        if self.set_problem(Some((error.clone(), fault))) {
            tracing::warn!(projection, error, "projection cannot use its store, trying again");
        } else {
            tracing::debug!(projection, error, "projection still cannot use its store");
        }
    }
}
