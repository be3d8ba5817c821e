//! The consumer of one group: it owns the group, takes events, and writes down what came of them.
//!
//! Keep: that events were taken is written before a handler sees them, and what came of them before they are let go. All
//! of it is one file, which only the owner of the latest epoch writes.
//!
//! Real time, not the given clock: what other workers read in files.

mod announce;
mod settle;
mod take;

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use eventbus::{
    Name,
    port::{Announced, Desk, Hand, Limits, MessageId, Outage, Settled, StopSignal, Taken, Tries, handler_span},
};
use tokio::{sync::watch, time::Instant};

use super::progress::Owned;
use crate::{
    error::{FileQueueError, Result},
    patience::Patience,
    queue::Shared,
};

/// How soon it is tried again after the file system refused.
const AGAIN: Duration = Duration::from_millis(200);

/// How many events of a group may wait for a retry, or be parked behind one that does: the file of the group has a note of
/// each, and is written as a whole.
const MOST_WAITING: usize = 10_000;

/// Consumes for a group whenever nobody else does, until it is stopped.
pub(super) async fn consume(shared: Arc<Shared>, group: Name, stop: StopSignal) {
    let mut patience = Patience::new(&shared);
    let (mut stands_by, mut outage) = (false, Outage::new(shared.config.clock.clone()));
    while !stop.is_stopped() {
        let asked = group.clone();
        let taken = shared.blocking(move |shared| shared.take_group(&asked)).await;
        if taken.is_ok()
            && let Some(lasted) = outage.ends()
        {
            tracing::info!(%group, ?lasted, "the group can be consumed for again");
        }
        match taken {
            Ok(Some(owned)) => {
                tracing::debug!(%group, epoch = owned.claim.epoch, "consuming for the group");
                let worker_id = owned.claim.worker_id.clone();
                let was_lost = Consumer::new(&shared, &group, owned, &mut outage).run(&stop).await;
                if was_lost {
                    tracing::warn!(
                        %group,
                        worker_id,
                        "another worker, or another process with this worker id, has taken the group over, our claim ran out, or the \
                         folder was made anew"
                    );
                }
                stands_by = false;
                patience.reset();
                continue;
            }
            Ok(None) => {
                if !std::mem::replace(&mut stands_by, true) {
                    tracing::info!(
                        %group, "another worker consumes for the group, this one takes over when its claim runs out"
                    );
                }
            }
            Err(error) => {
                if outage.begins() {
                    tracing::error!(%group, error = error.log(), "cannot consume for the group, trying again");
                }
            }
        }
        tokio::select! {
            () = stop.stopped() => {}
            () = patience.wait() => {}
        }
    }
}

struct Consumer<'a> {
    shared: &'a Arc<Shared>,
    group: &'a Name,
    owned: Owned,
    hand: Arc<Hand>,
    patience: Patience,
    /// Whether there may be more to take.
    has_more: bool,
    /// Whether something is to be written down.
    is_dirty: bool,
    renew_at: Instant,
    /// Not before this time, since the file system refused.
    not_before: Option<Instant>,
    /// Of the file system; it may outlast this consumer.
    outage: &'a mut Outage,
    /// Whether the worker before us may have died of a replay.
    was_left: bool,
    /// What came of entries, not noted yet.
    settled: VecDeque<Settled>,
    /// What is to be let go, begun and handed over, as soon as that is written down.
    done: Vec<MessageId>,
    begun: Vec<MessageId>,
    taken: Vec<Taken>,
    hopeless: Vec<(MessageId, Tries)>,
    resumed: Vec<Taken>,
    /// The events in hand that are replays.
    replays: HashSet<u64>,
    /// What was let go for a handler that is not here.
    left: BTreeSet<u64>,
    /// Tells of handlers that come or go.
    subscribed: watch::Receiver<()>,
    /// What the handlers announced last.
    announced: Vec<Announced>,
}

impl<'a> Consumer<'a> {
    fn new(shared: &'a Arc<Shared>, group: &'a Name, owned: Owned, outage: &'a mut Outage) -> Self {
        Self {
            was_left: owned.was_left,
            hand: Arc::new(
                Hand::new(shared.config.max_in_hand, shared.config.max_in_hand_bytes, shared.config.clock.clone())
                    .with_waiting(MOST_WAITING),
            ),
            patience: Patience::new(shared),
            shared,
            group,
            owned,
            has_more: true,
            is_dirty: false,
            renew_at: Instant::now() + shared.config.group_expiration / 3,
            not_before: None,
            outage,
            settled: VecDeque::new(),
            done: Vec::new(),
            begun: Vec::new(),
            taken: Vec::new(),
            hopeless: Vec::new(),
            resumed: Vec::new(),
            replays: HashSet::new(),
            left: BTreeSet::new(),
            subscribed: shared.subscribers.watch(),
            announced: Vec::new(),
        }
    }

