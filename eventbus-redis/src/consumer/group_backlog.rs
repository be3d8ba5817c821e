//! The backlog of a group, as its consumer processes it.
//!
//! In a new group the backlog comes before the stream, until each remaining entry waits for a retry or for an
//! absent member. From then on, and in a group that is not new, the consumer reads both side by side.

use std::{sync::Arc, time::Duration};

use eventbus::{
    Name,
    delivery::{InFlight, StopSignal, Subscribers, WorkerSlots},
    port::SkippedBefore,
};
use tokio_util::sync::CancellationToken;

use super::{backlog_gate::BACKLOG_POLL_INTERVAL_MIN, consume_stream, inner::PARTITION_OWNER, outage_log::OutageLog};
use crate::{
    backlog::{self, BacklogState, types_to_record},
    consumer,
    error::CommandError,
    group,
    inner::BusInner,
};

/// Interval between two checks for a backlog.
const BACKLOG_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The backlog of one group, as one of its consumers sees it.
///
/// | state | event | next state |
/// |---|---|---|
/// | starting | the server has no backlog that comes first | stream |
/// | starting | the server has a backlog that comes first | backlog first |
/// | backlog first | each remaining entry waits, or a store with missing events has no live process | side by side |
/// | backlog first, side by side | the backlog is finished | stream |
/// | stream | a poll finds an unfinished backlog | side by side |
/// | stream | the reader read entries of a group whose backlog comes first again | side by side; the reader waits |
///
/// `stream_ready` is cancelled on the first change to "stream" or "side by side".
pub(super) struct GroupBacklog {
    bus: Arc<BusInner>,
    group: Name,
    /// Shared with the consumer's in-flight entries of the stream.
    worker_slots: WorkerSlots,
    /// Cancelled once the stream may be read: the backlog has no entry that comes first and can be handled now.
    stream_ready: CancellationToken,
    /// The last announcement; the consumer announces again when it changes.
    last_announced: Vec<eventbus::port::Announced>,
    /// Types that the server recorded for it; the consumer announces again when the server loses them.
    recorded_types: Vec<String>,
    /// Stores, separated by spaces, last logged as having no live process.
    absent_stores: String,
}

impl GroupBacklog {
    pub(super) fn new(bus: &Arc<BusInner>, group: &Name, worker_slots: WorkerSlots) -> Self {
        Self {
            bus: Arc::clone(bus),
            group: group.clone(),
            worker_slots,
            stream_ready: CancellationToken::new(),
            last_announced: Vec::new(),
            recorded_types: Vec::new(),
            absent_stores: String::new(),
        }
    }

    /// Returns the token that is cancelled once the stream may be read.
    pub(super) const fn stream_ready(&self) -> &CancellationToken {
        &self.stream_ready
    }

    /// Announces the group's types, creates the group, and handles its backlogs until `stop`: the backlog of a new
    /// group, and of skipped events whose types the group handles now.
    pub(super) async fn consume(&mut self, stop: &StopSignal) {
        let mut outage_log = OutageLog::new("reading", self.group.clone());
        while !stop.is_stopped() && !self.stream_ready.is_cancelled() {
            match self.start(stop).await {
                Ok(()) => outage_log.record_success(),
                Err(error) => self.sleep_or_stop(outage_log.record_failure(&error), stop).await,
            }
        }
        let subscribers: Subscribers = self.bus.subscribers().clone();
        let mut changes = subscribers.watch();
        while !stop.is_stopped() {
            // the reader of the stream logs the outage
            if let Err(error) = self.poll(stop).await {
                tracing::debug!(group = %self.group, %error, "the backlog could not be checked; trying again");
            }
            // a new handler is announced at once
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
                self.bus.connection().run_idempotent(&group::create_joined_group_script(part, &self.group)).await?;
            if is_new {
                tracing::info!(group = %self.group, stream = part.stream(), "group created");
            }
        }
        if let BacklogState::Unfinished { is_first: true, .. } =
            backlog::inspect_backlog(&self.bus, &self.group).await?
        {
            tracing::info!(group = %self.group, "the group is new: it begins with what the stores hold, then reads the stream");
            self.consume_backlog(stop).await?;
        }
        self.stream_ready.cancel();
        Ok(())
    }

