//! Commands of aggregates: given, when, then.

use eventbus::{Never, prelude::*, testkit::given};

use crate::{
    failure::failure_of,
    orders::{Line, Order, OrderClosed, OrderError, OrderEvent, Weighed, created, shipped},
};

#[test]
fn a_test_goes_from_decision_to_decision() {
    given::<Order>(created())
        .when(|order| order.ship("T-1"))
        .then([shipped("T-1")])
        .when(|order| order.ship("T-1"))
        .then_error(|error| matches!(error, OrderError::AlreadyShipped(parcel) if parcel == "T-1"))
        .when(|order| order.ship_and_close("T-2"))
        .then((shipped("T-2"), OrderClosed {}))
        .when(|order| order.close())
        .then_nothing()
        .when_with("T-3", Order::ship)
        .then_error(|error| matches!(error, OrderError::Closed));
}

#[test]
fn events_are_given_one_by_one_in_arrays_and_tuples_or_not_at_all() {
    given::<Order>(()).when(|order| order.ship("T-1")).then(shipped("T-1"));
    given::<Order>([shipped("T-1"), shipped("T-2")]).when(|order| order.close()).then(vec![OrderClosed {}]);
    let closed = given::<Order>((created(), [shipped("T-1")], OrderEvent::OrderClosed(OrderClosed {}))).state();
    assert_eq!((closed.parcels, closed.is_closed), (vec!["T-1".to_owned()], true));
}

#[test]
fn a_command_that_records_by_itself_is_compared_too_and_leaves_nothing_if_it_fails() {
    let ship_all = |order: &mut AggregateRoot<Order>| {
        for parcel in ["T-1", "T-2"] {
            order.record(order.ship(parcel)?);
        }
        assert_eq!(order.version().get(), 1);
        Ok::<_, OrderError>(order.parcels.len())
    };
    given::<Order>(created()).when_root(ship_all).then([shipped("T-1"), shipped("T-2")]);
    given::<Order>(shipped("T-2"))
        .when_root(ship_all)
        .then_error(|error| matches!(error, OrderError::AlreadyShipped(_)))
        .when(|order| order.ship("T-1"))
        .then(shipped("T-1"));
}

#[test]
fn another_field_fails_with_the_fields_of_the_event() {
    let text = failure_of(|| given::<Order>(()).when(|order| order.ship("T-2")).then([shipped("T-1")]));
    assert_eq!(
        text,
        r#"`Order` recorded other events than expected (- expected, + recorded, > first difference):
    ParcelShipped
      carrier: "DHL"
> -   tracking_number: "T-1"
  +   tracking_number: "T-2""#
    );
}

#[test]
fn nested_fields_are_named_by_their_paths_and_no_number_is_rounded() {
    let mut other = created();
    other.lines[1].count -= 1;
    other.lines.push(Line { sku: "C".into(), count: 0 });
    let test =
        || given::<Order>(()).when(|_| Ok::<_, Never>((created(), OrderClosed {}))).then((other, OrderClosed {}));
    assert_eq!(
        failure_of(test),
        r#"`Order` recorded other events than expected (- expected, + recorded, > first difference):
    OrderCreated
      customer: "ada"
      lines[0].count: 2
      lines[0].sku: "A"
> -   lines[1].count: 340282366920938463463374607431768211454
  +   lines[1].count: 340282366920938463463374607431768211455
      lines[1].sku: "B"
  -   lines[2].count: 0
  -   lines[2].sku: "C"
    OrderClosed"#
    );
}

