//! A group's consumer and the backlog of the group: it comes before everything else where the group is new, until all that
//! is left of it is tried again or waits for others; then, and otherwise, it is read beside the stream.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use eventbus::{
    Name,
    port::{InFlight, SkippedBefore, StopSignal, Subscribers, WorkerSlots},
};
use tokio_util::sync::CancellationToken;

use super::{Consumer, PARTITION_OWNER, consume_stream, outage_log::OutageLog};
use crate::{
    backlog::{BacklogState, types_to_record},
    bus::BusInner,
    connection::CommandError,
};

/// How often is looked for a backlog.
const BACKLOG_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How often is looked whether one is finished, at most; while nothing changes it is looked less often.
const BACKLOG_POLL_INTERVAL_MIN: Duration = Duration::from_millis(50);

/// The backlog of one group, as one consumer of it sees it.
pub(super) struct GroupBacklog {
    bus: Arc<BusInner>,
    group: Name,
    /// Those that it shares with the stream.
    worker_slots: WorkerSlots,
    /// Whether the stream may be read: nothing comes before it any more that need not wait.
    stream_ready: CancellationToken,
    /// What was announced last, so that it is announced again when it changed.
    last_announced: Vec<eventbus::port::Announced>,
    /// What the server noted of that, so that it is announced again when the server lost it.
    recorded_types: Vec<String>,
    /// The stores, separated by spaces, of which the log said last that no process with them is here.
    absent_stores: String,
}

impl Consumer {
    /// Whether what was just read must wait for a backlog of the group. A group that was made before a store's relay had
    /// adopted the stream, as after the server has lost it, may be given a backlog with the first entries.
    pub(super) async fn must_wait_for_backlog(&self) -> Result<bool, CommandError> {
        if self.bus.is_backlog() || self.has_passed_backlog.load(Ordering::Acquire) {
            return Ok(false);
        }
        let is_behind = self.bus.is_backlog_first(&self.group).await?;
        if !is_behind {
            self.block_streams_in_backlog().await?;
        }
        self.has_passed_backlog.store(!is_behind, Ordering::Release);
        Ok(is_behind)
    }

    /// Waits while a backlog comes first; it is handled beside.
    pub(super) async fn wait_for_backlog(&self, stop: &StopSignal) -> Result<(), CommandError> {
        while !stop.is_stopped() && self.must_wait_for_backlog().await? {
            tokio::select! {
                () = self.bus.config.clock.sleep(BACKLOG_POLL_INTERVAL_MIN) => {}
                () = stop.stopped() => {}
            }
        }
        Ok(())
    }
}

impl GroupBacklog {
    pub(super) fn new(bus: &Arc<BusInner>, group: &Name, worker_slots: WorkerSlots) -> Self {
        let (bus, group, stream_ready) = (Arc::clone(bus), group.clone(), CancellationToken::new());
        let (announced, noted) = (Vec::new(), Vec::new());
        Self {
            bus,
            group,
            worker_slots,
            stream_ready,
            last_announced: announced,
            recorded_types: noted,
            absent_stores: String::new(),
        }
    }

    /// Says when the stream may be read.
    pub(super) const fn stream_ready(&self) -> &CancellationToken {
        &self.stream_ready
    }

    /// Announces what the group handles, makes it, and handles its backlogs until it is to stop: that with which a new
    /// group begins, and what it skipped of types that it handles now.
    pub(super) async fn consume(&mut self, stop: &StopSignal) {
        let mut outage_log = OutageLog::new("reading", self.group.clone());
        while !stop.is_stopped() && !self.stream_ready.is_cancelled() {
            match self.start(stop).await {
                Ok(()) => outage_log.record_success(),
                Err(error) => self.sleep_or_stop(outage_log.record_failure(&error), stop).await,
            }
        }
        let subscribers: Subscribers = self.bus.subscribers.clone();
        let mut changes = subscribers.watch();
        while !stop.is_stopped() {
            // the reader of the stream logs the outage
            if let Err(error) = self.poll(stop).await {
                tracing::debug!(group = %self.group, %error, "no backlog could be looked for, trying again");
            }
            tokio::select! {
                () = self.sleep_or_stop(BACKLOG_POLL_INTERVAL, stop) => {}
                _ = changes.changed() => {}
            }
        }
    }

    async fn start(&mut self, stop: &StopSignal) -> Result<(), CommandError> {
        self.try_announce().await;
        for part in self.bus.partitions_or_self() {
            let is_new: bool =
                self.bus.connection.run_idempotent(&part.create_joined_group_script(&self.group)).await?;
            if is_new {
                tracing::info!(group = %self.group, stream = part.stream, "group created");
            }
        }
        if let BacklogState::Unfinished { is_first: true, .. } = self.bus.inspect_backlog(&self.group).await? {
            tracing::info!(group = %self.group, "the group is new: it begins with what the stores hold, then reads the stream");
            self.consume_backlog(stop).await?;
        }
        self.stream_ready.cancel();
        Ok(())
    }

