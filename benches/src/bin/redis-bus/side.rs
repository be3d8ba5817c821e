//! The two ways to do the job, and how their results are put side by side.

use std::sync::Arc;

use eventbus::Result;

use crate::order::{Order, OrderCreated};

/// What handles the events: trivial, so that the way there is what is measured.
pub type Handler = Arc<dyn Fn(OrderCreated) + Send + Sync>;

/// One way to publish and consume; what it needs from call to call is made by `open`.
pub trait Side: Clone + Send + Sync + 'static {
    /// Connects, and creates the group, which begins with the oldest event.
    fn open(url: &str, prefix: &str, group: &str) -> impl Future<Output = Result<Self>> + Send;

    /// Publishes one event, and waits until the server has it.
    fn publish(&self, order: &Order) -> impl Future<Output = Result<()>> + Send;

    /// Publishes several events, and waits until the server has all.
    fn publish_all(&self, orders: &[Order]) -> impl Future<Output = Result<()>> + Send;

    /// Hands the events over one after the other, 100 to a read, and acknowledges them afterwards; until it is stopped.
    fn consume(&self, handler: Handler) -> impl Future<Output = Result<()>> + Send;

    /// Stops consuming.
    fn stop(&self) -> impl Future<Output = Result<()>> + Send;
}

/// What both sides did in one round.
pub struct Pair<T> {
    pub ours: T,
    pub by_hand: T,
}

impl<T> Pair<T> {
    /// Runs one after the other; who is first changes from round to round.
    pub async fn of(
        round: usize,
        ours: impl Future<Output = Result<T>>,
        by_hand: impl Future<Output = Result<T>>,
    ) -> Result<Self> {
        if round.is_multiple_of(2) {
            let ours = ours.await?;
            Ok(Self { ours, by_hand: by_hand.await? })
        } else {
            let by_hand = by_hand.await?;
            Ok(Self { ours: ours.await?, by_hand })
        }
    }
}
