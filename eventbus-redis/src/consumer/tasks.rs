//! The tasks of a consumer: they write dispositions, send heartbeats, renew claims, and reclaim
//! entries of dead consumers.
//!
//! Invariant: the consumer reads no entry a second time that may still be on its way to it, and reclaims no entries of
//! dead consumers before its own pending entries are in flight.

use std::{collections::HashSet, future::ready};

use eventbus::{port::MessageId, support::PAGE_BYTES};
use tokio::time::{Instant, Interval};

use super::{
    acknowledger::{AckBatch, AckBatchOutcome},
    inner::{MAINTENANCE_INTERVAL_MIN, RANGE_START},
    membership::MemberLog,
    parts::ConsumerParts,
    reader::CaughtUp,
    task_loop::{CLAIM_INTERVAL_MAX, ConsumerTasks, FailedTasks, delayed_interval},
};
use crate::{command, error::CommandError};

/// Pages without an entry of a dead consumer that one run searches at most.
const EMPTY_CLAIM_PAGES_MAX: usize = 10;

/// A task of a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamTask {
    WriteBatch,
    ReadDue,
    RenewClaims,
    Heartbeat,
    ClaimIdle,
    CollectGarbage,
    /// Both at once, when the consumer has joined its group: neither waits for its interval.
    HeartbeatAndClaim,
}

/// The state of these tasks.
pub(super) struct StreamTasks<'a> {
    parts: &'a ConsumerParts,
    caught_up: &'a CaughtUp,
    batch: AckBatch,
    /// Entries whose claim is still to be renewed, some at a time, so that no acknowledgement waits for all of them.
    claims_to_renew: Vec<MessageId>,
    /// Cursor of the search for entries of dead consumers.
    claim_cursor: String,
    /// Cursor of the search for unused attempt records.
    garbage_cursor: String,
    /// Entries that the last heartbeat found pending on this consumer and not in flight.
    missing: HashSet<String>,
    log: MemberLog,
    renewal: Interval,
    heartbeat: Interval,
    claim: Interval,
    garbage_collection: Interval,
}

impl<'a> StreamTasks<'a> {
    pub(super) fn new(parts: &'a ConsumerParts, caught_up: &'a CaughtUp) -> Self {
        let idle = parts.inner.pending_idle();
        Self {
            parts,
            caught_up,
            batch: AckBatch::default(),
            claims_to_renew: Vec::new(),
            claim_cursor: RANGE_START.into(),
            garbage_cursor: "0".into(),
            missing: HashSet::new(),
            log: MemberLog::default(),
            renewal: delayed_interval(idle / 3),
            heartbeat: delayed_interval(parts.membership.heartbeat_interval()),
            claim: delayed_interval((idle / 6).clamp(MAINTENANCE_INTERVAL_MIN, CLAIM_INTERVAL_MAX)),
            garbage_collection: delayed_interval(idle.max(CLAIM_INTERVAL_MAX)),
        }
    }

    async fn write_disposed(&mut self) -> Result<(), CommandError> {
        self.batch.add(self.parts.inner.in_flight().take_disposed());
        if !self.has_unwritten() {
            return Ok(());
        }
        self.parts.acknowledger.write_ready(&mut self.batch, &mut AckBatchOutcome::default()).await
    }

    /// Renews the claim on one batch of `claims_to_renew` and removes it from the list. A claim on an entry that no handler
    /// here can read is not renewed, so that other consumers get it.
    ///
    /// Invariant: each call sends one script, so that it never waits behind all acknowledgements.
    async fn renew_some_claims(&mut self) -> Result<(), CommandError> {
        let inner = &self.parts.inner;
        let rest = self.claims_to_renew.len().saturating_sub(command::SCRIPT_BATCH_MAX);
        let mut ids = self.claims_to_renew[rest..].to_vec();
        // an entry acknowledged since is no longer pending
        ids.retain(|id| inner.entries().contains(id));
        let (unreadable, renewed): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| inner.entries().is_unreadable(id));
        let (lost, free) = self.parts.membership.renew_claims(&unreadable, &renewed).await?;
        self.claims_to_renew.truncate(rest);
        inner.entries().unkeep(lost.iter().chain(&free));
        // an entry acknowledged meanwhile is not lost
        let lost: Vec<_> = lost.into_iter().filter(|id| inner.in_flight().contains(id)).collect();
        inner.release_lost(&lost);
        Ok(())
    }

    /// Sends a heartbeat; finds entries that are pending on the consumer and not in flight.
    ///
    /// Invariant: the expected number is read after the heartbeat, so that an entry received meanwhile is not missing.
    async fn heartbeat(&mut self) -> Result<(), CommandError> {
        let ConsumerParts { inner, membership, .. } = self.parts;
        let Some((pending, is_duplicate)) = membership.heartbeat().await? else {
            return Ok(());
        };
        self.log.log_duplicate_name(inner, is_duplicate, inner.pending_idle());
        if pending <= inner.entries().len() || !self.caught_up.is_done() {
            self.missing.clear();
            return Ok(());
        }
        self.reclaim_missing().await
    }

    /// Reads missing entries again. An entry may be on its way from the server, so only those missing twice in a row
    /// count.
    async fn reclaim_missing(&mut self) -> Result<(), CommandError> {
        let ConsumerParts { inner, receiver, .. } = self.parts;
        let before = std::mem::take(&mut self.missing);
        let (mut from, mut missing_twice) = (RANGE_START.to_owned(), Vec::new());
        let mut room = inner.in_flight().free();
        loop {
            let ids = receiver.list_own_pending(&from, command::SCRIPT_BATCH_MAX).await?;
            let Some(last) = ids.last() else {
                break;
            };
            from = format!("({last}");
            for id in inner.entries().filter_missing(ids) {
                if before.contains(&id) && room > 0 {
                    room -= 1;
                    missing_twice.push(id);
                } else {
                    self.missing.insert(id);
                }
            }
        }
        let count = inner.bus().config().batch_size.min(command::SCRIPT_BATCH_MAX);
        let mut ids = &missing_twice[..];
        while !ids.is_empty() {
            let (reached, reclaimed) = receiver.reclaim_own(&ids[..count.min(ids.len())], PAGE_BYTES).await?;
            receiver.receive_reclaimed(reclaimed);
            ids = &ids[reached..];
        }
        Ok(())
    }

    /// Reclaims entries of dead consumers as far as there is room. Stops after [`EMPTY_CLAIM_PAGES_MAX`] pages without
    /// one; the next run continues there.
    async fn claim_idle(&mut self) -> Result<(), CommandError> {
        let ConsumerParts { inner, receiver, .. } = self.parts;
        let config = inner.bus().config();
        let mut pages_in_vain = 0;
        while pages_in_vain < EMPTY_CLAIM_PAGES_MAX && self.caught_up.is_done() {
            let count = inner.in_flight().free().min(config.batch_size).min(command::SCRIPT_BATCH_MAX);
            if count == 0 {
                return Ok(());
            }
            let (cursor, reclaimed) =
                receiver.claim_page(&self.claim_cursor, config.pending_idle_ms, true, count).await?;
            self.claim_cursor = cursor;
            pages_in_vain += usize::from(reclaimed.entries.is_empty());
            receiver.log_recovered(receiver.receive_reclaimed(reclaimed));
            if self.claim_cursor == RANGE_START {
                break;
            }
        }
        Ok(())
    }
}

