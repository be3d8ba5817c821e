use std::collections::BTreeMap;

use eventbus::{
    Aggregate, DomainEvent, EventSet, NewEvent,
    event::{DecodeError, EncodeEvent, EncodeFault, EventFault, EventRegistry, RESERVED_FIELDS},
    prelude::*,
};

use super::domain::{AccountOpened, Audited, Order, OrderCreated, OrderEvent, OrderShipped, created, record};

#[test]
fn wire_names_are_the_struct_names_unless_said_otherwise() {
    assert_eq!(OrderCreated::EVENT_TYPE, "OrderCreated");
    assert_eq!(OrderCreated::SCHEMA_VERSION, 1);
    assert_eq!(OrderShipped::EVENT_TYPE, "order.shipped");
    assert_eq!(OrderShipped::SCHEMA_VERSION, 2);
    assert_eq!(OrderShipped::AGGREGATE_TYPE, "Order");
    assert_eq!(AccountOpened::AGGREGATE_TYPE, "Account");
    assert_eq!(Order::AGGREGATE_TYPE, "Order");
    assert_eq!(OrderEvent::EVENTS.event_types(), ["OrderCreated", "order.shipped"]);
    assert_eq!(Audited::EVENTS.event_types(), ["AccountOpened", "OrderCreated"]);
}

#[test]
fn a_descriptor_says_where_the_event_is() {
    let descriptor = OrderShipped::EVENTS.descriptors()[0];
    assert_eq!(descriptor.rust_type, "macros::domain::OrderShipped");
    assert!(descriptor.source.file.ends_with("domain.rs"));
    let declared = include_str!("domain.rs").lines().nth(descriptor.source.line as usize - 1);
    assert_eq!(declared, Some("pub(crate) struct OrderShipped;"));
}

#[test]
fn events_are_registered() {
    let registry = EventRegistry::discover();
    assert_eq!(registry.get("order.shipped").unwrap().schema_version, 2);
    assert_eq!(registry.get("AccountOpened").unwrap().aggregate_type, "Account");
}

#[test]
fn what_is_encoded_decodes_to_the_same() {
    let event = NewEvent::from_event(&created("ada")).unwrap();
    assert_eq!(event.payload(), r#"{"customer_id":"ada"}"#);
    let recorded = record("OrderCreated", event.payload());
    assert_eq!(recorded.decode::<OrderCreated>().unwrap(), created("ada"));
    assert_eq!(recorded.decode::<Audited>().unwrap(), Audited::Created(created("ada")));
    let envelope = recorded.decode::<Envelope<OrderEvent>>().unwrap();
    assert!(matches!(envelope.event(), OrderEvent::OrderCreated(event) if *event == created("ada")));
    assert_eq!(envelope.metadata().event_type(), "OrderCreated");
}

#[test]
fn an_enum_encodes_as_the_event_it_holds() {
    let event = OrderEvent::from(OrderShipped).encode().unwrap();
    assert_eq!(event.event_type(), "order.shipped");
    assert_eq!(event.schema_version(), 2);
    assert_eq!(event.payload(), "{}");
    let event = Audited::from(AccountOpened { limit: 3 }).encode().unwrap();
    assert_eq!(event.payload(), r#"{"limit":3}"#);
}

#[test]
fn an_event_without_fields_is_an_empty_object() {
    assert_eq!(NewEvent::from_event(&OrderShipped).unwrap().payload(), "{}");
    for payload in ["{}", r#"{"of":"a later release"}"#] {
        let recorded = record("order.shipped", payload);
        assert_eq!(recorded.decode::<OrderShipped>().unwrap(), OrderShipped);
    }
}

#[test]
fn an_unknown_type_names_the_known_ones() {
    let recorded = record("OrderCancelled", "{}");
    let error = recorded.decode::<OrderEvent>().unwrap_err();
    assert_eq!(error.to_string(), "unknown event type `OrderCancelled` (known: OrderCreated, order.shipped)");
    let error = recorded.decode::<OrderShipped>().unwrap_err();
    assert_eq!(error.to_string(), "unknown event type `OrderCancelled` (known: order.shipped)");
    assert_eq!(recorded.decode::<RecordedEvent>().unwrap(), recorded);
}

/// A sealed text must not pass for a value: every way to decode refuses the event, and only the record itself passes.
#[test]
fn an_event_with_sealed_fields_is_not_decoded() {
    let plain = record("OrderCreated", r#"{"customer_id":"sealed:1:key:c2VhbGVk"}"#);
    assert_eq!(plain.decode::<OrderCreated>().unwrap(), created("sealed:1:key:c2VhbGVk"));
    let sealed = RecordedEvent::new(plain.metadata().clone().with_sealed_fields(true), plain.payload());
    let refusals = [
        sealed.decode::<OrderCreated>().unwrap_err(),
        sealed.decode::<OrderEvent>().unwrap_err(),
        sealed.decode::<Envelope<OrderCreated>>().unwrap_err(),
        sealed.decode::<Envelope<Audited>>().unwrap_err(),
    ];
    for refused in refusals {
        assert!(
            matches!(&refused, DecodeError::SealedFields { event_type } if event_type == "OrderCreated"),
            "{refused:?}"
        );
        let text = "event `OrderCreated` was written by a newer release: its personal fields are sealed";
        assert_eq!(refused.to_string(), text);
    }
    assert_eq!(sealed.decode::<RecordedEvent>().unwrap(), sealed);
    let unknown = sealed.decode::<AccountOpened>().unwrap_err();
    assert!(matches!(unknown, DecodeError::UnknownType { .. }), "{unknown:?}");
}

#[test]
fn a_payload_that_does_not_fit_names_type_field_and_reason_and_no_value() {
    const REMEDY: &str = " (a new field needs `#[serde(default)]`, a renamed one `#[serde(alias = \"..\")]`)";
    for (error, path, reason, remedy) in [
        (
            record("OrderCreated", r#"{"customer_id":570}"#).decode::<OrderCreated>().unwrap_err(),
            "customer_id",
            "invalid type: integer, expected a string",
            "",
        ),
        (
            record("OrderCreated", "{}").decode::<OrderEvent>().map(drop).unwrap_err(),
            "",
            "missing field `customer_id`",
            REMEDY,
        ),
    ] {
        let text = error.to_string();
        let named = "payload of event `OrderCreated` (version 1) does not fit `macros::domain::OrderCreated`: ";
        assert!(text.starts_with(named) && !text.contains("570"), "{text}");
        assert!(text.ends_with(&format!("{reason}{remedy}")), "{text}");
        let DecodeError::Payload { source, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!((source.path(), source.reason()), (path, reason));
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Annotated {
    #[serde(flatten)]
    notes: BTreeMap<String, String>,
}

#[test]
fn reserved_fields_that_serde_makes_up_are_refused_at_encode() {
    for field in RESERVED_FIELDS {
        let notes = BTreeMap::from([(field.to_owned(), String::new())]);
        let error = NewEvent::from_event(&Annotated { notes }).unwrap_err();
        assert_eq!(error.event_type, "Annotated");
        assert!(error.reason == EncodeFault::Invalid(EventFault::ReservedField(field)), "{error:?}");
    }
    let notes = BTreeMap::from([("note".to_owned(), "paid".to_owned())]);
    let event = NewEvent::from_event(&Annotated { notes }).unwrap();
    assert_eq!(event.payload(), r#"{"note":"paid"}"#);
}
