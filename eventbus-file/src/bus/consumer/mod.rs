//! Consuming for groups: one worker at a time owns a group.

mod group_consumer;
mod in_flight_update;
mod owned_progress;

use std::sync::Arc;

use eventbus::{Name, delivery::StopSignal, support::Outage};

use self::group_consumer::Consumer;
use crate::{inner::QueueInner, poll_backoff::PollBackoff};

/// Consumes for a group whenever no other worker does, until `stop`.
///
/// | state | event | next state |
/// |---|---|---|
/// | standby | the group's claim is free, and this worker acquires it | owner |
/// | standby | a different worker owns the claim, or the file system refuses | standby, polls again |
/// | owner | a cycle succeeds: the claim is renewed | owner |
/// | owner | the file system refuses | owner, retries until the claim expires |
/// | owner | the claim expired or passed on, or the folder holds a new queue | standby; nothing is written |
/// | owner | `stop`, and the running handlers have ended | stopped, with the claim released |
/// | standby | `stop` | stopped |
pub(super) async fn consume(queue: Arc<QueueInner>, group: Name, stop: StopSignal) {
    let mut poll_backoff = PollBackoff::new(&queue);
    let (mut is_standby, mut outage) = (false, Outage::new(queue.config().clock.clone()));
    while !stop.is_stopped() {
        let key = group.clone();
        let acquire =
            move |queue: &QueueInner| queue.groups().acquire_group(&key, queue.subscribers(), queue.dead_letters());
        let acquired = queue.blocking(acquire).await;
        if acquired.is_ok()
            && let Some(lasted) = outage.ends()
        {
            tracing::info!(%group, ?lasted, "the group can be consumed for again");
        }
        match acquired {
            Ok(Some(owned)) => {
                tracing::debug!(%group, epoch = owned.claim.epoch, "consuming for the group");
                let worker_id = owned.claim.worker_id.clone();
                let was_lost = Consumer::new(&queue, &group, owned, &mut outage).run(&stop).await;
                if was_lost {
                    tracing::warn!(
                        %group,
                        worker_id,
                        "this worker lost the group: a different worker, or a process with the same worker id, took it \
                         over, its claim expired, or the folder was made anew"
                    );
                }
                is_standby = false;
                poll_backoff.reset();
                continue;
            }
            Ok(None) => {
                if !std::mem::replace(&mut is_standby, true) {
                    tracing::info!(
                        %group, "a different worker consumes for the group, this one takes over when the claim expires"
                    );
                }
            }
            Err(error) => {
                if outage.begins() {
                    tracing::error!(%group, error = error.log(), "cannot consume for the group, trying again");
                }
            }
        }
        // a release of the claim by its owner also wakes `poll_backoff`
        stop.run_until_stopped(poll_backoff.wait()).await;
    }
}
