//! The keeper: writes down what came of entries, shows life, and looks for what others left.
//!
//! Real time, not the given clock: claims, by the clock of Redis, and its replies.

use std::{collections::HashSet, sync::atomic::Ordering, time::Duration};

use eventbus::port::MessageId;
use tokio::time::{Instant, MissedTickBehavior, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    Consumer,
    leave::Left,
    look::Differing,
    paper::{Paper, add_ids},
    read::FIRST,
    trouble::Trouble,
};
use crate::{command, connection::CommandError, script};

/// How often what could not be written down is tried again.
pub(super) const WRITE: Duration = Duration::from_millis(100);
/// How long what is under way, and then what is left to do, may take when the consumer ends.
pub(super) const PATIENCE: Duration = Duration::from_millis(800);
/// How often the consumer looks around, at least.
const LOOK: Duration = Duration::from_secs(1);
/// How often it looks for entries of dead consumers, at least.
pub(super) const CLAIM: Duration = Duration::from_secs(2);
/// How often it looks, at most.
const POLL: Duration = Duration::from_millis(20);

/// What the keeper remembers from one time to the next.
pub(super) struct Keeper {
    paper: Paper,
    trouble: Trouble,
    /// What went wrong when it was done last; it is done again, one after the other.
    failing: Vec<What>,
    again: Instant,
    /// Entries on which the claim is yet to be renewed: some at a time, so that no acknowledgement waits for all.
    beating: Vec<MessageId>,
    /// Where to go on looking for entries of dead consumers.
    pub(super) cursor: String,
    /// Where to go on looking for notes that nobody needs.
    pub(super) sweep: String,
    /// Where to go on renewing what was left, and looking whether it handles any of it.
    pub(super) renew_from: String,
    pub(super) left: Left,
    /// Entries that were pending on this consumer and not in hand, when it looked last.
    pub(super) missing: HashSet<String>,
    pub(super) differing: Differing,
    /// Whether another one of its name was seen.
    pub(super) has_double: bool,
}

/// What a keeper does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Write,
    ReadAgain,
    Beat,
    Look,
    Claim,
    Sweep,
    /// Everything that must not wait for its time when the consumer has joined its group.
    Join,
}

impl Keeper {
    /// Notes how something went; trouble is over when everything that went wrong has gone well.
    fn note(&mut self, what: What, kept: Result<(), CommandError>) {
        self.failing.retain(|failing| *failing != what);
        if let Err(error) = kept {
            self.failing.push(what);
            self.again = Instant::now() + self.trouble.happened(&error);
        } else if self.failing.is_empty() {
            self.trouble.is_over();
        }
    }
}

