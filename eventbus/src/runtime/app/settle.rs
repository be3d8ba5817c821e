//! Waiting until an app has nothing left to do.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use super::{App, SettleError};
use crate::{
    domain::{name::Name, stream::Position},
    port::{DeadLetter, DeadLetterFilter, ReadError, Subscriber},
    runtime::relay,
};

/// How soon a bus is asked again. Real time, as is the limit: what is waited for is the work of other tasks, also where
/// the app's clock is moved by hand.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

impl App {
    /// Waits until everything stored is published, handled and projected, and what handlers stored meanwhile too: for
    /// tests.
    ///
    /// # Errors
    /// [`SettleError::DeadLetters`] if deliveries were given up since the app started or since the last call said so;
    /// [`SettleError::TimedOut`] with what was waited for, retries included; an error of a relay or projection that
    /// stopped, or of a store or bus that cannot be asked.
    pub async fn settled(&self) -> Result<(), SettleError> {
        let waiting = Mutex::new("the store".to_owned());
        let settle = async {
            loop {
                let head = self.head().await?;
                self.settled_up_to(head, &waiting).await?;
                if self.head().await? == head {
                    return self.none_given_up().await;
                }
            }
        };
        let timeout = self.0.wait_timeout;
        if let Ok(settled) = tokio::time::timeout(timeout, settle).await {
            return settled;
        }
        let mut waiting_for = waiting.into_inner().unwrap_or_else(PoisonError::into_inner);
        let relay = self.0.tasks.relay.as_ref();
        if let Some(trouble) = relay.and_then(|relay| relay.borrow().trouble.clone()) {
            waiting_for = format!("{waiting_for} (the relay: {trouble})");
        }
        for (what, say) in [("busy", Subscriber::handling as fn(&_) -> _), ("failed", Subscriber::failure)] {
            let said = self.of_groups(say);
            if !said.is_empty() {
                waiting_for = format!("{waiting_for} ({what}: {})", said.join("; "));
            }
        }
        Err(SettleError::TimedOut { waiting_for, timeout })
    }

    /// The end of the store, if anything of this app follows it.
    async fn head(&self) -> Result<Position, ReadError> {
        if self.0.tasks.relay.is_some() || !self.0.projections.is_empty() {
            self.0.store.head().await
        } else {
            Ok(Position::START)
        }
    }

    async fn settled_up_to(&self, head: Position, waiting: &Mutex<String>) -> Result<(), SettleError> {
        let wait_for = |what| *waiting.lock().unwrap_or_else(PoisonError::into_inner) = what;
        if self.0.tasks.relay.is_some() {
            wait_for("the relay".into());
            self.published(head).await?;
            while !relay::is_on_bus(&*self.0.store, &*self.0.bus, head).await {
                tokio::time::sleep(LOOK_AGAIN).await;
                self.published(head).await?;
            }
        }
        for slot in &self.0.projections {
            wait_for(format!("projection `{}`", slot.definition().name));
            slot.reached(head, self.0.wait_timeout).await?;
        }
        for group in &self.0.groups {
            self.group_settled(group, wait_for).await?;
        }
        Ok(())
    }

    async fn group_settled(&self, group: &Name, wait_for: impl Fn(String)) -> Result<(), SettleError> {
        wait_for(format!("group `{group}`"));
        loop {
            let progress = self.0.bus.progress(group).await?;
            if progress.is_settled() {
                return match progress.exhausted {
                    0 => Ok(()),
                    exhausted => Err(SettleError::Exhausted {
                        group: group.clone(),
                        exhausted,
                        last: self.of_group(group, Subscriber::failure),
                    }),
                };
            }
            let left = [(progress.unread, "unread"), (progress.pending, "pending")];
            let left = left.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
            wait_for(format!("group `{group}` ({})", left.collect::<Vec<_>>().join(", ")));
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Says once that deliveries were given up.
    async fn none_given_up(&self) -> Result<(), SettleError> {
        let now = self.0.bus.stats().messages_sent_to_dlq;
        let before = self.0.given_up.swap(now, Ordering::Relaxed);
        match now.saturating_sub(before) {
            0 => Ok(()),
            dead => {
                let mut last = self.of_groups(Subscriber::failure);
                last.extend(self.given_up_unhandled(dead).await);
                Err(SettleError::DeadLetters { dead, last })
            }
        }
    }

    /// The last of up to `dead` dead letters of this app's groups that no handler failed, as an entry that is no event.
    async fn given_up_unhandled(&self, dead: u64) -> Option<String> {
        const PAGE: usize = 100;
        let (mut after, mut newest) = (None, VecDeque::new());
        loop {
            // what cannot be read now is in the log
            let page = self.0.bus.dead_letters(&DeadLetterFilter::default(), after.as_ref(), PAGE).await.ok()?;
            let is_ours =
                |letter: &DeadLetter| self.0.groups.iter().any(|group| letter.group.as_deref() == Some(group.as_str()));
            newest.extend(page.letters.into_iter().filter(is_ours));
            let surplus = newest.len().saturating_sub(usize::try_from(dead).unwrap_or(usize::MAX));
            newest.drain(..surplus);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let letter = newest.into_iter().rfind(|letter| letter.handler.as_deref().is_none_or(str::is_empty))?;
        let id = letter.original_message_id.unwrap_or(letter.id);
        Some(format!("entry `{id}`: {}", letter.error.as_deref().unwrap_or("it was given up without a reason")))
    }

    /// What the handlers failed at last and have not succeeded with since, and why.
    #[cfg(feature = "axum")]
    pub(crate) fn failures(&self) -> Vec<String> {
        self.of_groups(Subscriber::failure)
    }

    /// What the handlers of all groups have to say.
    fn of_groups(&self, say: impl Fn(&Subscriber) -> Option<String>) -> Vec<String> {
        self.0.groups.iter().flat_map(|group| self.of_group(group, &say)).collect()
    }

    /// What the handlers of a group have to say.
    fn of_group(&self, group: &Name, say: impl Fn(&Subscriber) -> Option<String>) -> Vec<String> {
        let subscribers = self.0.bus.subscribers().of_group(group);
        subscribers.iter().filter_map(say).collect()
    }
}
