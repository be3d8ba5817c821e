//! The interface of both sides, and pairs of their results.

use std::sync::Arc;

use eventbus::Result;

use crate::order::{Order, OrderCreated};

/// The handler of events: trivial, so that the measurement covers the delivery.
pub type Handler = Arc<dyn Fn(OrderCreated) + Send + Sync>;

/// One way to publish and consume; `open` creates its state.
pub trait Side: Clone + Send + Sync + 'static {
    /// Connects, and creates the group, which begins with the oldest event.
    fn open(url: &str, prefix: &str, group: &str) -> impl Future<Output = Result<Self>> + Send;

    /// Publishes one event, and waits until the server has it.
    fn publish(&self, order: &Order) -> impl Future<Output = Result<()>> + Send;

    /// Publishes several events, and waits until the server has all.
    fn publish_all(&self, orders: &[Order]) -> impl Future<Output = Result<()>> + Send;

    /// Calls the handler for one event after the other, reads 100 at once, and acknowledges them afterwards; until
    /// stopped.
    fn consume(&self, handler: Handler) -> impl Future<Output = Result<()>> + Send;

    /// Stops consuming.
    fn stop(&self) -> impl Future<Output = Result<()>> + Send;
}

/// The results of both sides in one round.
pub struct Pair<T> {
    pub ours: T,
    pub by_hand: T,
}

impl<T> Pair<T> {
    /// Runs both sides one after the other; the first side changes from round to round.
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
