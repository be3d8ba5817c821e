//! Membership: heartbeats of a consumer, the other members of its group, and entries that dead consumers left pending.
//!
//! Invariant: the consumer reads no entry a second time that may still be on its way to it, and reclaims no entries of
//! dead consumers before its own pending entries are in flight.
//!
//! Membership of a consumer, as the hash `members` records it:
//!
//! | state | event | next state |
//! |---|---|---|
//! | absent | first heartbeat | live |
//! | live | heartbeat within the announced time | live |
//! | live | the consumer shuts down | left: others may claim its idle entries at once |
//! | live | the announced time passes | expired: others reclaim its entries, as redelivered |
//! | left | first heartbeat of the same name | live: its pending entries do not count as redelivered |
//! | expired | heartbeat of the same instance | live |
//! | expired, absent | first heartbeat of the same name | live: its pending entries count as redelivered |
//! | left, expired | the announced time is over, and no entry is pending on the name | absent |

use std::{collections::HashMap, sync::atomic::Ordering};

use eventbus::support::PAGE_BYTES;
use redis::ScriptInvocation;

use super::{Consumer, acknowledger::Acknowledger, read::RANGE_START, receive::ReclaimedEntries};
use crate::{command, error::CommandError, script};

/// Pending entries that one claim script searches for those of dead consumers.
const PENDING_PAGE_LEN: usize = 1_000;
/// Pages without such an entry that one run searches at most.
const EMPTY_CLAIM_PAGES_MAX: usize = 10;

/// Types of each member that handles other types than this one: its types, and this consumer's.
pub(super) type TypeMismatches = HashMap<String, (String, String)>;

impl Consumer {
    /// Sends a heartbeat with the handled types; finds entries that are pending on the consumer and not in flight.
    ///
    /// The reader sends the first one: before it, the reader must check how the previous consumer of this name ended.
    pub(super) async fn heartbeat(&self, acknowledger: &mut Acknowledger) -> Result<(), CommandError> {
        if !self.is_announced.load(Ordering::Acquire) {
            return Ok(());
        }
        let (pending, is_duplicate, others, absent, renew_from, last): (
            usize,
            bool,
            Vec<String>,
            usize,
            String,
            String,
        ) = self.bus.connection().run_idempotent(&self.heartbeat_script(&acknowledger.renew_from)).await?;
        acknowledger.renew_from = renew_from;
        if absent > 0 && self.has_caught_up() {
            self.claim_handed_off(&mut acknowledger.handoff_cursor, &last).await?;
        }
        self.log_type_mismatches(&mut acknowledger.type_mismatches, &others);
        self.log_duplicate_name(is_duplicate, &mut acknowledger.has_duplicate_name);
        let expected = self.in_flight.len() + self.kept_pending().len();
        if pending <= expected || !self.has_caught_up() {
            acknowledger.missing.clear();
            return Ok(());
        }
        self.reclaim_missing(acknowledger).await
    }

    pub(super) fn log_duplicate_name(&self, is_duplicate: bool, was_logged: &mut bool) {
        if is_duplicate && !std::mem::replace(was_logged, true) {
            tracing::error!(
                group = %self.group, consumer = self.name,
                "another consumer of this name is alive: both handle what is pending on it; `consumer_name` must be unique"
            );
        }
    }