    async fn poll(&mut self, stop: &StopSignal) -> Result<(), CommandError> {
        self.announce().await?;
        if let BacklogState::Unfinished { .. } = backlog::inspect_backlog(&self.bus, &self.group).await? {
            self.consume_backlog(stop).await?;
        }
        Ok(())
    }

    async fn sleep_or_stop(&self, time: Duration, stop: &StopSignal) {
        stop.run_until_stopped(self.bus.config().clock.sleep(time)).await;
    }

    /// Announces the group's types, or leaves it to the next poll: a server out of memory refuses it.
    async fn try_announce(&mut self) {
        if let Err(error) = self.announce().await {
            tracing::debug!(group = %self.group, %error, "the group's types could not be announced; retrying later");
        }
    }

    async fn announce(&mut self) -> Result<(), CommandError> {
        let announced = self.bus.subscribers().announced(&self.group);
        if announced == self.last_announced
            && backlog::has_recorded_types(&self.bus, &self.group, &self.recorded_types).await?
        {
            return Ok(());
        }
        let undecided = backlog::announce_each(&self.bus, &announced).await?;
        undecided.iter().for_each(SkippedBefore::log);
        self.recorded_types = types_to_record(&announced, &undecided);
        self.last_announced = announced;
        Ok(())
    }

    /// Handles the backlog until it is finished.
    async fn consume_backlog(&mut self, stop: &StopSignal) -> Result<(), CommandError> {
        let (until, finished) = stop.child();
        let backlog = Arc::new(self.bus.for_backlog(&self.group));
        let in_flight = consumer::new_in_flight(&backlog, &self.worker_slots);
        let consume = Box::pin(consume_stream(backlog, self.group.clone(), Arc::clone(&in_flight), until.clone()));
        let watch = async {
            let ended = self.watch_backlog(&in_flight, &until).await;
            finished.cancel();
            ended
        };
        let (ended, ()) = tokio::join!(watch, consume);
        // removes keys that a consumer has created again, because it had not noticed the end
        backlog::inspect_backlog(&self.bus, &self.group).await?;
        ended
    }

    async fn watch_backlog(&mut self, in_flight: &InFlight, stop: &StopSignal) -> Result<(), CommandError> {
        let (mut before, mut pause) = (BacklogState::None, BACKLOG_POLL_INTERVAL_MIN);
        while !stop.is_stopped() {
            self.try_announce().await;
            let found = backlog::inspect_backlog_as(&self.bus, &self.group, self.count_retried(in_flight)).await?;
            pause = if found == before { (pause * 2).min(BACKLOG_POLL_INTERVAL) } else { BACKLOG_POLL_INTERVAL_MIN };
            match &found {
                BacklogState::None | BacklogState::Finished => {
                    self.absent_stores.clear();
                    tracing::info!(group = %self.group, "the backlog of the group is finished");
                    return Ok(());
                }
                BacklogState::Unfinished { is_first, missing_stores: stores, pending_copies: copies, .. } => {
                    for copy in copies {
                        backlog::copy_to_backlog(&self.bus, &self.group, copy, stop).await?;
                    }
                    self.log_absent_stores(stores);
                    if !stores.is_empty() || !is_first {
                        self.stream_ready.cancel(); // the rest is handled beside the stream
                    }
                }
            }
            before = found;
            self.sleep_or_stop(pause, stop).await;
        }
        Ok(())
    }

    /// Logs when no live process has one of the stores whose events the group misses, and when all of them are back.
    fn log_absent_stores(&mut self, stores: &str) {
        if self.absent_stores == stores {
            return;
        }
        if stores.is_empty() {
            let stores = &self.absent_stores;
            tracing::info!(group = %self.group, stores, "a process with each of these stores is here again, or the store was forgotten");
        } else {
            tracing::error!(
                group = %self.group, stores,
                "the group misses events that only these stores have, and no process with one of them is here: \
                 start one, or forget a store that is gone for good with `RedisEventBus::retire_store`"
            );
        }
        stores.clone_into(&mut self.absent_stores);
    }

    /// Returns the consumer name on which the backlog's entries are pending, and how many of them wait for a retry.
    /// `None` if none are in flight here: a different process may then own the backlog.
    fn count_retried(&self, in_flight: &InFlight) -> Option<(&str, usize)> {
        let name = if self.bus.partitions().is_empty() { self.bus.consumer_name() } else { PARTITION_OWNER };
        (!in_flight.is_empty()).then(|| (name, in_flight.count_retried()))
    }
}
