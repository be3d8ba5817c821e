//! The domain of the tests: orders, their events, and the commands that they refuse.

use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
pub struct OrderCreated {
    pub customer: String,
    pub lines: Vec<Line>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    pub sku: String,
    pub count: u128,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
pub struct ParcelShipped {
    pub carrier: String,
    pub tracking_number: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
pub struct OrderClosed {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
pub struct Weighed {
    pub kilograms: f64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(OrderCreated, ParcelShipped, OrderClosed, Weighed))]
pub struct Order {
    pub parcels: Vec<String>,
    pub is_closed: bool,
}

impl Apply for Order {
    fn apply(&mut self, event: &OrderEvent) {
        match event {
            OrderEvent::ParcelShipped(shipped) => self.parcels.push(shipped.tracking_number.clone()),
            OrderEvent::OrderClosed(_) => self.is_closed = true,
            OrderEvent::OrderCreated(_) | OrderEvent::Weighed(_) => {}
        }
    }
}

#[derive(Debug)]
pub enum OrderError {
    AlreadyShipped(String),
    Closed,
}

impl Order {
    pub fn ship(&self, parcel: &str) -> Result<ParcelShipped, OrderError> {
        match self {
            Self { is_closed: true, .. } => Err(OrderError::Closed),
            _ if self.parcels.iter().any(|shipped| shipped == parcel) => Err(OrderError::AlreadyShipped(parcel.into())),
            _ => Ok(shipped(parcel)),
        }
    }

    pub fn ship_and_close(&self, parcel: &str) -> Result<(ParcelShipped, OrderClosed), OrderError> {
        Ok((self.ship(parcel)?, OrderClosed {}))
    }

    pub fn close(&self) -> Result<Option<OrderClosed>, OrderError> {
        Ok((!self.is_closed).then_some(OrderClosed {}))
    }
}

pub fn created() -> OrderCreated {
    let lines = vec![Line { sku: "A".into(), count: 2 }, Line { sku: "B".into(), count: u128::MAX }];
    OrderCreated { customer: "ada".into(), lines }
}

pub fn shipped(parcel: &str) -> ParcelShipped {
    ParcelShipped { carrier: "DHL".into(), tracking_number: parcel.into() }
}
