//! Trimming: keeps the stream within its configured limits while consuming.
//!
//! Real time, not the given clock: other consumers, and the ages of entries by the clock of Redis.

use std::time::Duration;

use eventbus::delivery::StopSignal;
use tokio::time::{Instant, sleep};

use super::{inner::ConsumerInner, outage_log::OutageLog};
use crate::{
    Trim,
    trim::{self, TrimBlocker},
};

/// Interval between two searches for entries to remove.
const TRIM_INTERVAL: Duration = Duration::from_secs(1);
/// Pause between two steps, for other clients of the server.
const TRIM_STEP_PAUSE: Duration = Duration::from_millis(1);
/// Minimum time before the same blocking group is logged again.
const BLOCKER_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Trims the stream while a consumer consumes, if there is a limit. Only consumers of the bus's first group do
/// so; several may trim at once.
pub(super) async fn trim(consumer: &ConsumerInner, stop: &StopSignal) {
    let (bus, group) = (consumer.bus(), consumer.group());
    let config = bus.config();
    let limits =
        Trim { max_length: config.trim_max_length, max_age: config.trim_max_age_seconds.map(Duration::from_secs) };
    if limits == Trim::default() {
        return;
    }
    let mut outage_log = OutageLog::new("trimming", group.clone());
    let mut blocker_log = BlockerLog::default();
    let mut pause = TRIM_INTERVAL;
    loop {
        if stop.run_until_stopped(sleep(pause)).await.is_none() {
            return;
        }
        pause = TRIM_INTERVAL;
        if bus.subscribers().groups().first() != Some(group) {
            continue;
        }
        // a step that was sent completes on the server
        let Some(step) = stop.run_until_stopped(trim::trim_step(bus, limits)).await else { return };
        let held_by = match step {
            Ok(step) => {
                outage_log.record_success();
                if step.has_more {
                    pause = TRIM_STEP_PAUSE;
                }
                step.held_by
            }
            Err(error) => {
                pause = pause.max(outage_log.record_failure(&error));
                None
            }
        };
        if blocker_log.should_log(held_by.as_ref(), Instant::now()) {
            log_trim_blocker(bus.stream(), held_by.as_ref());
        }
    }
}

fn log_trim_blocker(stream: &str, held_by: Option<&TrimBlocker>) {
    let Some(TrimBlocker { group, reason, oldest, age }) = held_by else {
        return;
    };
    tracing::info!(stream, group, ?reason, %oldest, ?age, "a group that is behind blocks trimming");
}

/// The blocking group that was logged last.
#[derive(Default)]
struct BlockerLog {
    last_logged: Option<(String, Instant)>,
    is_blocked: bool,
}

impl BlockerLog {
    /// Returns `true` if a group is to be logged: a new one, or the same one after it did not block for a while.
    fn should_log(&mut self, held_by: Option<&TrimBlocker>, now: Instant) -> bool {
        let was_holding = std::mem::replace(&mut self.is_blocked, held_by.is_some());
        let Some(held_by) = held_by else {
            return false;
        };
        let is_known = self.last_logged.as_ref().is_some_and(|(group, at)| {
            *group == held_by.group && (was_holding || now.duration_since(*at) < BLOCKER_LOG_INTERVAL)
        });
        if !is_known {
            self.last_logged = Some((held_by.group.clone(), now));
        }
        !is_known
    }
}

#[cfg(test)]
mod tests {
    use eventbus::port::MessageId;

    use super::*;
    use crate::trim::TrimBlockReason;

    fn held_by(group: &str) -> TrimBlocker {
        let (reason, oldest) = (TrimBlockReason::Unread, MessageId::new("1-0"));
        TrimBlocker { group: group.into(), reason, oldest, age: Duration::ZERO }
    }

    #[test]
    fn a_group_is_named_once_and_again_when_it_comes_back_after_a_while() {
        let (mut holder, start) = (BlockerLog::default(), Instant::now());
        let (slow, other) = (held_by("slow"), held_by("other"));
        let mut news =
            |held_by: Option<&TrimBlocker>, seconds| holder.should_log(held_by, start + Duration::from_secs(seconds));
        assert!(!news(None, 0));
        assert!(news(Some(&slow), 1));
        assert!(!news(Some(&slow), 2));
        assert!(news(Some(&other), 3));
        assert!(news(Some(&slow), 4));
        assert!(!news(None, 5));
        assert!(!news(Some(&slow), 6), "it comes and goes");
        assert!(!news(Some(&slow), 600), "it never ceased to");
        assert!(!news(None, 601));
        assert!(news(Some(&slow), 602));
    }
}
