use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
struct Placed {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Placed))]
struct Order {
    items: u32,
}

impl Apply for Order {
    fn apply(&mut self, _event: &OrderEvent) {
        self.items += 1;
    }
}

async fn print(orders: AggregateRepository<Order>, id: AggregateId) -> eventbus::Result<()> {
    for step in orders.history(&id).await? {
        println!("{:?}", step.changes);
    }
    Ok(())
}

fn main() {}
