//! Recording the dispositions of events.

use eventbus::port::{DeliveryAttempts, DisposedEntry, Disposition};

use super::Consumer;
use crate::error::Result;

impl Consumer<'_> {
    /// Records the dispositions of events, in order; after an error, the next call goes on with the rest.
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
            Disposition::DeadLetter(attempts) => {
                self.move_to_dead_letters(id, one, attempts.clone()).await?;
                counters.messages_sent_to_dlq(1);
            }
            Disposition::Retry { attempts, .. } => return self.save_attempts(id, attempts.clone()).await,
            Disposition::Begin(attempts) => {
                self.save_attempts(id, attempts.clone()).await?;
                self.to_begin.push(one.id.clone());
                return Ok(());
            }
        }
        self.to_release.push(one.id.clone());
        Ok(())
    }

    /// Closes an event that is finished, or removes its replay.
    pub(super) async fn close_event(&mut self, id: u64) -> Result<()> {
        if self.replays.contains(&id) {
            let group = self.group.clone();
            self.queue.blocking(move |queue| queue.dead_letters.remove_replay(id, &group)).await?;
            self.replays.remove(&id);
        } else {
            self.owned.progress.open.remove(&id);
            self.is_dirty = true;
        }
        Ok(())
    }

    /// Saves the attempts of an event that stays open.
    pub(super) async fn save_attempts(&mut self, id: u64, attempts: DeliveryAttempts) -> Result<()> {
        if self.replays.contains(&id) {
            let group = self.group.clone();
            return self
                .queue
                .blocking(move |queue| queue.dead_letters.save_replay_attempts(id, &group, attempts))
                .await;
        }
        self.owned.progress.open.insert(id, attempts);
        self.is_dirty = true;
        Ok(())
    }

    async fn move_to_dead_letters(&mut self, id: u64, one: &DisposedEntry, attempts: DeliveryAttempts) -> Result<()> {
        let (group, record, claim) = (self.group.clone(), one.record.clone(), self.owned.claim.clone());
        let is_replay = self.replays.remove(&id);
        let moved = self
            .queue
            .blocking(move |queue| {
                queue.groups.check_owned(&claim)?;
                match is_replay {
                    true => queue.dead_letters.return_to_dead_letters(id, &group, record.as_ref(), attempts),
                    false => queue.dead_letters.write_dead_letter(id, &group, record.as_ref(), attempts),
                }
            })
            .await;
        match (&moved, is_replay) {
            (Ok(()), true) => {}
            (Err(_), true) => drop(self.replays.insert(id)),
            (Ok(()), false) => {
                self.owned.progress.open.remove(&id);
                self.is_dirty = true;
            }
            (Err(_), false) => {}
        }
        moved
    }
}
