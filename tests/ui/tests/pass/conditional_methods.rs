//! `#[cfg]` on the methods of a projection.
#![allow(unexpected_cfgs)]

use eventbus::{prelude::*, projection::Projection};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Closed {}

#[derive(Debug, Default)]
struct Statistics {
    open: u64,
}

#[projection(name = "statistics")]
impl Statistics {
    #[cfg(not(feature = "nothing"))]
    fn opened(&mut self, _event: &Opened) {
        self.open += 1;
    }

    #[cfg(feature = "nothing")]
    fn frozen(&mut self, _event: &Frozen, State(_missing): State<Missing>) {}

    fn closed(&mut self, _event: &Closed, _meta: &Metadata) -> Result<(), std::fmt::Error> {
        self.open -= 1;
        Ok(())
    }
}

#[test]
fn runs() {
    assert_eq!(Statistics::definition().events.event_types(), ["Closed", "Opened"]);
}
