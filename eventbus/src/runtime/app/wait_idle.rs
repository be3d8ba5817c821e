//! The wait for an idle app: all events published, handled and projected.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use super::{App, SettleError};
use crate::{
    domain::{name::Name, stream::Position},
    port::{DeadLetter, DeadLetterFilter, ReadError, SubscriberStatus},
    runtime::relay,
};

/// Pause between polls of the bus. Real time, as is the timeout: the wait is for the work of other tasks, also where a
/// test moves the app's clock by hand.
const IDLE_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Describes one aspect of a subscriber, if there is anything to say.
type DescribeFn = fn(&dyn SubscriberStatus) -> Option<String>;

const HANDLING: DescribeFn = |subscriber| subscriber.handling();
const LAST_FAILURE: DescribeFn = |subscriber| subscriber.last_failure();

impl App {
    /// Waits until all stored events are published, handled and projected, also those that handlers store meanwhile:
    /// for tests.
    ///
    /// # Errors
    /// [`SettleError::DeadLetters`] if deliveries became dead letters since the app started or since the last call
    /// reported them; [`SettleError::TimedOut`] with the part that is still busy, also with retries; an error of a
    /// relay or projection that stopped, or of a store or bus that does not answer.
    pub async fn settled(&self) -> Result<(), SettleError> {
        let waiting = Mutex::new("the store".to_owned());
        let wait_idle = async {
            loop {
                let head = self.followed_head().await?;
                self.wait_until_handled(head, &waiting).await?;
                if self.followed_head().await? == head {
                    return self.check_new_dead_letters().await;
                }
            }
        };
        let timeout = self.0.wait_timeout;
        if let Ok(settled) = tokio::time::timeout(timeout, wait_idle).await {
            return settled;
        }
        let mut waiting_for = waiting.into_inner().unwrap_or_else(PoisonError::into_inner);
        let relay = self.0.tasks.relay.as_ref();
        if let Some(problem) = relay.and_then(|relay| relay.borrow().problem.clone()) {
            waiting_for = format!("{waiting_for} (the relay: {problem})");
        }
        for (what, describe) in [("busy", HANDLING), ("failed", LAST_FAILURE)] {
            let descriptions = self.describe_handlers(describe);
            if !descriptions.is_empty() {
                waiting_for = format!("{waiting_for} ({what}: {})", descriptions.join("; "));
            }
        }
        Err(SettleError::TimedOut { waiting_for, timeout })
    }

    /// Returns the store's head, if the relay or a projection of this app follows it.
    async fn followed_head(&self) -> Result<Position, ReadError> {
        if self.0.tasks.relay.is_some() || !self.0.projections.is_empty() {
            self.0.store.head().await
        } else {
            Ok(Position::START)
        }
    }

    async fn wait_until_handled(&self, head: Position, waiting: &Mutex<String>) -> Result<(), SettleError> {
        let wait_for = |what| *waiting.lock().unwrap_or_else(PoisonError::into_inner) = what;
        if self.0.tasks.relay.is_some() {
            wait_for("the relay".into());
            self.published(head).await?;
            while !relay::is_published_on_bus(&*self.0.store, &*self.0.bus, head).await {
                tokio::time::sleep(IDLE_POLL_INTERVAL).await;
                self.published(head).await?;
            }
        }
        for projection in &self.0.projections {
            wait_for(format!("projection `{}`", projection.definition().name));
            projection.wait_for_position(head, self.0.wait_timeout).await?;
        }
        for group in &self.0.groups {
            self.wait_group_idle(group, wait_for).await?;
        }
        Ok(())
    }

    async fn wait_group_idle(&self, group: &Name, wait_for: impl Fn(String)) -> Result<(), SettleError> {
        wait_for(format!("group `{group}`"));
        loop {
            let progress = self.0.bus.progress(group).await?;
            if progress.is_settled() {
                return match progress.exhausted {
                    0 => Ok(()),
                    exhausted => Err(SettleError::Exhausted {
                        group: group.clone(),
                        exhausted,
                        last: self.describe_group_handlers(group, LAST_FAILURE),
                    }),
                };
            }
            let rest = [(progress.unread, "unread"), (progress.pending, "pending")];
            let rest = rest.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
            wait_for(format!("group `{group}` ({})", rest.collect::<Vec<_>>().join(", ")));
            tokio::time::sleep(IDLE_POLL_INTERVAL).await;
        }
    }

    /// Reports each dead letter once.
    async fn check_new_dead_letters(&self) -> Result<(), SettleError> {
        let now = self.0.bus.stats().messages_sent_to_dlq;
        let before = self.0.reported_dead_letters.swap(now, Ordering::Relaxed);
        match now.saturating_sub(before) {
            0 => Ok(()),
            dead => {
                let mut last = self.describe_handlers(LAST_FAILURE);
                last.extend(self.find_unhandled_dead_letter(dead).await);
                Err(SettleError::DeadLetters { dead, last })
            }
        }
    }

    /// Finds the last of the newest `dead` dead letters of this app's groups that has no handler, as an entry that is
    /// no event.
    async fn find_unhandled_dead_letter(&self, dead: u64) -> Option<String> {
        const DEAD_LETTER_PAGE_SIZE: usize = 100;
        let (mut after, mut newest) = (None, VecDeque::new());
        loop {
            // the log has those that cannot be read now
            let page = self
                .0
                .bus
                .dead_letters(&DeadLetterFilter::default(), after.as_ref(), DEAD_LETTER_PAGE_SIZE)
                .await
                .ok()?;
            let is_ours = |dead_letter: &DeadLetter| {
                self.0.groups.iter().any(|group| dead_letter.group.as_deref() == Some(group.as_str()))
            };
            newest.extend(page.letters.into_iter().filter(is_ours));
            let surplus = newest.len().saturating_sub(usize::try_from(dead).unwrap_or(usize::MAX));
            newest.drain(..surplus);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let dead_letter =
            newest.into_iter().rfind(|dead_letter| dead_letter.handler.as_deref().is_none_or(str::is_empty))?;
        let id = dead_letter.original_message_id.unwrap_or(dead_letter.id);
        Some(format!("entry `{id}`: {}", dead_letter.error.as_deref().unwrap_or("no reason recorded")))
    }

    /// Describes for each handler the last event that failed and has not succeeded since, and the error.
    #[cfg(feature = "axum")]
    pub(crate) fn failures(&self) -> Vec<String> {
        self.describe_handlers(LAST_FAILURE)
    }

    /// Describes the handlers of all groups.
    fn describe_handlers(&self, describe: DescribeFn) -> Vec<String> {
        self.0.groups.iter().flat_map(|group| self.describe_group_handlers(group, describe)).collect()
    }

    /// Describes the handlers of a group.
    fn describe_group_handlers(&self, group: &Name, describe: DescribeFn) -> Vec<String> {
        let subscribers = self.0.bus.subscribers();
        subscribers.iter().filter(|other| other.group() == group).filter_map(|other| describe(&**other)).collect()
    }
}
