//! The event and the aggregate of all workloads: an order whose items have about 300 bytes of fields.

use std::iter::Sum;

#[cfg(feature = "eventbus")]
use eventbus::{Aggregate, Apply, DomainEvent};
use serde::{Deserialize, Serialize};

pub const EVENT_TYPE: &str = "ItemAdded";
pub const AGGREGATE_TYPE: &str = "Order";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "eventbus", derive(DomainEvent), event(aggregate = Order))]
pub struct ItemAdded {
    pub number: u64,
    pub sku: String,
    pub name: String,
    pub quantity: u32,
    pub unit_cents: u64,
    pub currency: String,
    pub is_gift: bool,
    pub options: Vec<ItemOption>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemOption {
    pub name: String,
    pub value: String,
}

impl ItemAdded {
    pub fn new(number: u64) -> Self {
        let option = |name: &str, value: &str| ItemOption { name: name.into(), value: value.into() };
        Self {
            number,
            sku: format!("BK-2041-{number}"),
            name: "Grundzüge der Lagerhaltung, 4th edition".into(),
            quantity: u32::try_from(number % 7).unwrap_or_default() + 1,
            unit_cents: 2_499,
            currency: "EUR".into(),
            is_gift: false,
            options: vec![option("binding", "hardcover"), option("wrapping", "paper, blue"), option("card", "none")],
        }
    }

    pub fn cents(&self) -> u64 {
        u64::from(self.quantity) * self.unit_cents
    }
}

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "eventbus", derive(Aggregate), aggregate(events(ItemAdded)))]
pub struct Order {
    pub items: u64,
    pub cents: u64,
}

impl Order {
    pub fn add(&mut self, item: &ItemAdded) {
        self.items += 1;
        self.cents += item.cents();
    }
}

#[cfg(feature = "eventbus")]
impl Apply for Order {
    fn apply(&mut self, OrderEvent::ItemAdded(item): &OrderEvent) {
        self.add(item);
    }
}

/// The state of an aggregate is an order, or has one.
impl AsRef<Order> for Order {
    fn as_ref(&self) -> &Order {
        self
    }
}

impl<'a> Sum<&'a Order> for Order {
    fn sum<I: Iterator<Item = &'a Order>>(orders: I) -> Self {
        orders
            .fold(Self::default(), |sum, order| Self { items: sum.items + order.items, cents: sum.cents + order.cents })
    }
}

/// Returns the order of these items.
pub fn order_of(items: impl IntoIterator<Item = ItemAdded>) -> Order {
    let mut order = Order::default();
    items.into_iter().for_each(|item| order.add(&item));
    order
}
