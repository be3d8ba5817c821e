//! The keeper: writes down what came of the entries of all partitions, and sees to it that they are shared.
//!
//! Real time, not the given clock: leases, by the clock of Redis, and its replies.

use std::collections::{HashMap, HashSet};

use eventbus::port::DueAgain;
use tokio::time::{Instant, MissedTickBehavior, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Partitioned;
use crate::{
    connection::CommandError,
    consumer::{
        keep::{CLAIM, PATIENCE, WRITE},
        look::Differing,
        paper::Paper,
        trouble::Trouble,
    },
    script,
};

/// How many entries of a partition are acknowledged at once.
const TOGETHER: usize = 1_000;

/// What the keeper remembers from one time to the next.
pub(super) struct Keeper {
    pub(super) papers: HashMap<usize, Paper>,
    trouble: Trouble,
    /// Whether something went wrong when it was done last, and when it is done again.
    failing: HashSet<What>,
    again: Instant,
    pub(super) share_at: Instant,
    /// Where to go on looking for notes that nobody needs, by partition.
    sweep: HashMap<usize, String>,
    pub(super) differing: Differing,
    pub(super) others: Vec<String>,
    /// What it handled, as JSON, and how many types the group knew.
    pub(super) types: String,
    pub(super) known_types: usize,
    pub(super) has_double: bool,
    pub(super) has_other_layout: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    Write,
    ReadAgain,
    Share,
    Sweep,
}

impl Partitioned {
    /// Keeps until workers and reader have ended, then writes down the rest and lets the partitions go.
    pub(super) async fn keep(&self, ended: &CancellationToken) {
        let now = Instant::now();
        let mut keeper = Keeper {
            papers: HashMap::new(),
            trouble: Trouble::new("keeping partitions", self.front.group.clone()),
            failing: HashSet::new(),
            again: now,
            share_at: now,
            sweep: HashMap::new(),
            differing: Differing::new(),
            others: Vec::new(),
            types: self.front.types(),
            known_types: 0,
            has_double: false,
            has_other_layout: false,
        };
        let mut write = tokio::time::interval(WRITE);
        write.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let period = self.front.pending_idle().max(CLAIM);
        let mut sweep = tokio::time::interval_at(now + period, period);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changes = self.shared().subscribers.watch();
        loop {
            let writes = !keeper.failing.contains(&What::Write);
            let unwritten = self.has_unwritten(&keeper);
            let gathers_until = keeper.papers.values().filter_map(Paper::gathers_until).min();
            let what = tokio::select! {
                () = ended.cancelled() => break,
                () = sleep_until(keeper.again), if !keeper.failing.is_empty() => {
                    keeper.failing.iter().next().copied().unwrap_or(What::Write)
                }
                () = self.lost.notified() => What::Write,
                () = self.front.hand.settled(), if writes => What::Write,
                _ = write.tick(), if writes && unwritten => What::Write,
                () = sleep_until(gathers_until.unwrap_or(keeper.again)), if writes && gathers_until.is_some() => What::Write,
                () = self.front.hand.due(), if writes && !keeper.failing.contains(&What::ReadAgain) => What::ReadAgain,
                () = sleep_until(keeper.share_at), if !keeper.failing.contains(&What::Share) => What::Share,
                _ = changes.changed() => What::Share,
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

    fn has_unwritten(&self, keeper: &Keeper) -> bool {
        let owned = self.owned();
        !owned.leaving().is_empty()
            || keeper.papers.values().any(|paper| !paper.is_empty())
            || owned.consumers().iter().any(|(_, part)| !part.not_ours().is_empty())
    }

    async fn do_one(&self, what: What, keeper: &mut Keeper) -> Result<(), CommandError> {
        match what {
            What::Write => self.write_down(keeper).await,
            What::ReadAgain => self.read_again(keeper).await,
            What::Share => self.share(keeper).await,
            What::Sweep => self.sweep(keeper).await,
        }
    }

    /// Forgets partitions that are lost, with all that is in hand of them and all that came of it.
    fn forget_lost(&self, keeper: &mut Keeper) {
        let lost = self.owned().all_lost();
        for number in lost {
            self.forget(keeper, number);
        }
    }

    pub(super) fn forget(&self, keeper: &mut Keeper, number: usize) {
        self.distribute(keeper);
        keeper.papers.remove(&number);
        let mut owned = self.owned();
        let in_hand: Vec<_> = owned.remove(number).into_iter().filter(|id| self.front.hand.contains(id)).collect();
        tracing::warn!(
            group = %self.front.group, partition = number, count = in_hand.len(),
            "a partition was taken over by another consumer, with what was in hand of it"
        );
        self.front.hand.let_go(&in_hand);
    }

    /// Sorts what came of entries by partition.
    pub(super) fn distribute(&self, keeper: &mut Keeper) {
        let owned = self.owned();
        for settled in self.front.hand.take_settled() {
            if let Some(number) = owned.place(&settled.id) {
                keeper.papers.entry(number).or_default().add([settled]);
            }
        }
    }

    /// Writes down what came of entries; what fails stays on paper.
    async fn write_down(&self, keeper: &mut Keeper) -> Result<(), CommandError> {
        self.forget_lost(keeper);
        self.distribute(keeper);
        self.acknowledge(keeper).await?;
        let parts = self.owned().consumers();
        for (number, part) in parts {
            let paper = keeper.papers.entry(number).or_default();
            if paper.is_empty() && part.not_ours().is_empty() {
                continue;
            }
            if let Err(error) = part.write_most(paper).await {
                self.refused(&part, error).await?;
            }
        }
        self.forget_lost(keeper);
        let hand = &self.front.hand;
        self.owned().tidy(hand.len(), |id| hand.contains(id));
        self.let_leave(keeper).await
    }

    /// Reads entries again that have waited, after the keeper has noted their last tries: the server returns these with them.
    async fn read_again(&self, keeper: &mut Keeper) -> Result<(), CommandError> {
        keeper.papers.values_mut().for_each(Paper::gather_no_more);
        self.write_down(keeper).await?;
        let hand = &self.front.hand;
        let (parts, mut due): (_, HashMap<usize, Vec<DueAgain>>) = {
            let (owned, mut due) = (self.owned(), HashMap::<usize, Vec<DueAgain>>::new());
            for one in hand.take_due() {
                match owned.place(&one.id) {
                    Some(number) => due.entry(number).or_default().push(one),
                    None => hand.let_go([&one.id]),
                }
            }
            (owned.consumers(), due)
        };
        let mut outcome = Ok(());
        for (number, part) in parts {
            let of_part = due.remove(&number).unwrap_or_default();
            if outcome.is_err() {
                hand.not_read(of_part.iter().map(|due| &due.id));
            } else if let Err(error) = part.read_again(of_part).await {
                outcome = self.refused(&part, error).await;
            }
        }
        let of_nobody: Vec<_> = due.into_values().flatten().map(|due| due.id).collect();
        hand.let_go(&of_nobody);
        outcome
    }

    /// Acknowledges what was handled at the first try, in all partitions in one step.
    async fn acknowledge(&self, keeper: &mut Keeper) -> Result<(), CommandError> {
        loop {
            let parts = self.owned().consumers();
            let mut done = script::DONE.prepare_invoke();
            done.arg(self.front.group.as_str());
            let mut asked = Vec::new();
            for (number, part) in parts {
                let Some(paper) = keeper.papers.get(&number).filter(|paper| !paper.acknowledged.is_empty()) else {
                    continue;
                };
                let Some(fence) = &part.fence else { continue };
                let ids = &paper.acknowledged[..paper.acknowledged.len().min(TOGETHER)];
                done.key(&part.shared.stream).key(&fence.lease).arg(&fence.epoch).arg(ids.len());
                for id in ids {
                    done.arg(id.as_str());
                }
                asked.push((number, part, ids.len()));
            }
            if asked.is_empty() {
                return Ok(());
            }
            let replies: Vec<bool> = self.shared().link.rerun(&done).await?;
            for ((number, part, count), is_mine) in asked.into_iter().zip(replies) {
                let Some(paper) = keeper.papers.get_mut(&number) else { continue };
                let mut ids: Vec<_> = paper.acknowledged.drain(..count).collect();
                if is_mine {
                    part.done(&mut ids);
                } else {
                    paper.acknowledged.clear();
                    self.owned().lost(&part);
                }
            }
        }
    }

    async fn sweep(&self, keeper: &mut Keeper) -> Result<(), CommandError> {
        let parts = self.owned().consumers();
        for (number, part) in parts {
            let cursor = keeper.sweep.entry(number).or_insert_with(|| "0".into());
            if let Err(error) = part.sweep(cursor).await {
                self.refused(&part, error).await?;
            }
        }
        Ok(())
    }

    /// Writes down what is left to write, and lets all partitions go; within a time that a shutdown can bear.
    async fn end(&self, keeper: &mut Keeper) {
        self.front.hand.give_back();
        let ending = async {
            loop {
                let count = self.owned().consumers().len();
                self.owned().leave(count);
                match self.finish(keeper).await {
                    Err(error) => tokio::time::sleep(keeper.trouble.happened(&error)).await,
                    Ok(()) => return,
                }
            }
        };
        if tokio::time::timeout(PATIENCE, ending).await.is_err() {
            let count = self.front.hand.len();
            tracing::warn!(
                group = %self.front.group, count,
                "ended without an answer; what was in hand is delivered again when its lease is over"
            );
        }
    }

    async fn finish(&self, keeper: &mut Keeper) -> Result<(), CommandError> {
        keeper.papers.values_mut().for_each(Paper::gather_no_more);
        self.write_down(keeper).await?;
        self.front.leave(&[], false).await
    }
}

impl Keeper {
    /// Notes how something went; trouble is over when everything that went wrong has gone well.
    fn note(&mut self, what: What, kept: Result<(), CommandError>) {
        self.failing.remove(&what);
        if let Err(error) = kept {
            self.failing.insert(what);
            self.again = Instant::now() + self.trouble.happened(&error);
        } else if self.failing.is_empty() {
            self.trouble.is_over();
        }
    }
}