/// Something that is to be done again and again.
fn every(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

impl Consumer {
    /// Keeps until workers and reader have ended, then writes down the rest and leaves.
    pub(super) async fn keep(&self, ended: &CancellationToken) {
        let mut keeper = Keeper {
            paper: Paper::default(),
            trouble: Trouble::new("acknowledging", self.group.clone()),
            failing: Vec::new(),
            again: Instant::now(),
            beating: Vec::new(),
            cursor: FIRST.into(),
            sweep: "0".into(),
            renew_from: FIRST.into(),
            left: Left::default(),
            missing: HashSet::new(),
            differing: Differing::new(),
            has_double: false,
        };
        let idle = self.pending_idle();
        let (mut write, mut beat) = (every(WRITE), every(idle / 3));
        let (mut look, mut claim) = (every(self.look_period()), every((idle / 6).clamp(POLL, CLAIM)));
        let mut sweep = every(idle.max(CLAIM));
        let mut changes = self.shared.subscribers.watch();
        loop {
            let writes = !keeper.failing.contains(&What::Write);
            let beats_in_vain = keeper.failing.contains(&What::Beat);
            let unwritten = !keeper.paper.is_empty() || !self.not_ours().is_empty();
            let gathers_until = keeper.paper.gathers_until();
            let what = tokio::select! {
                () = ended.cancelled() => break,
                () = tokio::time::sleep_until(keeper.again), if !keeper.failing.is_empty() => keeper.failing[0],
                () = self.hand.settled(), if writes => What::Write,
                _ = write.tick(), if writes && unwritten => What::Write,
                () = sleep_until(gathers_until.unwrap_or(keeper.again)), if writes && gathers_until.is_some() => What::Write,
                () = self.hand.due(), if writes && !keeper.failing.contains(&What::ReadAgain) => What::ReadAgain,
                () = self.joined.notified() => What::Join,
                _ = beat.tick(), if keeper.beating.is_empty() => {
                    keeper.beating = self.hand.ids();
                    keeper.beating.extend(self.left().iter().cloned());
                    What::Beat
                }
                () = std::future::ready(()), if !keeper.beating.is_empty() && !beats_in_vain => What::Beat,
                _ = look.tick() => What::Look,
                _ = changes.changed() => What::Look,
                _ = claim.tick() => What::Claim,
                _ = sweep.tick() => What::Sweep,
            };
            let in_vain = async {
                ended.cancelled().await;
                tokio::time::sleep(PATIENCE).await;
            };
            let kept = tokio::select! {
                kept = self.do_one(what, &mut keeper) => kept,
                () = in_vain => break, // what is not done may be done twice
            };
            keeper.note(what, kept);
        }
        self.end(&mut keeper).await;
    }

    /// How often the consumer looks around.
    pub(super) fn look_period(&self) -> Duration {
        (self.pending_idle() / 6).clamp(POLL, LOOK)
    }

    async fn do_one(&self, what: What, keeper: &mut Keeper) -> Result<(), CommandError> {
        let done = match what {
            What::Write => self.write_down(keeper).await,
            What::ReadAgain => self.read_again_after_writing(keeper).await,
            What::Beat => self.beat(&mut keeper.beating).await,
            What::Look => self.look(keeper).await,
            What::Claim => self.claim(keeper).await,
            What::Sweep => self.sweep(&mut keeper.sweep).await,
            What::Join => self.join(keeper).await,
        };
        match done {
            // the reader may be waiting for room, which there is only when something is written down
            Err(error) if command::is_no_group(&error) => self.make_group_anew().await,
            done => done,
        }
    }

    async fn join(&self, keeper: &mut Keeper) -> Result<(), CommandError> {
        self.look(keeper).await?;
        self.claim(keeper).await
    }

    pub(super) async fn make_group_anew(&self) -> Result<(), CommandError> {
        let is_new: bool = self.shared.link.rerun(&self.create_group()).await?;
        self.is_past_backlog.store(false, Ordering::Release);
        self.tell_created(is_new);
        Ok(())
    }

    async fn write_down(&self, keeper: &mut Keeper) -> Result<(), CommandError> {
        keeper.paper.add(self.hand.take_settled());
        if keeper.paper.is_empty() && self.not_ours().is_empty() {
            return Ok(());
        }
        self.write_most(&mut keeper.paper).await.map(drop)
    }

    /// Reads entries again that have waited, after the keeper has noted their last tries: the server returns these with them.
    async fn read_again_after_writing(&self, keeper: &mut Keeper) -> Result<(), CommandError> {
        keeper.paper.gather_no_more();
        self.write_down(keeper).await?;
        self.read_again(self.hand.take_due()).await
    }

    /// Keeps the claim on some of these entries, which it removes from the list.
    async fn beat(&self, beating: &mut Vec<MessageId>) -> Result<(), CommandError> {
        let rest = beating.len().saturating_sub(command::TOGETHER);
        let mut ids = beating[rest..].to_vec();
        // what was written down since is pending no more
        ids.retain(|id| self.hand.contains(id) || self.left().contains(id));
        let (lost, free) = self.beat_for(&ids).await?;
        beating.truncate(rest);
        for id in lost.iter().chain(&free) {
            self.left().remove(id);
        }
        // what has been written down meanwhile is not lost
        let lost: Vec<_> = lost.into_iter().filter(|id| self.hand.contains(id)).collect();
        self.lose(&lost);
        Ok(())
    }

    /// Keeps the claim on entries; says which of them are somebody else's by now, and which are nobody's.
    pub(super) async fn beat_for(&self, ids: &[MessageId]) -> Result<(Vec<MessageId>, Vec<MessageId>), CommandError> {
        let (mut all_lost, mut all_free) = (Vec::new(), Vec::new());
        for ids in ids.chunks(command::TOGETHER) {
            let mut beat = script::BEAT.key(&self.shared.stream);
            beat.arg(self.group.as_str()).arg(&self.name);
            add_ids(&mut beat, ids);
            let (lost, free): (Vec<String>, Vec<String>) = self.shared.link.rerun(&beat).await?;
            all_lost.extend(lost.into_iter().map(MessageId::new));
            all_free.extend(free.into_iter().map(MessageId::new));
        }
        Ok((all_lost, all_free))
    }

    /// Writes down what is left to write, and lets others have what was not begun; all within a time that a shutdown
    /// can bear.
    async fn end(&self, keeper: &mut Keeper) {
        let given_back = self.hand.give_back();
        let ending = async {
            loop {
                keeper.paper.add(self.hand.take_settled());
                match self.finish(&mut keeper.paper, &given_back).await {
                    Err(error) if !command::is_no_group(&error) => {
                        tokio::time::sleep(keeper.trouble.happened(&error)).await;
                    }
                    _ => return,
                }
            }
        };
        if tokio::time::timeout(PATIENCE, ending).await.is_err() {
            let count = self.hand.len() + given_back.len();
            tracing::warn!(group = %self.group, count, "ended without an answer; what was in hand is delivered again");
        }
    }

    async fn finish(&self, paper: &mut Paper, given_back: &[MessageId]) -> Result<(), CommandError> {
        self.write(paper).await?;
        self.leave(given_back, self.shared.is_passing).await
    }

    /// Lets others have entries, and the name go if it does not come back.
    pub(super) async fn leave(&self, ids: &[MessageId], is_passing: bool) -> Result<(), CommandError> {
        let mut chunks = ids.chunks(command::TOGETHER).collect::<Vec<_>>();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        for ids in chunks {
            let mut leave = script::LEAVE.key(&self.shared.stream);
            leave.key(&self.keys.members);
            leave.arg(self.group.as_str()).arg(&self.name).arg(self.shared.config.pending_idle_ms);
            leave.arg(u8::from(is_passing));
            add_ids(&mut leave, ids);
            self.shared.link.rerun::<u64>(&leave).await?;
        }
        Ok(())
    }
}
