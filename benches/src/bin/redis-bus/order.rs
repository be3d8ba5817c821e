//! The event: about 300 bytes of fields.

use eventbus::{Result, prelude::*};
use uuid::Uuid;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
pub struct OrderCreated {
    pub number: u64,
    pub customer_id: Uuid,
    pub customer_name: String,
    pub street: String,
    pub city: String,
    pub currency: String,
    pub total_cents: u64,
    pub express: bool,
    pub lines: Vec<Line>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    pub sku: String,
    pub quantity: u32,
    pub unit_cents: u64,
}

/// The input of `publish`: an event and its aggregate.
#[derive(Debug, Clone)]
pub struct Order {
    pub id: Uuid,
    pub created: OrderCreated,
}

impl Order {
    pub fn new(number: u64) -> Self {
        let line = |sku: &str, quantity, unit_cents| Line { sku: sku.into(), quantity, unit_cents };
        let lines = vec![line("BK-2041-B", 1, 2_499), line("PEN-0007", 12, 149)];
        let total_cents = lines.iter().map(|line| u64::from(line.quantity) * line.unit_cents).sum();
        let created = OrderCreated {
            number,
            customer_id: Uuid::now_v7(),
            customer_name: "Zoë Müller".into(),
            street: "Example Road 1204".into(),
            city: "Springfield".into(),
            currency: "EUR".into(),
            total_cents,
            express: false,
            lines,
        };
        Self { id: Uuid::now_v7(), created }
    }
}

/// Returns the length of an event's fields as JSON.
pub fn bytes() -> Result<usize> {
    Ok(serde_json::to_string(&Order::new(1).created)?.len())
}
