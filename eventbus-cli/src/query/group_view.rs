//! One consumer group: its consumers, and the entries that they have read and not finished.

use eventbus::{Name, delivery::DeliveryAttempts};
use eventbus_redis::{GroupConsumer, PendingDelivery};
use serde::Serialize;

use crate::{connection::OpenBus, error::CommandError};

/// A consumer group, with its consumers and its oldest pending deliveries.
#[derive(Debug, Clone, Serialize)]
pub struct GroupView {
    /// Its name.
    pub group: String,
    /// Its consumers, including ended ones with pending entries.
    pub consumers: Vec<GroupConsumer>,
    /// The oldest deliveries that it has read and not finished.
    pub pending: Vec<PendingRow>,
}

/// A delivery that a group has read and not finished.
#[derive(Debug, Clone, Serialize)]
pub struct PendingRow {
    /// The entry of the bus.
    pub entry: String,
    /// The position of the event, if it has one.
    pub position: Option<String>,
    /// The id of the event; `None` if the bus has lost its entry.
    pub event_id: Option<String>,
    /// The type of the event.
    pub event_type: Option<String>,
    /// The stream of the event.
    pub stream: Option<String>,
    /// The consumer on which it is pending.
    pub consumer: String,
    /// The milliseconds since the consumer read it, or renewed its claim.
    pub idle_ms: u64,
    /// The runs in which a handler failed, and the failures.
    #[serde(flatten)]
    pub attempts: AttemptsView,
}

/// The attempts of a group's handlers at a delivery.
#[derive(Debug, Clone, Serialize)]
pub struct AttemptsView {
    /// The number of runs in which a handler failed.
    pub failed_runs: u32,
    /// The handlers that have failed, with the error of the last run.
    pub failed: Vec<(String, String)>,
}

impl From<DeliveryAttempts> for AttemptsView {
    fn from(attempts: DeliveryAttempts) -> Self {
        let failed = attempts.failed.into_iter().map(|(handler, failure)| (handler, failure.error)).collect();
        Self { failed_runs: attempts.attempts, failed }
    }
}

impl From<PendingDelivery> for PendingRow {
    fn from(delivery: PendingDelivery) -> Self {
        let metadata = delivery.record.as_ref().map(eventbus::RecordedEvent::metadata);
        Self {
            entry: delivery.id.to_string(),
            position: metadata.and_then(|metadata| Some(metadata.position()?.to_string())),
            event_id: metadata.map(|metadata| metadata.event_id().to_string()),
            event_type: metadata.map(|metadata| metadata.event_type().to_string()),
            stream: metadata.map(|metadata| metadata.stream().to_string()),
            consumer: delivery.consumer,
            idle_ms: delivery.idle_ms,
            attempts: delivery.attempts.into(),
        }
    }
}

/// Loads a consumer group of a bus on Redis with its oldest `limit` pending deliveries.
///
/// # Errors
/// [`CommandError`] if the bus cannot be reached, or does not list its deliveries.
pub async fn load_group(bus: &OpenBus, group: &Name, limit: usize) -> Result<GroupView, CommandError> {
    let OpenBus::Redis(bus, _) = bus else {
        return Err(CommandError::fault(format!("{} does not list deliveries", bus.as_bus().describe())));
    };
    Ok(GroupView {
        group: group.to_string(),
        consumers: bus.group_consumers(group).await?,
        pending: bus.pending_deliveries(group, limit).await?.into_iter().map(PendingRow::from).collect(),
    })
}