impl ConsumerTasks for StreamTasks<'_> {
    type Task = StreamTask;
    const WRITE: StreamTask = StreamTask::WriteBatch;
    const READ_DUE: StreamTask = StreamTask::ReadDue;

    fn has_unwritten(&self) -> bool {
        !self.batch.is_empty() || self.parts.inner.entries().has_discarded()
    }

    fn gathers_until(&self) -> Option<Instant> {
        self.batch.gathers_until()
    }

    async fn next_task(&mut self, failed: &FailedTasks<StreamTask>) -> StreamTask {
        let renews = !self.claims_to_renew.is_empty();
        // one task after the other: they share the batch and the lists of entries
        tokio::select! {
            () = self.caught_up.wait() => StreamTask::HeartbeatAndClaim,
            _ = self.renewal.tick(), if !renews => {
                self.claims_to_renew = self.parts.inner.entries().ids();
                StreamTask::RenewClaims
            }
            () = ready(()), if renews && !failed.contains(StreamTask::RenewClaims) => StreamTask::RenewClaims,
            _ = self.heartbeat.tick() => StreamTask::Heartbeat,
            _ = self.claim.tick() => StreamTask::ClaimIdle,
            _ = self.garbage_collection.tick() => StreamTask::CollectGarbage,
        }
    }

    async fn run_task(&mut self, task: StreamTask) -> Result<(), CommandError> {
        let done = match task {
            StreamTask::WriteBatch => self.write_disposed().await,
            StreamTask::ReadDue => {
                // writes attempts that still gather: the server returns them with the entries
                self.batch.gather_no_more();
                match self.write_disposed().await {
                    Ok(()) => self.parts.receiver.read_due(self.parts.inner.in_flight().take_due()).await,
                    failed => failed,
                }
            }
            StreamTask::RenewClaims => self.renew_some_claims().await,
            StreamTask::Heartbeat => self.heartbeat().await,
            StreamTask::ClaimIdle => self.claim_idle().await,
            StreamTask::CollectGarbage => self.parts.membership.collect_garbage(&mut self.garbage_cursor).await,
            StreamTask::HeartbeatAndClaim => match self.heartbeat().await {
                Ok(()) => self.claim_idle().await,
                failed => failed,
            },
        };
        match done {
            // recreates it here too: the reader may be waiting for room, and only a write makes room
            Err(error) if command::is_group_missing(&error) => self.parts.inner.create_group().await,
            done => done,
        }
    }

    async fn shut_down(&mut self, nacked: &[MessageId]) -> Result<(), CommandError> {
        let ConsumerParts { inner, acknowledger, membership, .. } = self.parts;
        self.batch.add(inner.in_flight().take_disposed());
        let ended = match acknowledger.write_batch(&mut self.batch, &mut AckBatchOutcome::default()).await {
            Ok(()) => membership.deregister(nacked, inner.bus().has_temporary_name()).await,
            Err(error) => Err(error),
        };
        // without a group no entry is pending
        ended.or_else(|error| if command::is_group_missing(&error) { Ok(()) } else { Err(error) })
    }

    fn log_unfinished(&self, nacked: usize) {
        let inner = &self.parts.inner;
        let count = inner.in_flight().len() + nacked;
        tracing::warn!(group = %inner.group(), count, "the consumer ended before the server answered: its in-flight entries will be redelivered");
    }
}
