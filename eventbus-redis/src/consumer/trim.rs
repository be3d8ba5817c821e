//! Keeping the stream as short as the configuration says, while consuming.
//!
//! Real time, not the given clock: other consumers, and the ages of entries by the clock of Redis.

use std::{sync::Arc, time::Duration};

use eventbus::port::StopSignal;
use tokio::time::{Instant, sleep};

use super::{Consumer, trouble::Trouble};
use crate::{
    Trim,
    bus::Shared,
    trim::{HeldBy, HeldReason, older},
};

/// How often is looked for entries to remove.
const TRIM: Duration = Duration::from_secs(1);
/// How long the server is left alone between two steps.
const BREATH: Duration = Duration::from_millis(1);
/// How often a group that holds entries every now and then is named.
const NAME_AGAIN: Duration = Duration::from_secs(60);

impl Consumer {
    /// Trims the stream while consuming, if there is a limit. Several may do it at once; of the groups of one bus the
    /// consumers of the first do, for the streams that they read.
    pub(super) async fn trim(&self, stop: &StopSignal, streams: impl Fn() -> Vec<Arc<Shared>>) {
        let config = &self.shared.config;
        let limits =
            Trim { max_length: config.trim_max_length, max_age: config.trim_max_age_seconds.map(Duration::from_secs) };
        if limits == Trim::default() {
            return;
        }
        let mut trouble = Trouble::new("trimming", self.group.clone());
        let mut holder = Holder::default();
        let mut pause = TRIM;
        loop {
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.stopped() => return,
            }
            pause = TRIM;
            if self.shared.subscribers.groups().first() != Some(&self.group) {
                continue;
            }
            let mut held_by = None::<HeldBy>;
            for stream in streams() {
                let step = tokio::select! {
                    step = stream.trim_step(limits) => step,
                    () = stop.stopped() => return, // a step that was sent is done, and loses nothing
                };
                match step {
                    Ok(step) => {
                        trouble.is_over();
                        if step.has_more {
                            pause = BREATH;
                        }
                        held_by = older(held_by, step.held_by);
                    }
                    Err(error) => pause = pause.max(trouble.happened(&error)),
                }
            }
            if holder.is_news(held_by.as_ref(), Instant::now()) {
                self.tell_holder(held_by.as_ref());
            }
        }
    }

    fn tell_holder(&self, held_by: Option<&HeldBy>) {
        let Some(HeldBy { group, reason, oldest, age }) = held_by else {
            return;
        };
        let stream = &self.shared.stream;
        if *reason == HeldReason::Missing {
            tracing::warn!(stream, group, %oldest, ?age, "a group that the server has lost keeps the stream long");
        } else {
            tracing::info!(stream, group, ?reason, %oldest, ?age, "a group that is behind keeps the stream long");
        }
    }
}

/// The group that was named last.
#[derive(Default)]
struct Holder {
    named: Option<(String, Instant)>,
    is_holding: bool,
}

impl Holder {
    /// Whether a group is to be named: another than before, or the same after it has not held anything for a while.
    fn is_news(&mut self, held_by: Option<&HeldBy>, now: Instant) -> bool {
        let was_holding = std::mem::replace(&mut self.is_holding, held_by.is_some());
        let Some(held_by) = held_by else {
            return false;
        };
        let is_known = self.named.as_ref().is_some_and(|(group, at)| {
            *group == held_by.group && (was_holding || now.duration_since(*at) < NAME_AGAIN)
        });
        if !is_known {
            self.named = Some((held_by.group.clone(), now));
        }
        !is_known
    }
}

#[cfg(test)]
mod tests {
    use eventbus::port::MessageId;

    use super::*;

    fn held_by(group: &str) -> HeldBy {
        let (reason, oldest) = (HeldReason::Unread, MessageId::new("1-0"));
        HeldBy { group: group.into(), reason, oldest, age: Duration::ZERO }
    }

    #[test]
    fn a_group_is_named_once_and_again_when_it_comes_back_after_a_while() {
        let (mut holder, start) = (Holder::default(), Instant::now());
        let (slow, other) = (held_by("slow"), held_by("other"));
        let mut news =
            |held_by: Option<&HeldBy>, seconds| holder.is_news(held_by, start + Duration::from_secs(seconds));
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