#[test]
fn another_type_a_missing_event_and_one_too_many_fail_with_the_whole_events() {
    let test = || {
        given::<Order>(()).when(|order| order.ship_and_close("T-1")).then((OrderClosed {}, shipped("T-1"), created()))
    };
    assert_eq!(
        failure_of(test),
        r#"`Order` recorded other events than expected (- expected, + recorded, > first difference):
> - OrderClosed
  + ParcelShipped
  +   carrier: "DHL"
  +   tracking_number: "T-1"
  - ParcelShipped
  -   carrier: "DHL"
  -   tracking_number: "T-1"
  + OrderClosed
  - OrderCreated
  -   customer: "ada"
  -   lines[0].count: 2
  -   lines[0].sku: "A"
  -   lines[1].count: 340282366920938463463374607431768211455
  -   lines[1].sku: "B""#
    );
    let text = failure_of(|| given::<Order>(()).when(|order| order.ship_and_close("T-1")).then([shipped("T-1")]));
    assert_eq!(
        text,
        r#"`Order` recorded other events than expected (- expected, + recorded, > first difference):
    ParcelShipped
      carrier: "DHL"
      tracking_number: "T-1"
> + OrderClosed"#
    );
}

#[test]
fn an_event_fails_where_none_is_expected() {
    let text = failure_of(|| given::<Order>(()).when(|order| order.close()).then_nothing());
    assert_eq!(
        text,
        "`Order` recorded other events than expected (- expected, + recorded, > first difference):\n> + OrderClosed"
    );
}

#[test]
fn a_refusal_fails_where_events_are_expected() {
    let text = failure_of(|| given::<Order>(OrderClosed {}).when(|order| order.ship("T-1")).then([shipped("T-1")]));
    assert_eq!(
        text,
        r#"`Order` refused with Closed, expected events:
> - ParcelShipped
  -   carrier: "DHL"
  -   tracking_number: "T-1""#
    );
    let text = failure_of(|| given::<Order>(OrderClosed {}).when(|order| order.ship("T-1")).then_nothing());
    assert_eq!(text, "`Order` refused with Closed, expected it to accept");
}

#[test]
fn events_and_other_errors_fail_where_an_error_is_expected() {
    let text = failure_of(|| given::<Order>(()).when(|order| order.ship("T-1")).then_error(|_| true));
    assert_eq!(
        text,
        r#"`Order` accepted, expected an error; it recorded:
> + ParcelShipped
  +   carrier: "DHL"
  +   tracking_number: "T-1""#
    );
    let text = failure_of(|| given::<Order>(OrderClosed {}).when(|order| order.close()).then_error(|_| true));
    assert_eq!(text, "`Order` accepted and recorded nothing, expected an error");
    let is_closed = |error: &OrderError| matches!(error, OrderError::Closed);
    let text = failure_of(|| given::<Order>(shipped("T-1")).when(|order| order.ship("T-1")).then_error(is_closed));
    assert_eq!(text, r#"`Order` refused with another error than expected: AlreadyShipped("T-1")"#);
}

#[test]
fn an_event_that_no_store_takes_fails() {
    let weigh = |_: &Order| Ok::<_, Never>(Weighed { kilograms: f64::NAN });
    let text = failure_of(|| given::<Order>(()).when(weigh).then_nothing());
    assert!(text.starts_with("an event of the test cannot be saved: "), "{text}");
    assert!(text.contains("kilograms"), "{text}");
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Parcel)]
struct Packed {
    #[serde(serialize_with = "write_zero")]
    grams: u64,
    items: u64,
}

fn write_zero<S: serde::Serializer>(_grams: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(0)
}

#[derive(Debug, Default, PartialEq, Aggregate)]
#[aggregate(events(Packed))]
struct Parcel {
    grams: u64,
    items: u64,
}

impl Apply for Parcel {
    fn apply(&mut self, ParcelEvent::Packed(packed): &ParcelEvent) {
        self.grams += packed.grams;
        self.items += packed.items;
    }
}

#[test]
fn the_state_has_what_a_load_reads() {
    let packed = || Packed { grams: 200, items: 1 };
    let given = given::<Parcel>(packed());
    assert_eq!(given.state(), Parcel { grams: 0, items: 1 });
    let decided = given.when(|_| Ok::<_, Never>(packed())).then(packed());
    assert_eq!(decided.state(), Parcel { grams: 0, items: 2 });
}

#[test]
fn a_given_event_that_no_store_takes_fails() {
    let text = failure_of(|| given::<Order>(Weighed { kilograms: f64::NAN }));
    assert!(text.starts_with("an event of the test cannot be saved: "), "{text}");
}
