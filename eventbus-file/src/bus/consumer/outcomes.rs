//! Noting what came of events.

use eventbus::port::{DeliveryAttempts, DisposedEntry, Disposition};

use super::Consumer;
use crate::error::Result;

impl Consumer<'_> {
    /// Notes what came of events.
    pub(super) async fn record_outcomes(&mut self) -> Result<()> {
        self.disposed.extend(self.in_flight.take_disposed());
        while let Some(one) = self.disposed.pop_front() {
            if let Err(error) = self.record_outcome(&one).await {
                self.disposed.push_front(one);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn record_outcome(&mut self, one: &DisposedEntry) -> Result<()> {
        let Ok(id) = one.id.as_str().parse() else {
            return Ok(());
        };
        let counters = &self.queue.counters;
        match &one.disposition {
            Disposition::Acknowledge { .. } => self.close_event(id).await?,
            Disposition::Skip(attempts) => self.skip_unhandled(id, one, attempts.clone()).await?,
            Disposition::DeadLetter(delivery_attempts) if self.is_for_newer_release(one) => {
                self.leave_for_handler(id, DeliveryAttempts::replayed(delivery_attempts.done.clone())).await?;
            }
            Disposition::DeadLetter(tries) => {
                self.move_to_dead_letters(id, one, tries.clone()).await?;
                counters.messages_sent_to_dlq(1);
            }
            Disposition::Retry { attempts: tries, .. } => return self.save_attempts(id, tries.clone()).await,
            Disposition::Begin(tries) => {
                self.save_attempts(id, tries.clone()).await?;
                self.to_begin.push(one.id.clone());
                return Ok(());
            }
        }
        self.to_release.push(one.id.clone());
        Ok(())
    }

    /// An event is done with.
    pub(super) async fn close_event(&mut self, id: u64) -> Result<()> {
        if self.replays.contains(&id) {
            let group = self.group.clone();
            self.queue.blocking(move |queue| queue.remove_replay(id, &group)).await?;
            self.replays.remove(&id);
        } else {
            self.owned.progress.open.remove(&id);
            self.is_dirty = true;
        }
        Ok(())
    }

    /// An event goes on.
    pub(super) async fn save_attempts(&mut self, id: u64, attempts: DeliveryAttempts) -> Result<()> {
        if self.replays.contains(&id) {
            let group = self.group.clone();
            return self.queue.blocking(move |queue| queue.save_replay_attempts(id, &group, attempts)).await;
        }
        self.owned.progress.open.insert(id, attempts);
        self.is_dirty = true;
        Ok(())
    }

    /// An event is given up.
    async fn move_to_dead_letters(&mut self, id: u64, one: &DisposedEntry, attempts: DeliveryAttempts) -> Result<()> {
        let (group, record, claim) = (self.group.clone(), one.record.clone(), self.owned.claim.clone());
        let is_replay = self.replays.remove(&id);
        let buried = self
            .queue
            .blocking(move |queue| {
                queue.groups.check_owned(&claim)?;
                match is_replay {
                    true => queue.return_to_dead_letters(id, &group, record.as_ref(), attempts),
                    false => queue.write_dead_letter(id, &group, record.as_ref(), attempts),
                }
            })
            .await;
        match (&buried, is_replay) {
            (Ok(()), true) => {}
            (Err(_), true) => drop(self.replays.insert(id)),
            (Ok(()), false) => {
                self.owned.progress.open.remove(&id);
                self.is_dirty = true;
            }
            (Err(_), false) => {}
        }
        buried
    }
}
