//! Raw identifiers lose their `r#` on the wire.
#![allow(non_camel_case_types)]

use eventbus::{EventSet, NewEvent, handler::Handler, prelude::*};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = r#loop)]
struct r#move {
    r#type: String,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(r#move))]
struct r#loop {}

impl Apply for r#loop {
    fn apply(&mut self, event: &loopEvent) {
        let loopEvent::r#move(_) = event;
    }
}

#[handler]
async fn r#match(_event: &r#move) {}

#[derive(Debug, Default)]
struct Counts {}

#[projection(name = "counts")]
impl Counts {
    fn r#yield(&mut self, _event: &r#move) {}
}

#[test]
fn runs() {
    let event = NewEvent::from_event(&r#move { r#type: "x".into() }).unwrap();
    assert_eq!(event.event_type().as_str(), "move");
    assert_eq!(event.payload(), r#"{"type":"x"}"#);
    assert_eq!(r#loop::AGGREGATE_TYPE, "loop");
    assert_eq!(loopEvent::EVENTS.event_types(), ["move"]);
    assert_eq!(r#match::definition().name, "match");
}
