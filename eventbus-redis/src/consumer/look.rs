//! Looking around: who else is in the group, and what was left behind.
//!
//! Keep: what may be on its way to this consumer is not taken again, and nothing of others is taken over before what was
//! its own is in hand.

use std::{collections::HashMap, sync::atomic::Ordering};

use eventbus::port::PAGE_BYTES;
use redis::ScriptInvocation;

use super::{Consumer, intake::Retaken, keep::Keeper, read::FIRST};
use crate::{command, connection::CommandError, script};

/// How many pending entries are looked at in one go for those of consumers that show no life.
const PENDING_TOGETHER: usize = 1_000;
/// How many times so many are looked at without finding one, until the next time.
const MOST_PAGES_IN_VAIN: usize = 10;

/// Members that handle other types than this one: theirs, and its own.
pub(super) type Differing = HashMap<String, (String, String)>;

impl Consumer {
    /// Shows that it lives and what it handles; finds entries that are pending on it without being in hand.
    ///
    /// The reader shows it first: it must find out before what became of the consumer that had the name before.
    pub(super) async fn look(&self, keeper: &mut Keeper) -> Result<(), CommandError> {
        if !self.is_announced.load(Ordering::Acquire) {
            return Ok(());
        }
        let (pending, has_double, others, absent, renew_from, last): (usize, bool, Vec<String>, usize, String, String) =
            self.shared.link.rerun(&self.looking(&keeper.renew_from)).await?;
        keeper.renew_from = renew_from;
        if absent > 0 && self.has_caught_up() {
            self.take_back(&mut keeper.left, &last).await?;
        }
        self.tell_differing(&mut keeper.differing, &others);
        self.tell_double(has_double, &mut keeper.has_double);
        let expected = self.hand.len() + self.left().len();
        if pending <= expected || !self.has_caught_up() {
            keeper.missing.clear();
            return Ok(());
        }
        self.find_missing(keeper).await
    }

    pub(super) fn tell_double(&self, has_double: bool, was_told: &mut bool) {
        if has_double && !std::mem::replace(was_told, true) {
            tracing::error!(
                group = %self.group, consumer = self.name,
                "another consumer of this name is alive: both handle what is pending on it; `consumer_name` must be unique"
            );
        }
    }

