//! The orders of the tests.

use eventbus::prelude::*;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
pub struct OrderCreated {
    pub customer_id: String,
    pub total_amount: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
pub struct OrderShipped {
    pub tracking_number: String,
}

#[derive(Debug, Default, Clone, PartialEq, Aggregate)]
#[aggregate(events(OrderCreated, OrderShipped))]
pub struct Order {
    pub customer_id: String,
    pub total_amount: f64,
    pub shipments: Vec<String>,
}

impl Apply for Order {
    fn apply(&mut self, event: &OrderEvent) {
        match event {
            OrderEvent::OrderCreated(e) => {
                self.customer_id = e.customer_id.clone();
                self.total_amount = e.total_amount;
            }
            OrderEvent::OrderShipped(e) => self.shipments.push(e.tracking_number.clone()),
        }
    }
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("order is shipped in {0} parts already")]
pub struct TooManyParts(pub usize);

impl Order {
    /// An order is shipped in at most 50 parts.
    pub fn ship(&self, tracking_number: &str) -> Result<OrderShipped, TooManyParts> {
        if self.shipments.len() >= 50 {
            return Err(TooManyParts(self.shipments.len()));
        }
        Ok(OrderShipped { tracking_number: tracking_number.into() })
    }
}

pub fn created(customer_id: &str, total_amount: f64) -> OrderCreated {
    OrderCreated { customer_id: customer_id.into(), total_amount }
}

#[derive(Debug, Default, PartialEq)]
pub struct OrderStatistics {
    pub orders: u64,
    pub revenue: f64,
    pub shipped: u64,
}

#[projection(name = "order-statistics")]
impl OrderStatistics {
    fn created(&mut self, event: &OrderCreated) {
        self.orders += 1;
        self.revenue += event.total_amount;
    }

    fn shipped(&mut self, _event: &OrderShipped) {
        self.shipped += 1;
    }
}