    /// Prepares the heartbeat, which also returns the state of the group.
    pub(super) fn heartbeat_script(&self, renew_from: &str) -> ScriptInvocation<'static> {
        let mut heartbeat = script::consumer::HEARTBEAT.key(self.bus.stream());
        heartbeat.key(&self.keys.members).key(&self.keys.floors);
        let live_ms = self.bus.config().pending_idle_ms;
        heartbeat.arg(self.group.as_str()).arg(&self.name).arg(self.announced_types()).arg(live_ms);
        heartbeat.arg(self.bus.instance()).arg(u8::from(self.is_announced.load(Ordering::Acquire)));
        heartbeat.arg(self.long_run_json()).arg(renew_from);
        let renewed_within = self.pending_idle() / 3;
        heartbeat.arg((renewed_within.as_millis() / self.heartbeat_interval().as_millis().max(1)).max(1) as u64);
        heartbeat
    }

    /// Reads missing entries again. An entry may be on its way from the server, so only those missing twice in a row
    /// count.
    async fn reclaim_missing(&self, acknowledger: &mut Acknowledger) -> Result<(), CommandError> {
        let before = std::mem::take(&mut acknowledger.missing);
        let (mut from, mut missing_twice) = ("-".to_owned(), Vec::new());
        let mut room = self.in_flight.free();
        loop {
            let list = command::pending_of_consumer(
                self.bus.stream(),
                &self.group,
                &self.name,
                &from,
                command::SCRIPT_BATCH_MAX,
            );
            let ids = command::parse_pending_ids(self.bus.connection().query(&list).await?)?;
            let Some(last) = ids.last() else {
                break;
            };
            from = format!("({last}");
            for id in self.filter_not_in_flight(ids) {
                if before.contains(&id) && room > 0 {
                    room -= 1;
                    missing_twice.push(id);
                } else {
                    acknowledger.missing.insert(id);
                }
            }
        }
        for ids in missing_twice.chunks(self.bus.config().batch_size.min(command::SCRIPT_BATCH_MAX)) {
            if let Some(reclaim) = self.reclaim_own_script(ids) {
                let (entries, attempts, deleted) = self.run_idempotent(reclaim).await?;
                self.receive_reclaimed(ReclaimedEntries::parse(entries, attempts, deleted)?);
            }
        }
        Ok(())
    }

    /// Logs members that handle other types, unless logged before.
    pub(super) fn log_type_mismatches(&self, before: &mut TypeMismatches, others: &[String]) {
        let own = self.announced_types();
        let others = others.chunks_exact(2).map(|other| (other[0].clone(), other[1].clone()));
        let mismatches: HashMap<_, _> =
            others.filter(|(_, types)| *types != own).map(|(member, types)| (member, (types, own.clone()))).collect();
        for (member, sets) in &mismatches {
            if before.get(member) != Some(sets) {
                let (types, own) = sets;
                tracing::warn!(
                    group = %self.group, consumer = self.name, handles = %own, member, member_handles = %types,
                    "members of one group handle different events; each event is left to a member that handles it"
                );
            }
        }
        *before = mismatches;
    }

    /// Reclaims entries of dead consumers as far as there is room. Stops after [`EMPTY_CLAIM_PAGES_MAX`] pages without
    /// one; the next run continues there.
    pub(super) async fn claim_idle(&self, acknowledger: &mut Acknowledger) -> Result<(), CommandError> {
        let mut pages_in_vain = 0;
        while pages_in_vain < EMPTY_CLAIM_PAGES_MAX && self.has_caught_up() {
            let count = self.in_flight.free().min(self.bus.config().batch_size).min(command::SCRIPT_BATCH_MAX);
            if count == 0 {
                return Ok(());
            }
            let idle = self.bus.config().pending_idle_ms;
            let (cursor, reclaimed) = self.claim_page(&acknowledger.claim_cursor, idle, count).await?;
            acknowledger.claim_cursor = cursor;
            pages_in_vain += usize::from(reclaimed.entries.is_empty());
            let recovered = self.receive_reclaimed(reclaimed);
            self.log_recovered(recovered);
            if acknowledger.claim_cursor == RANGE_START {
                break;
            }
        }
        Ok(())
    }

    /// Reclaims up to `count` entries of one page of pending ones. Returns the next cursor, [`RANGE_START`] at the end.
    pub(super) async fn claim_page(
        &self,
        cursor: &str,
        idle_ms: u64,
        count: usize,
    ) -> Result<(String, ReclaimedEntries), CommandError> {
        let mut claim = self.script(&script::consumer::CLAIM_IDLE);
        claim.key(&self.keys.retry).key(&self.keys.relay).key(&self.keys.members);
        claim.arg(self.group.as_str()).arg(&self.name).arg(idle_ms).arg(cursor).arg(PENDING_PAGE_LEN).arg(count);
        claim.arg(PAGE_BYTES).arg(u8::from(self.fencing_token.is_some()));
        let (cursor, entries, attempts, deleted, ended): (_, _, _, _, Vec<bool>) = self.run_idempotent(claim).await?;
        Ok((cursor, ReclaimedEntries::parse(entries, attempts, deleted)?.with_owner_ended(ended)))
    }

    pub(super) fn log_recovered(&self, count: usize) {
        if count > 0 {
            self.bus.counters().messages_recovered(count as u64);
            tracing::info!(group = %self.group, count, "entries of dead consumers reclaimed");
        }
    }

    /// Removes consumer names and attempt records that are no longer used.
    pub(super) async fn collect_garbage(&self, cursor: &mut String) -> Result<(), CommandError> {
        let config = self.bus.config();
        let (idle, age) =
            (config.pending_idle_ms.saturating_mul(10), config.retry_key_expiry_seconds.saturating_mul(1_000));
        let mut collection = script::consumer::COLLECT_GARBAGE.key(self.bus.stream());
        collection.key(&self.keys.retry);
        collection.arg(self.group.as_str()).arg(&self.name).arg(idle).arg(age).arg(&*cursor);
        let mut reply: Vec<String> = self.bus.connection().run_idempotent(&collection).await?;
        let gone = reply.split_off(1.min(reply.len()));
        *cursor = reply.pop().unwrap_or_else(|| "0".into());
        if !gone.is_empty() {
            tracing::info!(group = %self.group, consumers = ?gone, "names of dead consumers removed");
        }
        Ok(())
    }
}