    /// What shows that it lives, says what it handles, and tells what there is to see.
    pub(super) fn looking(&self, renew_from: &str) -> ScriptInvocation<'static> {
        let mut look = script::LOOK.key(&self.shared.stream);
        look.key(&self.keys.members).key(&self.keys.floors);
        let live_ms = self.shared.config.pending_idle_ms;
        look.arg(self.group.as_str()).arg(&self.name).arg(self.types()).arg(live_ms);
        look.arg(&self.shared.instance).arg(u8::from(self.is_announced.load(Ordering::Acquire)));
        look.arg(self.busy()).arg(renew_from);
        let renewed_within = self.pending_idle() / 3;
        look.arg((renewed_within.as_millis() / self.look_period().as_millis().max(1)).max(1) as u64);
        look
    }

    /// An entry may be on its way from the server: only one that was missing before is taken again.
    async fn find_missing(&self, keeper: &mut Keeper) -> Result<(), CommandError> {
        let before = std::mem::take(&mut keeper.missing);
        let (mut from, mut again) = ("-".to_owned(), Vec::new());
        let mut room = self.hand.free();
        loop {
            let list = command::pending_on(&self.shared.stream, &self.group, &self.name, &from, command::TOGETHER);
            let ids = command::ids(self.shared.link.query(&list).await?)?;
            let Some(last) = ids.last() else {
                break;
            };
            from = format!("({last}");
            for id in self.not_in_hand(ids) {
                if before.contains(&id) && room > 0 {
                    room -= 1;
                    again.push(id);
                } else {
                    keeper.missing.insert(id);
                }
            }
        }
        for ids in again.chunks(self.shared.config.batch_size.min(command::TOGETHER)) {
            if let Some(retake) = self.retake(ids) {
                let (entries, noted, deleted) = self.rerun(retake).await?;
                self.take_again(Retaken::read(entries, noted, deleted)?);
            }
        }
        Ok(())
    }

    /// Tells of members that handle other types, if that is news.
    pub(super) fn tell_differing(&self, before: &mut Differing, others: &[String]) {
        let own = self.types();
        let others = others.chunks_exact(2).map(|other| (other[0].clone(), other[1].clone()));
        let differing: HashMap<_, _> =
            others.filter(|(_, types)| *types != own).map(|(member, types)| (member, (types, own.clone()))).collect();
        for (member, sets) in &differing {
            if before.get(member) != Some(sets) {
                let (types, own) = sets;
                tracing::warn!(
                    group = %self.group, consumer = self.name, handles = %own, member, member_handles = %types,
                    "members of one group handle different events; each event is left to a member that handles it"
                );
            }
        }
        *before = differing;
    }

    /// Takes entries over from consumers that show no life, as far as there is room. It goes through what is pending as
    /// long as it finds some soon: the rest is for the next time.
    pub(super) async fn claim(&self, keeper: &mut Keeper) -> Result<(), CommandError> {
        let mut pages_in_vain = 0;
        while pages_in_vain < MOST_PAGES_IN_VAIN && self.has_caught_up() {
            let count = self.hand.free().min(self.shared.config.batch_size).min(command::TOGETHER);
            if count == 0 {
                return Ok(());
            }
            let idle = self.shared.config.pending_idle_ms;
            let (cursor, retaken) = self.claim_some(&keeper.cursor, idle, count).await?;
            keeper.cursor = cursor;
            pages_in_vain += usize::from(retaken.entries.is_empty());
            let recovered = self.take_again(retaken);
            self.tell_recovered(recovered);
            if keeper.cursor == FIRST {
                break;
            }
        }
        Ok(())
    }

    /// Takes over so many entries at most, of a page of what is pending; says from where to go on, [`FIRST`] at the end.
    pub(super) async fn claim_some(
        &self,
        cursor: &str,
        idle_ms: u64,
        count: usize,
    ) -> Result<(String, Retaken), CommandError> {
        let mut claim = self.script(&script::CLAIM);
        claim.key(&self.keys.retry).key(&self.keys.relay).key(&self.keys.members);
        claim.arg(self.group.as_str()).arg(&self.name).arg(idle_ms).arg(cursor).arg(PENDING_TOGETHER).arg(count);
        claim.arg(PAGE_BYTES).arg(u8::from(self.fence.is_some()));
        let (cursor, entries, noted, deleted, ended): (_, _, _, _, Vec<bool>) = self.rerun(claim).await?;
        Ok((cursor, Retaken::read(entries, noted, deleted)?.of_processes(ended)))
    }

    pub(super) fn tell_recovered(&self, count: usize) {
        if count > 0 {
            self.shared.counters.messages_recovered(count as u64);
            tracing::info!(group = %self.group, count, "entries of consumers that show no life taken over");
        }
    }

    /// Removes what dead consumers left behind.
    pub(super) async fn sweep(&self, cursor: &mut String) -> Result<(), CommandError> {
        let config = &self.shared.config;
        let (idle, age) =
            (config.pending_idle_ms.saturating_mul(10), config.retry_key_expiry_seconds.saturating_mul(1_000));
        let mut sweep = script::SWEEP.key(&self.shared.stream);
        sweep.key(&self.keys.retry);
        sweep.arg(self.group.as_str()).arg(&self.name).arg(idle).arg(age).arg(&*cursor);
        let mut reply: Vec<String> = self.shared.link.rerun(&sweep).await?;
        let gone = reply.split_off(1.min(reply.len()));
        *cursor = reply.pop().unwrap_or_else(|| "0".into());
        if !gone.is_empty() {
            tracing::info!(group = %self.group, consumers = ?gone, "names of consumers that are long gone removed");
        }
        Ok(())
    }
}
