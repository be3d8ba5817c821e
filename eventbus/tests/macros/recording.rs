use eventbus::prelude::*;

use super::domain::{Order, OrderEvent, OrderShipped, created};

fn root() -> AggregateRoot<Order> {
    AggregateRoot::new(AggregateId::new())
}

fn names(order: &AggregateRoot<Order>) -> Vec<String> {
    order
        .pending()
        .iter()
        .map(|event| match event {
            OrderEvent::OrderCreated(event) => event.customer_id.clone(),
            OrderEvent::OrderShipped(_) => "shipped".into(),
        })
        .collect()
}

#[test]
fn one_event_the_enum_and_containers_of_them_are_recorded_in_order() {
    let mut order = root();
    order
        .record(created("one"))
        .record(OrderEvent::from(created("enum")))
        .record((created("tuple"), OrderShipped))
        .record([created("array"), created("array")])
        .record(vec![OrderEvent::from(OrderShipped)])
        .record(Some(created("option")))
        .record(None::<OrderShipped>)
        .record(())
        .record((vec![created("nested")], Some((OrderShipped, ()))));
    assert_eq!(
        names(&order),
        ["one", "enum", "tuple", "shipped", "array", "array", "shipped", "option", "nested", "shipped"]
    );
}

#[test]
fn a_recorded_event_is_applied_at_once() {
    let mut order = root();
    order.record(created("ada")).record([OrderShipped, OrderShipped]);
    assert_eq!(order.customers, ["ada"]);
    assert_eq!(order.shipped, 2);
    assert_eq!(order.version(), 0);
}
