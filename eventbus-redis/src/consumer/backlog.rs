//! A group's consumer and the backlog of the group: it comes before everything else where the group is new, until all that
//! is left of it is tried again or waits for others; then, and otherwise, it is read beside the stream.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use eventbus::{
    Name,
    port::{Hand, Places, SkippedBefore, StopSignal, Subscribers},
};
use tokio_util::sync::CancellationToken;

use super::{Consumer, OWNER, consume_stream, trouble::Trouble};
use crate::{
    backlog::{Backlog, noted},
    bus::Shared,
    connection::CommandError,
};

/// How often is looked for a backlog.
const LOOK: Duration = Duration::from_secs(1);
/// How often is looked whether one is finished, at most; while nothing changes it is looked less often.
const LOOK_SOON: Duration = Duration::from_millis(50);

/// The backlog of one group, as one consumer of it sees it.
pub(super) struct GroupBacklog {
    shared: Arc<Shared>,
    group: Name,
    /// Those that it shares with the stream.
    places: Places,
    /// Whether the stream may be read: nothing comes before it any more that need not wait.
    is_past: CancellationToken,
    /// What was announced last, so that it is announced again when it changed.
    announced: Vec<eventbus::port::Announced>,
    /// What the server noted of that, so that it is announced again when the server lost it.
    noted: Vec<String>,
    /// The stores, separated by spaces, of which the log said last that no process with them is here.
    absent_stores: String,
}

impl Consumer {
    /// Whether what was just read must wait for a backlog of the group. A group that was made before a store's relay had
    /// adopted the stream, as after the server has lost it, may be given a backlog with the first entries.
    pub(super) async fn is_behind_backlog(&self) -> Result<bool, CommandError> {
        if self.shared.is_backlog() || self.is_past_backlog.load(Ordering::Acquire) {
            return Ok(false);
        }
        let is_behind = self.shared.is_backlog_first(&self.group).await?;
        if !is_behind {
            self.hold_back().await?;
        }
        self.is_past_backlog.store(!is_behind, Ordering::Release);
        Ok(is_behind)
    }

    /// Waits while a backlog comes first; it is handled beside.
    pub(super) async fn wait_for_backlog(&self, stop: &StopSignal) -> Result<(), CommandError> {
        while !stop.is_stopped() && self.is_behind_backlog().await? {
            tokio::select! {
                () = self.shared.config.clock.sleep(LOOK_SOON) => {}
                () = stop.stopped() => {}
            }
        }
        Ok(())
    }
}

impl GroupBacklog {
    pub(super) fn new(shared: &Arc<Shared>, group: &Name, places: Places) -> Self {
        let (shared, group, is_past) = (Arc::clone(shared), group.clone(), CancellationToken::new());
        let (announced, noted) = (Vec::new(), Vec::new());
        Self { shared, group, places, is_past, announced, noted, absent_stores: String::new() }
    }

    /// Says when the stream may be read.
    pub(super) const fn is_past(&self) -> &CancellationToken {
        &self.is_past
    }

    /// Announces what the group handles, makes it, and handles its backlogs until it is to stop: that with which a new
    /// group begins, and what it skipped of types that it handles now.
    pub(super) async fn consume(&mut self, stop: &StopSignal) {
        let mut trouble = Trouble::new("reading", self.group.clone());
        while !stop.is_stopped() && !self.is_past.is_cancelled() {
            match self.begin(stop).await {
                Ok(()) => trouble.is_over(),
                Err(error) => self.wait(trouble.happened(&error), stop).await,
            }
        }
        let subscribers: Subscribers = self.shared.subscribers.clone();
        let mut changes = subscribers.watch();
        while !stop.is_stopped() {
            // the reader of the stream logs the outage
            if let Err(error) = self.look(stop).await {
                tracing::debug!(group = %self.group, %error, "no backlog could be looked for, trying again");
            }
            tokio::select! {
                () = self.wait(LOOK, stop) => {}
                _ = changes.changed() => {}
            }
        }
    }

