//! The orders of the tutorial, their statistics, and their subscribers.

use std::sync::{Arc, Mutex};

use eventbus::{Version, handler::EventHandler, prelude::*};

use crate::Edition;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
pub struct OrderCreated {
    pub customer_id: String,
    pub total_amount: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
pub struct OrderShipped {
    pub tracking_number: String,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(OrderCreated, OrderShipped))]
pub struct Order {
    status: Status,
}

#[derive(Debug, Default, PartialEq)]
enum Status {
    #[default]
    Draft,
    Created,
    Shipped,
}

impl Apply for Order {
    fn apply(&mut self, event: &OrderEvent) {
        self.status = match event {
            OrderEvent::OrderCreated(_) => Status::Created,
            OrderEvent::OrderShipped(_) => Status::Shipped,
        };
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    #[error("order already exists")]
    AlreadyExists,
    #[error("cannot ship order in current state")]
    NotShippable,
}

impl Order {
    pub fn create(&self, customer_id: &str, total_amount: f64) -> Result<OrderCreated, OrderError> {
        match self.status {
            Status::Draft => Ok(OrderCreated { customer_id: customer_id.into(), total_amount }),
            _ => Err(OrderError::AlreadyExists),
        }
    }

    pub fn ship(&self, tracking_number: &str) -> Result<OrderShipped, OrderError> {
        match self.status {
            Status::Created => Ok(OrderShipped { tracking_number: tracking_number.into() }),
            _ => Err(OrderError::NotShippable),
        }
    }
}

/// Returns the first event of an order, to be published directly.
pub fn created(id: &AggregateId, customer_id: &str, total_amount: f64) -> eventbus::Result<RecordedEvent> {
    let event = OrderCreated { customer_id: customer_id.into(), total_amount };
    Ok(RecordedEvent::from_event(&event, id.clone(), Version::FIRST)?)
}

/// Returns the second event of an order, to be published directly.
pub fn shipped(id: &AggregateId, tracking_number: &str) -> eventbus::Result<RecordedEvent> {
    let event = OrderShipped { tracking_number: tracking_number.into() };
    Ok(RecordedEvent::from_event(&event, id.clone(), Version::new(2))?)
}

/// Counts orders, and prints the counts in the words of an edition.
#[derive(Debug, Default, PartialEq)]
pub struct OrderStatistics {
    pub edition: Edition,
    pub total_orders: u64,
    pub total_revenue: f64,
    pub shipped_count: u64,
}

#[projection(name = "order-statistics")]
impl OrderStatistics {
    fn created(&mut self, event: &OrderCreated, id: &AggregateId) {
        self.total_orders += 1;
        self.total_revenue += event.total_amount;
        match self.edition {
            Edition::Short => println!("  [Stats] Order created: ${:.2}", event.total_amount),
            Edition::Long => println!("  [Projection] Order created: {id}"),
            Edition::Silent => {}
        }
    }

    fn shipped(&mut self, event: &OrderShipped, id: &AggregateId) {
        self.shipped_count += 1;
        match self.edition {
            Edition::Short => println!("  [Stats] Order shipped: {}", event.tracking_number),
            Edition::Long => println!("  [Projection] Order shipped: {id}"),
            Edition::Silent => {}
        }
    }
}

/// Prints an audit trail of every event.
#[derive(Debug, Clone, Default)]
pub struct AuditLogger {
    pub edition: Edition,
    pub log: Arc<Mutex<Vec<Metadata>>>,
}

impl EventHandler<RecordedEvent> for AuditLogger {
    async fn handle(&self, event: RecordedEvent) -> Result<(), HandlerError> {
        let metadata = event.metadata();
        if self.edition == Edition::Long {
            println!("  [Audit] {} at {}", metadata.event_type(), metadata.occurred_at());
        }
        self.log.lock().map_err(|_| "the log is poisoned")?.push(metadata.clone());
        Ok(())
    }
}
