//! The id of a customer does not name an order.
use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Customer)]
struct Registered {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Registered), typed_id)]
struct Customer;

impl Apply for Customer {
    fn apply(&mut self, _event: &CustomerEvent) {}
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
struct Placed {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Placed), typed_id)]
struct Order;

impl Apply for Order {
    fn apply(&mut self, _event: &OrderEvent) {}
}

async fn load(
    orders: AggregateRepository<Order>,
    order: Id<Order>,
    customer: Id<Customer>,
    untyped: AggregateId,
) -> eventbus::Result<()> {
    orders.load(&order).await?;
    orders.load(&customer).await?;
    orders.load(&untyped).await?;
    orders.create_new(untyped.clone());
    orders.load(&untyped.into()).await?;
    Ok(())
}

fn main() {}