    async fn begin(&mut self, stop: &StopSignal) -> Result<(), CommandError> {
        self.announce_soon().await;
        for part in self.shared.parts() {
            let is_new: bool = self.shared.link.rerun(&part.create_listed_group(&self.group)).await?;
            if is_new {
                tracing::info!(group = %self.group, stream = part.stream, "group created");
            }
        }
        if let Backlog::More { is_first: true, .. } = self.shared.look_at_backlog(&self.group).await? {
            tracing::info!(group = %self.group, "the group is new: it begins with what the stores hold, then reads the stream");
            self.handle(stop).await?;
        }
        self.is_past.cancel();
        Ok(())
    }

    async fn look(&mut self, stop: &StopSignal) -> Result<(), CommandError> {
        self.announce().await?;
        if let Backlog::More { .. } = self.shared.look_at_backlog(&self.group).await? {
            self.handle(stop).await?;
        }
        Ok(())
    }

    async fn wait(&self, time: Duration, stop: &StopSignal) {
        tokio::select! {
            () = self.shared.config.clock.sleep(time) => {}
            () = stop.stopped() => {}
        }
    }

    /// Announces what the group handles, now or later: a server without memory refuses it.
    async fn announce_soon(&mut self) {
        if let Err(error) = self.announce().await {
            tracing::debug!(group = %self.group, %error, "what the group handles is announced later");
        }
    }

    async fn announce(&mut self) -> Result<(), CommandError> {
        let announced = self.shared.subscribers.announced(&self.group);
        if announced == self.announced && self.shared.has_noted(&self.group, &self.noted).await? {
            return Ok(());
        }
        let undecided = self.shared.announce(&announced).await?;
        undecided.iter().for_each(SkippedBefore::log);
        self.noted = noted(&announced, &undecided);
        self.announced = announced;
        Ok(())
    }

    /// Handles the backlog to its end.
    async fn handle(&mut self, stop: &StopSignal) -> Result<(), CommandError> {
        let (until, finished) = stop.or_earlier();
        let backlog = Arc::new(self.shared.backlog_of(&self.group));
        let hand = backlog.hand(&self.places);
        let consume = Box::pin(consume_stream(backlog, self.group.clone(), Arc::clone(&hand), until.clone()));
        let watch = async {
            let ended = self.watch(&hand, &until).await;
            finished.cancel();
            ended
        };
        let (ended, ()) = tokio::join!(watch, consume);
        // what was made anew by a consumer that had not noticed
        self.shared.look_at_backlog(&self.group).await?;
        ended
    }

    async fn watch(&mut self, hand: &Hand, stop: &StopSignal) -> Result<(), CommandError> {
        let (mut before, mut pause) = (Backlog::None, LOOK_SOON);
        while !stop.is_stopped() {
            self.announce_soon().await;
            let found = self.shared.look_at_backlog_as(&self.group, self.retried(hand)).await?;
            pause = if found == before { (pause * 2).min(LOOK) } else { LOOK_SOON };
            match &found {
                Backlog::None | Backlog::Finished => {
                    self.absent_stores.clear();
                    tracing::info!(group = %self.group, "the backlog of the group is finished");
                    return Ok(());
                }
                Backlog::More { is_first, forsaken, copies, .. } => {
                    for copy in copies {
                        self.shared.copy_to_backlog(&self.group, copy, stop).await?;
                    }
                    self.log_absent_stores(forsaken);
                    if !forsaken.is_empty() || !is_first {
                        self.is_past.cancel(); // the rest is handled beside the stream
                    }
                }
            }
            before = found;
            self.wait(pause, stop).await;
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
    fn retried(&self, hand: &Hand) -> Option<(&str, usize)> {
        let name = if self.shared.partitions.is_empty() { &self.shared.consumer } else { OWNER };
        (!hand.is_empty()).then(|| (name, hand.retried()))
    }
}
