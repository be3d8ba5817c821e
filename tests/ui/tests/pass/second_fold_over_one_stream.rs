//! Another crate folds the streams of `Order` into a type of its own; the app starts with both.

use eventbus::prelude::*;

mod orders {
    use eventbus::prelude::*;

    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate = Order)]
    pub struct OrderCreated {
        pub total: u64,
    }

    #[derive(Debug, Default, Aggregate)]
    #[aggregate(type = "PlacedOrder", typed_id, events(OrderCreated))]
    pub struct Order {}

    impl Apply for Order {
        fn apply(&mut self, _event: &OrderEvent) {}
    }
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(fold_of = orders::Order, events(orders::OrderCreated))]
enum Summary {
    #[default]
    Nothing,
    Total(u64),
}

impl Apply for Summary {
    fn apply(&mut self, event: &SummaryEvent) {
        let SummaryEvent::OrderCreated(event) = event;
        *self = match self {
            Self::Nothing => Self::Total(event.total),
            Self::Total(total) => Self::Total(*total + event.total),
        };
    }
}

#[tokio::test]
async fn runs() -> eventbus::Result<()> {
    assert_eq!(Summary::AGGREGATE_TYPE, "PlacedOrder");
    let app = App::builder().start().await?;
    let id: Id<orders::Order> = "1".parse()?;
    let created = |total| Ok::<_, eventbus::Never>(orders::OrderCreated { total });
    app.repository::<orders::Order>().upsert(&id, |_| created(2)).await?;
    app.repository::<Summary>().update(&id, |_| created(3)).await?;
    assert!(matches!(app.repository::<Summary>().load(&id).await?.state(), Summary::Total(5)));
    Ok(())
}
