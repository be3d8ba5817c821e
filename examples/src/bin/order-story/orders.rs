//! The domain: orders, their events, and the commands that they refuse.
//!
//! Its stored types are its own: other programs may keep orders of theirs in the same database.

use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order, type = "order-story.OrderCreated")]
pub struct OrderCreated {
    pub customer_id: String,
    pub total_cents: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order, type = "order-story.ParcelShipped")]
pub struct ParcelShipped {
    pub tracking_number: String,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(type = "order-story.Order", events(OrderCreated, ParcelShipped))]
pub struct Order {
    is_created: bool,
    parcels: Vec<String>,
}

impl Apply for Order {
    fn apply(&mut self, event: &OrderEvent) {
        match event {
            OrderEvent::OrderCreated(_) => self.is_created = true,
            OrderEvent::ParcelShipped(shipped) => self.parcels.push(shipped.tracking_number.clone()),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    #[error("the order exists already")]
    AlreadyExists,
    #[error("parcel {0} is on its way already")]
    AlreadyShipped(String),
}

impl Order {
    pub fn create(&self, customer_id: &str, total_cents: u64) -> Result<OrderCreated, OrderError> {
        if self.is_created {
            return Err(OrderError::AlreadyExists);
        }
        Ok(OrderCreated { customer_id: customer_id.into(), total_cents })
    }

    pub fn ship(&self, parcel: &str) -> Result<ParcelShipped, OrderError> {
        if self.parcels.iter().any(|shipped| shipped == parcel) {
            return Err(OrderError::AlreadyShipped(parcel.into()));
        }
        Ok(ParcelShipped { tracking_number: parcel.into() })
    }
}
