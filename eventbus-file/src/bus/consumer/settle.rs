//! Noting what came of events.

use eventbus::port::{Settled, Tries, Verdict};

use super::Consumer;
use crate::error::Result;

impl Consumer<'_> {
    /// Notes what came of events.
    pub(super) async fn settle(&mut self) -> Result<()> {
        self.settled.extend(self.hand.take_settled());
        while let Some(one) = self.settled.pop_front() {
            if let Err(error) = self.settle_one(&one).await {
                self.settled.push_front(one);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn settle_one(&mut self, one: &Settled) -> Result<()> {
        let Ok(id) = one.id.as_str().parse() else {
            return Ok(());
        };
        let counters = &self.shared.counters;
        match &one.verdict {
            Verdict::Acknowledge { .. } => self.close(id).await?,
            Verdict::Skip(tries) => self.skip(id, one, tries.clone()).await?,
            Verdict::Bury(tries) if self.is_for_newer(one) => {
                self.leave(id, Tries::anew(tries.done.clone())).await?;
            }
            Verdict::Bury(tries) => {
                self.bury(id, one, tries.clone()).await?;
                counters.messages_sent_to_dlq(1);
            }
            Verdict::Retry { tries, .. } => return self.keep(id, tries.clone()).await,
            Verdict::Begin(tries) => {
                self.keep(id, tries.clone()).await?;
                self.begun.push(one.id.clone());
                return Ok(());
            }
        }
        self.done.push(one.id.clone());
        Ok(())
    }

    /// An event is done with.
    pub(super) async fn close(&mut self, id: u64) -> Result<()> {
        if self.replays.contains(&id) {
            let group = self.group.clone();
            self.shared.blocking(move |shared| shared.end_replay(id, &group)).await?;
            self.replays.remove(&id);
        } else {
            self.owned.progress.open.remove(&id);
            self.is_dirty = true;
        }
        Ok(())
    }

    /// An event goes on.
    pub(super) async fn keep(&mut self, id: u64, tries: Tries) -> Result<()> {
        if self.replays.contains(&id) {
            let group = self.group.clone();
            return self.shared.blocking(move |shared| shared.keep_replay(id, &group, tries)).await;
        }
        self.owned.progress.open.insert(id, tries);
        self.is_dirty = true;
        Ok(())
    }

    /// An event is given up.
    async fn bury(&mut self, id: u64, one: &Settled, tries: Tries) -> Result<()> {
        let (group, record, claim) = (self.group.clone(), one.record.clone(), self.owned.claim.clone());
        let is_replay = self.replays.remove(&id);
        let buried = self
            .shared
            .blocking(move |shared| {
                shared.groups.check(&claim)?;
                match is_replay {
                    true => shared.bury_replay(id, &group, record.as_ref(), tries),
                    false => shared.bury(id, &group, record.as_ref(), tries),
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
