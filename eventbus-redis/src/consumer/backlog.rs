//! A group's consumer and the backlog of the group: it comes before everything else where the group is new, and is read
//! beside the stream otherwise.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use eventbus::{
    Name,
    port::{SkippedBefore, StopSignal, Subscribers},
};

use super::{Consumer, consume_stream, trouble::Trouble};
use crate::{
    backlog::{Backlog, noted},
    bus::Shared,
    connection::CommandError,
};

/// How often is looked for a backlog.
const LOOK: Duration = Duration::from_secs(1);
/// How often is looked whether one is finished.
const LOOK_SOON: Duration = Duration::from_millis(50);

/// The backlog of one group, as one consumer of it sees it.
pub(super) struct GroupBacklog {
    shared: Arc<Shared>,
    group: Name,
    /// What was announced last, so that it is announced again when it changed.
    announced: Vec<eventbus::port::Announced>,
    /// What the server noted of that, so that it is announced again when the server lost it.
    noted: Vec<String>,
    told_forsaken: bool,
}

impl Consumer {
    /// Whether what was just read must wait for a backlog of the group. A group that was made before a store's relay had
    /// adopted the stream, as after the server has lost it, may be given a backlog with the first entries.
    pub(super) async fn is_behind_backlog(&self) -> Result<bool, CommandError> {
        if self.shared.is_backlog() || self.is_past_backlog.load(Ordering::Acquire) {
            return Ok(false);
        }
        let is_behind = self.shared.is_backlog_first(&self.group).await?;
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
    pub(super) fn new(shared: &Arc<Shared>, group: &Name) -> Self {
        let (shared, group) = (Arc::clone(shared), group.clone());
        Self { shared, group, announced: Vec::new(), noted: Vec::new(), told_forsaken: false }
    }

    /// Announces what the group handles, makes it, and handles the backlog that a new group begins with.
    pub(super) async fn before(&mut self, stop: &StopSignal) {
        let mut trouble = Trouble::new("reading", self.group.clone());
        while !stop.is_stopped() {
            match self.try_before(stop).await {
                Ok(()) => return trouble.is_over(),
                Err(error) => self.wait(trouble.happened(&error), stop).await,
            }
        }
    }

    async fn try_before(&mut self, stop: &StopSignal) -> Result<(), CommandError> {
        // a server without memory refuses it, and is told later
        if let Err(error) = self.announce().await {
            tracing::debug!(group = %self.group, %error, "what the group handles is announced later");
        }
        for part in self.shared.parts() {
            let is_new: bool = self.shared.link.rerun(&part.create_listed_group(&self.group)).await?;
            if is_new {
                tracing::info!(group = %self.group, stream = part.stream, "group created");
            }
        }
        if let Backlog::More { is_first: true, .. } = self.shared.look_at_backlog(&self.group).await? {
            tracing::info!(group = %self.group, "the group is new: it begins with what the stores hold, then reads the stream");
            self.handle(stop, true).await?;
        }
        Ok(())
    }

    /// Looks again and again for a backlog, and handles it.
    pub(super) async fn beside(&mut self, stop: &StopSignal) {
        let subscribers: Subscribers = self.shared.subscribers.clone();
        let mut changes = subscribers.watch();
        while !stop.is_stopped() {
            // whoever reads the stream tells of it
            if let Err(error) = self.try_beside(stop).await {
                tracing::debug!(group = %self.group, %error, "no backlog could be looked for, trying again");
            }
            tokio::select! {
                () = self.wait(LOOK, stop) => {}
                _ = changes.changed() => {}
            }
        }
    }

    async fn try_beside(&mut self, stop: &StopSignal) -> Result<(), CommandError> {
        self.announce().await?;
        if let Backlog::More { .. } = self.shared.look_at_backlog(&self.group).await? {
            self.handle(stop, false).await?;
        }
        Ok(())
    }

    async fn wait(&self, time: Duration, stop: &StopSignal) {
        tokio::select! {
            () = self.shared.config.clock.sleep(time) => {}
            () = stop.stopped() => {}
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

    /// Handles the backlog to its end, or as long as it is to come first.
    async fn handle(&mut self, stop: &StopSignal, is_first: bool) -> Result<(), CommandError> {
        let (until, finished) = stop.or_earlier();
        let backlog = Arc::new(self.shared.backlog_of(&self.group));
        let consume = Box::pin(consume_stream(backlog, self.group.clone(), until.clone()));
        let watch = async {
            let ended = self.watch(&until, is_first).await;
            finished.cancel();
            ended
        };
        let (ended, ()) = tokio::join!(watch, consume);
        // what was made anew by a consumer that had not noticed
        self.shared.look_at_backlog(&self.group).await?;
        ended
    }

    async fn watch(&mut self, stop: &StopSignal, is_first: bool) -> Result<(), CommandError> {
        while !stop.is_stopped() {
            match self.shared.look_at_backlog(&self.group).await? {
                Backlog::None | Backlog::Finished => {
                    tracing::info!(group = %self.group, "the backlog of the group is finished");
                    return Ok(());
                }
                Backlog::More { is_first: still_first, is_forsaken, copies } => {
                    for copy in &copies {
                        self.shared.copy_to_backlog(&self.group, copy, stop).await?;
                    }
                    if is_forsaken && !std::mem::replace(&mut self.told_forsaken, true) {
                        tracing::error!(
                            group = %self.group,
                            "the group misses events that only a store has, and no process with that store is here"
                        );
                    }
                    // the rest is handled beside the stream
                    if is_first && (is_forsaken || !still_first) {
                        return Ok(());
                    }
                }
            }
            self.wait(LOOK_SOON, stop).await;
        }
        Ok(())
    }
}
