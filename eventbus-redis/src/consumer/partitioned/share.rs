//! Sharing: a consumer owns as many partitions as are its share of the live ones. Nobody assigns them.
//!
//! Keep: a partition is let go only when nothing of it is being handled and all that came of it is written down; then
//! nothing is repeated.
//!
//! Real time, not the given clock: leases, by the clock of Redis.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use redis::ScriptInvocation;
use tokio::time::Instant;

use super::{Partitioned, keep::Keeper};
use crate::{
    connection::CommandError,
    consumer::{Consumer, Fence, paper::Paper},
    keys, script,
};

/// How often a consumer that has less than its share looks for free partitions, at least.
const WANTING: Duration = Duration::from_millis(250);
/// What the server replies to a consumer that shows life.
type Shared = (usize, usize, Vec<(String, String, bool)>, bool, Vec<String>, usize);

impl Partitioned {
    /// Shows that it lives, keeps its partitions, and takes or leaves some to have its share.
    pub(super) async fn share(&self, keeper: &mut Keeper) -> Result<(), CommandError> {
        keeper.share_at = Instant::now() + self.lease() / 3;
        let types = self.front.types();
        let (other_layout, share, parts, has_double, others, known_types): Shared =
            self.shared().link.rerun(&self.sharing(keeper)).await?;
        self.front.tell_double(has_double, &mut keeper.has_double);
        self.front.tell_differing(&mut keeper.differing, &others);
        let mut taken = Vec::new();
        for (number, (epoch, last, is_recovered)) in parts.into_iter().enumerate() {
            if self.owned().epoch(number) == epoch {
                continue;
            }
            if !self.owned().epoch(number).is_empty() {
                self.forget(keeper, number);
            }
            if !epoch.is_empty() {
                self.owned().add(number, self.part(number, epoch), is_recovered, last);
                taken.push(number);
            }
        }
        if !taken.is_empty() {
            tracing::info!(group = %self.front.group, partitions = ?taken, "partitions taken");
        }
        self.note_layout(keeper, other_layout);
        let owned = self.owned().consumers().len();
        let keeps = if keeper.has_other_layout { 0 } else { share };
        self.owned().leave(owned.saturating_sub(keeps));
        if owned < keeps {
            keeper.share_at = keeper.share_at.min(Instant::now() + WANTING);
        }
        let knows_less = known_types < std::mem::replace(&mut keeper.known_types, known_types);
        if keeper.others != others || knows_less || keeper.types != types {
            (keeper.others, keeper.types) = (others, types);
            self.look_again_at_what_was_left();
        }
        self.changed.notify_one();
        self.let_leave(keeper).await
    }

    /// What shows that it lives, and keeps and takes partitions.
    fn sharing(&self, keeper: &Keeper) -> ScriptInvocation<'static> {
        let shared = self.shared();
        let lease_ms = shared.config.partition_lease_ms;
        let mut share = script::SHARE.key(&self.front.keys.members);
        share.key(keys::layout(&shared.home));
        for part in &shared.partitions {
            let stream = &part.stream;
            share.key(keys::lease(stream, &self.front.group)).key(stream).key(keys::floors(stream));
        }
        share.key(&self.front.keys.known_types);
        share.arg(self.front.group.as_str()).arg(&self.front.name).arg(self.front.types());
        share.arg(lease_ms.saturating_mul(2)).arg(&shared.instance).arg(lease_ms).arg(shared.generation());
        share.arg(u8::from(!keeper.has_other_layout)).arg(self.front.busy());
        let owned = self.owned();
        for number in 0..shared.partitions.len() {
            share.arg(owned.epoch(number));
        }
        drop(owned);
        for number in shuffled(shared.partitions.len()) {
            share.arg(number);
        }
        share
    }

    fn part(&self, number: usize, epoch: String) -> Consumer {
        let part = &self.shared().partitions[number];
        let lease = keys::lease(&part.stream, &self.front.group);
        let fence = Fence { lease, owner: self.shared().instance.clone(), epoch };
        Consumer::of_partition(part, &self.front.group, &self.front.hand, fence)
    }

    /// The number of partitions was changed, and this bus knows only the former ones.
    fn note_layout(&self, keeper: &mut Keeper, partitions: usize) {
        if partitions > 0 && !std::mem::replace(&mut keeper.has_other_layout, true) {
            let (stream, configured) = (&self.shared().home, self.shared().partitions.len());
            tracing::error!(
                stream,
                partitions,
                configured,
                "the stream has another number of partitions now: set `partitions` and start again"
            );
        }
    }

    /// Reads entries again that were left to other members: their handlers may have gone, a handler of them may have come
    /// here, or an operator may have had the group forget their type.
    fn look_again_at_what_was_left(&self) {
        let mut owned = self.owned();
        for (_, part) in owned.consumers() {
            let left = std::mem::take(&mut *part.left());
            if !left.is_empty() {
                owned.read_again(&part);
            }
        }
    }

    /// Lets partitions go that are to be left, and of which nothing is being handled.
    pub(super) async fn let_leave(&self, keeper: &mut Keeper) -> Result<(), CommandError> {
        let leaving = self.owned().leaving();
        if leaving.is_empty() {
            return Ok(());
        }
        {
            let owned = self.owned();
            self.front.hand.give_back_if(|id| owned.place(id).is_some_and(|place| leaving.contains(&place)));
        }
        self.distribute(keeper);
        let mut release = script::RELEASE.prepare_invoke();
        let mut released = Vec::new();
        {
            let owned = self.owned();
            let busy: HashSet<_> = self.front.hand.ids().iter().filter_map(|id| owned.place(id)).collect();
            for (number, part) in owned.consumers() {
                let is_written = keeper.papers.get(&number).is_none_or(Paper::is_empty) && part.not_ours().is_empty();
                if let Some(fence) = &part.fence
                    && leaving.contains(&number)
                    && !busy.contains(&number)
                    && is_written
                {
                    release.key(&fence.lease).arg(&fence.epoch);
                    released.push(number);
                }
            }
        }
        if released.is_empty() {
            return Ok(());
        }
        self.shared().link.rerun::<u64>(&release).await?;
        tracing::info!(group = %self.front.group, partitions = ?released, "partitions left to other consumers");
        let mut owned = self.owned();
        for number in released {
            owned.remove(number);
            keeper.papers.remove(&number);
        }
        drop(owned);
        self.changed.notify_one();
        Ok(())
    }
}

/// The numbers below a limit, in an order that differs from one consumer and time to the next.
fn shuffled(limit: usize) -> Vec<usize> {
    let random = RandomState::new();
    let mut numbers: Vec<usize> = (0..limit).collect();
    numbers.sort_by_cached_key(|number| random.hash_one(number));
    numbers
}