    async fn poll(&mut self, stop: &StopSignal) -> Result<(), CommandError> {
        self.announce().await?;
        if let BacklogState::Unfinished { .. } = self.bus.inspect_backlog(&self.group).await? {
            self.consume_backlog(stop).await?;
        }
        Ok(())
    }

    async fn sleep_or_stop(&self, time: Duration, stop: &StopSignal) {
        tokio::select! {
            () = self.bus.config.clock.sleep(time) => {}
            () = stop.stopped() => {}
        }
    }

    /// Announces what the group handles, now or later: a server without memory refuses it.
    async fn try_announce(&mut self) {
        if let Err(error) = self.announce().await {
            tracing::debug!(group = %self.group, %error, "what the group handles is announced later");
        }
    }

    async fn announce(&mut self) -> Result<(), CommandError> {
        let announced = self.bus.subscribers.announced(&self.group);
        if announced == self.last_announced && self.bus.has_recorded_types(&self.group, &self.recorded_types).await? {
            return Ok(());
        }
        let undecided = self.bus.announce(&announced).await?;
        undecided.iter().for_each(SkippedBefore::log);
        self.recorded_types = types_to_record(&announced, &undecided);
        self.last_announced = announced;
        Ok(())
    }

    /// Handles the backlog to its end.
    async fn consume_backlog(&mut self, stop: &StopSignal) -> Result<(), CommandError> {
        let (until, finished) = stop.child();
        let backlog = Arc::new(self.bus.for_backlog(&self.group));
        let in_flight = backlog.new_in_flight(&self.worker_slots);
        let consume = Box::pin(consume_stream(backlog, self.group.clone(), Arc::clone(&in_flight), until.clone()));
        let watch = async {
            let ended = self.watch_backlog(&in_flight, &until).await;
            finished.cancel();
            ended
        };
        let (ended, ()) = tokio::join!(watch, consume);
        // what was made anew by a consumer that had not noticed
        self.bus.inspect_backlog(&self.group).await?;
        ended
    }

    async fn watch_backlog(&mut self, in_flight: &InFlight, stop: &StopSignal) -> Result<(), CommandError> {
        let (mut before, mut pause) = (BacklogState::None, BACKLOG_POLL_INTERVAL_MIN);
        while !stop.is_stopped() {
            self.try_announce().await;
            let found = self.bus.inspect_backlog_as(&self.group, self.count_retried(in_flight)).await?;
            pause = if found == before { (pause * 2).min(BACKLOG_POLL_INTERVAL) } else { BACKLOG_POLL_INTERVAL_MIN };
            match &found {
                BacklogState::None | BacklogState::Finished => {
                    self.absent_stores.clear();
                    tracing::info!(group = %self.group, "the backlog of the group is finished");
                    return Ok(());
                }
                BacklogState::Unfinished { is_first, missing_stores: forsaken, pending_copies: copies, .. } => {
                    for copy in copies {
                        self.bus.copy_to_backlog(&self.group, copy, stop).await?;
                    }
                    self.log_absent_stores(forsaken);
                    if !forsaken.is_empty() || !is_first {
                        self.stream_ready.cancel(); // the rest is handled beside the stream
                    }
                }
            }
            before = found;
            self.sleep_or_stop(pause, stop).await;
        }
        Ok(())
    }

    /// Says when stores of which the group misses events are away, that is all processes with them, and when no more.
    fn log_absent_stores(&mut self, forsaken: &str) {
        if self.absent_stores == forsaken {
            return;
        }
        if forsaken.is_empty() {
            let stores = &self.absent_stores;
            tracing::info!(group = %self.group, stores, "a process with each of these stores is here again, or the store was forgotten");
        } else {
            tracing::error!(
                group = %self.group, stores = forsaken,
                "the group misses events that only these stores have, and no process with one of them is here: \
                 start one, or forget a store that is gone for good with `RedisEventBus::retire_store`"
            );
        }
        forsaken.clone_into(&mut self.absent_stores);
    }

    /// What is pending on its name there, and how much of it is tried again; nothing where it has nothing in hand, as then
    /// the backlog may be another one's.
    fn count_retried(&self, in_flight: &InFlight) -> Option<(&str, usize)> {
        let name = if self.bus.partitions.is_empty() { &self.bus.consumer_name } else { PARTITION_OWNER };
        (!in_flight.is_empty()).then(|| (name, in_flight.count_retried()))
    }
}
