//! The domain: what an order is, what can happen to it, and what it refuses.

use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
pub struct OrderCreated {
    pub customer_id: String,
    pub total_amount: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
pub struct AddressChanged {
    pub address: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
pub struct OrderShipped {
    pub tracking_number: String,
}

#[derive(Debug, Default, Clone, PartialEq)]
pub enum Status {
    #[default]
    New,
    Created,
    Shipped,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(OrderCreated, AddressChanged, OrderShipped))]
pub struct Order {
    pub status: Status,
    pub address: Option<String>,
}

impl Apply for Order {
    fn apply(&mut self, event: &OrderEvent) {
        match event {
            OrderEvent::OrderCreated(_) => self.status = Status::Created,
            OrderEvent::AddressChanged(e) => self.address = Some(e.address.clone()),
            OrderEvent::OrderShipped(_) => self.status = Status::Shipped,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    #[error("order already exists")]
    AlreadyExists,
    #[error("order is {0:?}, only a created order {1}")]
    NotOpen(Status, &'static str),
}

impl Order {
    pub fn create(&self, customer_id: &str, total_amount: f64) -> Result<OrderCreated, OrderError> {
        match self.status {
            Status::New => Ok(OrderCreated {
                customer_id: customer_id.into(),
                total_amount,
            }),
            _ => Err(OrderError::AlreadyExists),
        }
    }

    pub fn move_to(&self, address: &str) -> Result<AddressChanged, OrderError> {
        self.open("moves").map(|()| AddressChanged {
            address: address.into(),
        })
    }

    pub fn ship(&self, tracking_number: &str) -> Result<OrderShipped, OrderError> {
        self.open("ships").map(|()| OrderShipped {
            tracking_number: tracking_number.into(),
        })
    }

    fn open(&self, intent: &'static str) -> Result<(), OrderError> {
        let open = self.status == Status::Created;
        open.then_some(())
            .ok_or_else(|| OrderError::NotOpen(self.status.clone(), intent))
    }
}
