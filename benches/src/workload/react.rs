//! From a save to its handler.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use eventbus::Result;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use crate::bench::{Bench, Round, expect};

const SAVES_PER_ROUND: u64 = 200;
/// 200 events a second.
const PERIOD: Duration = Duration::from_millis(5);

/// A store, a bus and a handler.
#[async_trait]
pub trait Reactions: Send + Sync + 'static {
    /// Saves an order with one item, of this number.
    async fn save(&self, number: u64) -> Result<()>;

    /// Returns the numbers of the items that the handler sees, each with the time.
    fn handled(&mut self) -> &mut mpsc::UnboundedReceiver<(u64, Instant)>;

    async fn stop(&mut self) -> Result<()>;
}

/// One caller that saves at a steady pace, far below what the handler can follow.
pub struct React<R> {
    reactions: R,
    next: u64,
}

impl<R: Reactions> React<R> {
    pub fn open(reactions: R) -> Self {
        Self { reactions, next: 0 }
    }
}

#[async_trait]
impl<R: Reactions> Bench for React<R> {
    async fn run(&mut self) -> Result<Round> {
        let mut round = Round::default();
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for _ in 0..SAVES_PER_ROUND {
            ticks.tick().await;
            let start = Instant::now();
            self.reactions.save(self.next).await?;
            let (number, handled_at) = self.reactions.handled().recv().await.ok_or("the consumer ended")?;
            expect("the handled event", &number, &self.next)?;
            round.add(handled_at.duration_since(start));
            self.next += 1;
        }
        Ok(round)
    }

    async fn check(&mut self) -> Result<()> {
        self.reactions.stop().await?;
        match self.reactions.handled().try_recv() {
            Ok((number, _)) => Err(format!("event {number} was handled twice").into()),
            Err(_) => Ok(()),
        }
    }
}
