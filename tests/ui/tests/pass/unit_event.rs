//! An event without fields is stored as an empty object.

use eventbus::{NewEvent, RecordedEvent, Version, prelude::*};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Cart")]
struct Emptied;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Cart", type = "cart.emptied")]
struct EmptiedToo {}

#[test]
fn runs() {
    assert_eq!(NewEvent::from_event(&Emptied).unwrap().payload(), "{}");
    assert_eq!(NewEvent::from_event(&EmptiedToo {}).unwrap().payload(), "{}");
    let record = RecordedEvent::from_event(&Emptied, AggregateId::new(), Version::FIRST).unwrap();
    assert_eq!(record.decode::<Emptied>().unwrap(), Emptied);
}