    fn desk(&self) -> Desk {
        Desk {
            group: self.group.clone(),
            subscribers: self.shared.subscribers.clone(),
            counters: Arc::clone(&self.shared.counters),
            retry: self.shared.config.retry,
            limits: Limits { concurrency: self.shared.config.concurrency, ..Limits::default() },
            run_lock: self.shared.run_lock.clone(),
            span: Arc::new(handler_span),
        }
    }

    /// Consumes until it is stopped. `true`: another worker consumes for the group now.
    async fn run(mut self, stop: &StopSignal) -> bool {
        let (desk, hand) = (self.desk(), Arc::clone(&self.hand));
        let mut working = pin!(hand.work(&desk, stop));
        while let Err(error) = self.take_left().await {
            if self.outage.begins() {
                tracing::warn!(group = %self.group, error = error.log(), "what was left is not taken yet, trying again");
            }
            if matches!(error, FileQueueError::ClaimLost { .. }) || !self.owned.claim.is_live() {
                return true;
            }
            tokio::select! {
                () = stop.stopped() => return false,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
        let mut turn = self.turn().await;
        loop {
            match turn {
                Ok(()) => {
                    self.not_before = None;
                    if let Some(lasted) = self.outage.ends() {
                        tracing::info!(group = %self.group, ?lasted, "consuming goes on");
                    }
                }
                Err(FileQueueError::ClaimLost { .. }) => return true,
                Err(error) => {
                    if self.outage.begins() {
                        tracing::warn!(
                            group = %self.group, error = error.log(), "consuming was interrupted, trying again until it succeeds"
                        );
                    }
                    self.not_before = Some(Instant::now() + AGAIN);
                    self.is_dirty = true;
                }
            }
            let again = self.not_before.unwrap_or(self.renew_at);
            tokio::select! {
                biased;
                () = &mut working => break,
                () = hand.settled(), if self.not_before.is_none() => {}
                () = hand.due(), if self.not_before.is_none() => {}
                () = wanted(&hand, &mut self.patience, self.has_more), if self.not_before.is_none() => {}
                () = tokio::time::sleep_until(again) => {}
            }
            turn = self.turn().await;
        }
        hand.give_back();
        match self.end().await {
            Err(FileQueueError::ClaimLost { .. }) => return true,
            Err(error) => {
                tracing::warn!(group = %self.group, error = error.log(), "the group is taken over when our claim runs out")
            }
            Ok(()) => {}
        }
        false
    }

    /// Writes down what came of events, takes more, and renews the claim.
    async fn turn(&mut self) -> Result<()> {
        self.check_queue().await?;
        self.settle().await?;
        self.announce().await?; // what is settled after it would not be taken again for a handler that it announces
        self.read_again().await?;
        self.take_replays().await?;
        self.take_more().await?;
        if self.is_dirty || self.renew_at <= Instant::now() {
            self.write_down(false).await?;
        }
        self.hand_over();
        Ok(())
    }

    /// Refuses to go on where the folder holds another queue than the one whose events were taken.
    async fn check_queue(&self) -> Result<()> {
        let (claim, known) = (self.owned.claim.clone(), self.owned.progress.queue_id);
        let is_same = self.shared.blocking(move |shared| Ok(known == Some(shared.queue_id()))).await?;
        match is_same {
            true => Ok(()),
            false => Err(FileQueueError::ClaimLost { claim_id: claim.claim_id, epoch: claim.epoch }),
        }
    }

    /// What was to be written down is.
    fn hand_over(&mut self) {
        self.hand.let_go(&std::mem::take(&mut self.done));
        self.hand.begin(&std::mem::take(&mut self.begun));
        self.hand.resume(std::mem::take(&mut self.resumed));
        self.hand.add(std::mem::take(&mut self.taken));
        for (id, tries) in std::mem::take(&mut self.hopeless) {
            self.hand.add_hopeless(id, tries);
        }
    }

    async fn write_down(&mut self, is_last: bool) -> Result<()> {
        let (claim, data) = (self.owned.claim.clone(), self.owned.progress.to_value()?);
        self.owned.claim = self
            .shared
            .blocking(move |shared| match is_last {
                false => shared.groups.renew(&claim, data),
                true => shared.groups.release(&claim, data),
            })
            .await?;
        self.is_dirty = false;
        self.renew_at = Instant::now() + self.shared.config.group_expiration / 3;
        Ok(())
    }

    async fn end(&mut self) -> Result<()> {
        self.settle().await?;
        self.write_down(true).await?;
        self.shared.news.send_replace(());
        Ok(())
    }
}

/// Waits until more is to be taken, and there may be more.
async fn wanted(hand: &Hand, patience: &mut Patience, has_more: bool) {
    hand.room().await;
    if !has_more {
        patience.wait().await;
    }
}
