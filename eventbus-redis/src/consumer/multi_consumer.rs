//! Several consumers of each group in one bus.
//!
//! Invariant: for the server they are like consumers of several processes. They share the state that a bus shares with
//! its clones, and differ in their names, under which the server records pending entries.

use std::sync::Arc;

use eventbus::{Name, delivery::StopSignal};
use tokio::task::JoinSet;

use crate::inner::BusInner;

/// Delivers events to the group until `stop`, with the configured number of consumers, each in a task of its own. If
/// one of them panics, all of them restart.
pub(crate) async fn consume(bus: Arc<BusInner>, group: Name, stop: StopSignal) {
    let several = bus.config().consumers;
    if several == 1 {
        return super::consume(bus, group, stop).await;
    }
    let consumer = |number| super::consume(Arc::new(bus.for_consumer(number)), group.clone(), stop.clone());
    (0..several).map(consumer).collect::<JoinSet<()>>().join_all().await;
}
