//! Moves of checkpoints, planned for the commit.

use eventbus::{
    Position,
    port::{Lease, Shadow},
};
use eventbus_redis_core::program::AtomicProgram;

use super::TransactionLocks;
use crate::{RedisTransactionError, inner::StoreInner, keys::StoreKeys, script::LOCK_CHECKPOINT};

#[derive(Debug)]
struct CheckpointMove {
    lease: Lease,
    from: Position,
    to: Position,
}

/// At most one move for each role, of the checkpoint or, in a rebuild, of the position of the copies.
#[derive(Debug, Default)]
pub(crate) struct CheckpointMoves(Vec<CheckpointMove>);

impl CheckpointMoves {
    /// Plans a move from `from` to `to`, or extends one that ends at `from`. Returns `false` if the checkpoint is
    /// elsewhere, or this lease may not move it.
    pub(crate) async fn advance(
        &mut self,
        inner: &StoreInner,
        shadow: Option<&Shadow>,
        locks: &mut TransactionLocks,
        lease: &Lease,
        range: (Position, Position),
    ) -> Result<bool, RedisTransactionError> {
        let (from, to) = range;
        if let Some(moved) = self.0.iter_mut().find(|moved| moved.lease.role == lease.role) {
            let goes_on = moved.lease == *lease && moved.to == from;
            if goes_on {
                moved.to = to;
            }
            return Ok(goes_on);
        }
        let keys = inner.keys();
        let (checkpoint, kind) = match shadow {
            Some(shadow) if shadow.name != lease.role => return Ok(false),
            Some(shadow) => (keys.shadow(&shadow.name), "hash"),
            None => (keys.checkpoint(&lease.role), "text"),
        };
        // the lock's name has the epoch: an owner need not wait for a former owner, whose commit is fenced
        let lock = keys.transaction_lock("checkpoint", &format!("{}:{}", lease.epoch, lease.role));
        let mut script = LOCK_CHECKPOINT.prepare_invoke();
        script.key(keys.lease(&lease.role)).key(checkpoint).key(&lock);
        script.arg(lease.owner.as_str()).arg(lease.epoch).arg(from.get());
        script.arg(locks.token()).arg(locks.ttl_ms()).arg(kind);
        let is_acquired = locks.acquire(lock, &script).await?;
        if is_acquired {
            self.0.push(CheckpointMove { lease: lease.clone(), from, to });
        }
        Ok(is_acquired)
    }

    /// Adds the steps that compare the epoch of each lease, then the checkpoint.
    pub(crate) fn add_checks(&self, keys: &StoreKeys, shadow: Option<&Shadow>, program: &mut AtomicProgram) {
        for moved in &self.0 {
            let lease = &moved.lease;
            program.step("fence").key(&keys.lease(&lease.role)).arg(&*lease.owner).arg(lease.epoch.to_string());
            let from = moved.from.to_string();
            match shadow {
                Some(shadow) => drop(program.step("filled").key(&keys.shadow(&shadow.name)).arg(from)),
                None => program.require_value(&keys.checkpoint(&lease.role), &from),
            }
        }
    }

    pub(crate) fn add_writes(&self, keys: &StoreKeys, shadow: Option<&Shadow>, program: &mut AtomicProgram) {
        for moved in &self.0 {
            let to = moved.to.to_string();
            match shadow {
                Some(shadow) => drop(program.step("fill").key(&keys.shadow(&shadow.name)).arg(to)),
                None => program.set(&keys.checkpoint(&moved.lease.role), &to),
            }
        }
    }
}
