//! The consumer of one group: it owns the group, takes events, and writes down what came of them.
//!
//! Keep: that events were taken is written before a handler sees them, and what came of them before they are let go. All
//! of it is one file, which only the owner of the latest epoch writes.

use std::{
    collections::{HashSet, VecDeque},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use eventbus::{
    Name,
    port::{Desk, Hand, Limits, MessageId, Settled, StopSignal, Taken, Tries, Verdict},
};
use tokio::time::Instant;
use tracing::Span;

use super::progress::Owned;
use crate::{
    error::{FileQueueError, Result},
    event::{QueueEvent, message_id},
    log::Slot,
    queue::{Patience, Shared},
};

/// How many events are taken at once.
const BATCH: usize = 100;
/// How many events may wait for a handler before more are taken.
const AHEAD: usize = 20;
/// How soon it is tried again after the file system refused.
const AGAIN: Duration = Duration::from_millis(200);

/// Consumes for a group whenever nobody else does, until it is stopped.
pub(super) async fn consume(shared: Arc<Shared>, group: Name, stop: StopSignal) {
    let mut patience = Patience::new(&shared);
    while !stop.is_stopped() {
        let asked = group.clone();
        match shared.blocking(move |shared| shared.take_group(&asked)).await {
            Ok(Some(owned)) => {
                tracing::debug!(%group, epoch = owned.claim.epoch, "consuming for the group");
                let was_lost = Consumer::new(&shared, &group, owned).run(&stop).await;
                if was_lost {
                    tracing::warn!(%group, "another worker has taken the group over, or our claim ran out");
                }
                patience.reset();
                continue;
            }
            Ok(None) => {}
            Err(error) => tracing::error!(%group, %error, "cannot consume for the group, trying again"),
        }
        tokio::select! {
            () = stop.stopped() => {}
            () = patience.wait() => {}
        }
    }
}

/// What was read, not yet in hand.
#[derive(Debug)]
enum Read {
    Event(QueueEvent),
    Torn(u64, FileQueueError),
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
    /// Whether the worker before us may have died of a replay.
    was_left: bool,
    /// What came of entries, not noted yet.
    settled: VecDeque<Settled>,
    /// What is to be let go, begun and handed over, as soon as that is written down.
    done: Vec<MessageId>,
    begun: Vec<MessageId>,
    taken: Vec<Taken>,
    hopeless: Vec<(MessageId, Tries)>,
    /// The events in hand that are replays.
    replays: HashSet<u64>,
}

impl<'a> Consumer<'a> {
    fn new(shared: &'a Arc<Shared>, group: &'a Name, owned: Owned) -> Self {
        Self {
            was_left: owned.was_left,
            hand: Arc::new(Hand::new(shared.config.max_in_hand, AHEAD)),
            patience: Patience::new(shared),
            shared,
            group,
            owned,
            has_more: true,
            is_dirty: false,
            renew_at: Instant::now() + shared.config.group_expiration / 3,
            not_before: None,
            settled: VecDeque::new(),
            done: Vec::new(),
            begun: Vec::new(),
            taken: Vec::new(),
            hopeless: Vec::new(),
            replays: HashSet::new(),
        }
    }

    fn desk(&self) -> Desk {
        Desk {
            group: self.group.clone(),
            subscribers: self.shared.subscribers.clone(),
            counters: Arc::clone(&self.shared.counters),
            retry: self.shared.config.retry,
            limits: Limits { concurrency: self.shared.config.concurrency, ..Limits::default() },
            span: Arc::new(|_| Span::none()),
        }
    }

    /// Consumes until it is stopped. `true`: another worker consumes for the group now.
    async fn run(mut self, stop: &StopSignal) -> bool {
        let (desk, hand) = (self.desk(), Arc::clone(&self.hand));
        let mut working = pin!(hand.work(&desk, stop));
        let mut turn = self.take_left().await;
        loop {
            match turn {
                Ok(()) => self.not_before = None,
                Err(FileQueueError::ClaimLost { .. }) => return true,
                Err(error) => {
                    tracing::warn!(group = %self.group, %error, "trying again");
                    self.not_before = Some(Instant::now() + AGAIN);
                    self.is_dirty = true;
                }
            }
            let again = self.not_before.unwrap_or(self.renew_at);
            tokio::select! {
                biased;
                () = &mut working => break,
                () = hand.settled(), if self.not_before.is_none() => {}
                () = wanted(&hand, &mut self.patience, self.has_more), if self.not_before.is_none() => {}
                () = tokio::time::sleep_until(again) => {}
            }
            turn = self.turn().await;
        }
        hand.give_back();
        match self.end().await {
            Err(FileQueueError::ClaimLost { .. }) => return true,
            Err(error) => {
                tracing::warn!(group = %self.group, %error, "the group is taken over when our claim runs out")
            }
            Ok(()) => {}
        }
        false
    }

    /// Takes what the worker before us had taken and was not done with.
    async fn take_left(&mut self) -> Result<()> {
        let open: Vec<u64> = self.owned.progress.open.keys().copied().collect();
        let group = self.group.clone();
        let left = self
            .shared
            .blocking(move |shared| {
                let read = |id| Ok((id, shared.log.read(id)?, shared.is_letter(id, &group)?));
                open.into_iter().map(read).collect::<Result<Vec<_>>>()
            })
            .await?;
        for (id, slot, is_letter) in left {
            match slot {
                // it was given up, and that was not yet written down here
                _ if is_letter => drop(self.owned.progress.open.remove(&id)),
                Slot::Event(event) => self.take(Read::Event(event), self.owned.was_left),
                Slot::Torn(error) => self.take(Read::Torn(id, error), false),
                Slot::Gap | Slot::Missing | Slot::Removed(_) => drop(self.owned.progress.open.remove(&id)),
            }
        }
        self.is_dirty = true;
        self.turn().await
    }

    fn take(&mut self, read: Read, is_left: bool) {
        match read {
            Read::Event(event) => {
                let tries = self.owned.progress.open.entry(event.id()).or_default().clone();
                let taken = Taken::new(event.message_id(), event.record().clone()).with_tries(tries);
                self.taken.push(if is_left { taken.left_over() } else { taken });
            }
            Read::Torn(id, error) => {
                let tries = Tries::hopeless(said(&error));
                self.owned.progress.open.insert(id, tries.clone());
                self.hopeless.push((message_id(id), tries));
            }
        }
    }

    /// Writes down what came of events, takes more, and renews the claim.
    async fn turn(&mut self) -> Result<()> {
        self.settle().await?;
        self.take_replays().await?;
        self.take_more().await?;
        if self.is_dirty || self.renew_at <= Instant::now() {
            self.write_down(false).await?;
        }
        self.hand_over();
        Ok(())
    }

    /// What was to be written down is.
    fn hand_over(&mut self) {
        self.hand.let_go(&std::mem::take(&mut self.done));
        self.hand.begin(&std::mem::take(&mut self.begun));
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

    /// Notes what came of events.
    async fn settle(&mut self) -> Result<()> {
        self.settled.extend(self.hand.take_settled());
        while let Some(one) = self.settled.pop_front() {
            if let Err(error) = self.settle_one(&one).await {
                self.settled.push_front(one);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn settle_one(&mut self, one: &Settled) -> Result<()> {
        let Ok(id) = one.id.as_str().parse() else {
            return Ok(());
        };
        let counters = &self.shared.counters;
        match &one.verdict {
            Verdict::Acknowledge { .. } => self.close(id).await?,
            Verdict::Skip(_) => {
                counters.events_skipped(1);
                self.close(id).await?;
            }
            Verdict::Bury(tries) => {
                self.bury(id, one, tries.clone()).await?;
                counters.messages_sent_to_dlq(1);
            }
            Verdict::Retry { tries, .. } => return self.keep(id, tries.clone()).await,
            Verdict::Begin(tries) => {
                self.keep(id, tries.clone()).await?;
                self.begun.push(one.id.clone());
                return Ok(());
            }
        }
        self.done.push(one.id.clone());
        Ok(())
    }

    /// An event is done with.
    async fn close(&mut self, id: u64) -> Result<()> {
        if self.replays.contains(&id) {
            let group = self.group.clone();
            self.shared.blocking(move |shared| shared.end_replay(id, &group)).await?;
            self.replays.remove(&id);
        } else {
            self.owned.progress.open.remove(&id);
            self.is_dirty = true;
        }
        Ok(())
    }

    /// An event goes on.
    async fn keep(&mut self, id: u64, tries: Tries) -> Result<()> {
        if self.replays.contains(&id) {
            let group = self.group.clone();
            return self.shared.blocking(move |shared| shared.keep_replay(id, &group, tries)).await;
        }
        self.owned.progress.open.insert(id, tries);
        self.is_dirty = true;
        Ok(())
    }

    /// An event is given up.
    async fn bury(&mut self, id: u64, one: &Settled, tries: Tries) -> Result<()> {
        let (group, record, claim) = (self.group.clone(), one.record.clone(), self.owned.claim.clone());
        let is_replay = self.replays.remove(&id);
        let buried = self
            .shared
            .blocking(move |shared| {
                shared.groups.check(&claim)?;
                match is_replay {
                    true => shared.bury_replay(id, &group, record.as_ref(), tries),
                    false => shared.bury(id, &group, record.as_ref(), tries),
                }
            })
            .await;
        match (&buried, is_replay) {
            (Ok(()), true) => {}
            (Err(_), true) => drop(self.replays.insert(id)),
            (Ok(()), false) => {
                self.owned.progress.open.remove(&id);
                self.is_dirty = true;
            }
            (Err(_), false) => {}
        }
        buried
    }

    /// Takes what was replayed since.
    async fn take_replays(&mut self) -> Result<()> {
        let (group, known) = (self.group.clone(), self.replays.clone());
        let replays = self
            .shared
            .blocking(move |shared| {
                let mut ids = shared.replays_of(&group)?;
                ids.retain(|id| !known.contains(id));
                Ok(ids.into_iter().map(|id| (id, shared.take_replay(id, &group))).collect::<Vec<_>>())
            })
            .await?;
        for (id, taken) in replays {
            if self.owned.progress.open.contains_key(&id) {
                continue; // it was given up, and that is about to be written down
            }
            match taken {
                Ok(Some(taken)) => {
                    self.taken.push(if self.was_left { taken.left_over() } else { taken });
                    self.replays.insert(id);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(group = %self.group, id, %error, "replay passed over and left alone");
                    self.replays.insert(id);
                }
            }
        }
        self.was_left = false;
        Ok(())
    }

    /// Takes events, as many as there is room for.
    async fn take_more(&mut self) -> Result<()> {
        let room = self.hand.room_beside(self.taken.len()).min(BATCH);
        if room == 0 {
            return Ok(());
        }
        let after = self.owned.progress.read;
        let (through, read) = self.shared.blocking(move |shared| shared.read_after(after, room)).await?;
        self.has_more = read.len() == room;
        if through > after {
            self.owned.progress.read = through;
            self.is_dirty = true;
            self.patience.reset();
        }
        for one in read {
            self.take(one, false);
        }
        Ok(())
    }
}

impl Shared {
    /// The next events after one, and up to where they were read.
    fn read_after(&self, after: u64, count: usize) -> Result<(u64, Vec<Read>)> {
        let (mut through, mut read) = (after, Vec::new());
        while read.len() < count
            && let Some((id, slot)) = self.log.next(through, &self.worker)?
        {
            through = id;
            match slot {
                Slot::Event(event) => read.push(Read::Event(event)),
                Slot::Torn(error) => read.push(Read::Torn(id, error)),
                Slot::Gap | Slot::Missing | Slot::Removed(_) => {}
            }
        }
        Ok((through, read))
    }

    /// Whether a group has given an event up.
    fn is_letter(&self, id: u64, group: &Name) -> Result<bool> {
        crate::disk::exists(&self.letter_path(&super::letters::stem(id, group)?))
    }
}

/// Waits until more is to be taken, and there may be more.
async fn wanted(hand: &Hand, patience: &mut Patience, has_more: bool) {
    hand.room().await;
    if !has_more {
        patience.wait().await;
    }
}

/// An error with its causes.
fn said(error: &FileQueueError) -> String {
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        said.push_str(&format!(": {error}"));
        cause = error.source();
    }
    said
}
