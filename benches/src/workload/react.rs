//! From a save to its handler.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use eventbus::Result;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::bench::{Bench, Round, expect};

const SAVES_PER_ROUND: u64 = 200;
/// 200 events a second.
const PERIOD: Duration = Duration::from_millis(5);
const STEADY_SAVES_PER_ROUND: u64 = 2_000;
/// 1,000 events a second.
const STEADY_PERIOD: Duration = Duration::from_millis(1);

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

/// Saves at a steady pace, each in a task of its own, whether or not the former ones are handled.
pub struct Steady<R> {
    reactions: Arc<R>,
    handled: mpsc::UnboundedReceiver<(u64, Instant)>,
    next: u64,
}

impl<R: Reactions> Steady<R> {
    pub fn open(mut reactions: R) -> Self {
        let (_, none) = mpsc::unbounded_channel();
        let handled = std::mem::replace(reactions.handled(), none);
        Self { reactions: Arc::new(reactions), handled, next: 0 }
    }
}

#[async_trait]
impl<R: Reactions> Bench for Steady<R> {
    async fn run(&mut self) -> Result<Round> {
        let (first, mut saves) = (self.next, JoinSet::new());
        let (mut ticks, mut starts) = (interval(STEADY_PERIOD), Vec::new());
        for _ in 0..STEADY_SAVES_PER_ROUND {
            ticks.tick().await;
            starts.push(Instant::now());
            let (reactions, number) = (Arc::clone(&self.reactions), self.next);
            saves.spawn(async move { reactions.save(number).await });
            self.next += 1;
        }
        while let Some(saved) = saves.join_next().await {
            saved??;
        }
        let (mut round, mut seen) = (Round::default(), HashSet::new());
        for _ in 0..STEADY_SAVES_PER_ROUND {
            let (number, handled_at) = self.handled.recv().await.ok_or("the consumer ended")?;
            let start = number.checked_sub(first).and_then(|place| starts.get(place as usize));
            let start = start.filter(|_| seen.insert(number)).ok_or("an event of another round was handled")?;
            round.add(handled_at.duration_since(*start));
        }
        Ok(round)
    }

    async fn check(&mut self) -> Result<()> {
        let reactions = Arc::get_mut(&mut self.reactions).ok_or("a save still runs")?;
        reactions.stop().await?;
        match self.handled.try_recv() {
            Ok((number, _)) => Err(format!("event {number} was handled twice").into()),
            Err(_) => Ok(()),
        }
    }
}
