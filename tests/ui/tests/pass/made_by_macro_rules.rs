//! Items written by the user's own macros.
#![deny(warnings)]

use eventbus::{EventSet, handler::Handler, prelude::*, projection::Projection};

macro_rules! aggregate {
    ($aggregate:ident, $enum:ident, $event:ident { $($field:ident: $ty:ty),* }, $handler:ident, $name:literal) => {
        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate = $aggregate, type = $name)]
        struct $event {
            $($field: $ty),*
        }

        #[derive(Debug, Default, Aggregate)]
        #[aggregate(events($event), event = $enum)]
        struct $aggregate {}

        impl Apply for $aggregate {
            fn apply(&mut self, event: &$enum) {
                let $enum::$event(event) = event;
                $(let _ = &event.$field;)*
            }
        }

        handler!($handler, &$event, State<u64>);
    };
}

macro_rules! handler {
    ($name:ident, $event:ty, $state:ty) => {
        #[handler(retries = 2)]
        async fn $name(_event: $event, _state: $state) {}
    };
}

macro_rules! projection {
    ($type:ty, $name:expr, $method:ident, $event:ty) => {
        #[projection(name = "made")]
        impl $type {
            fn $method(&mut self, _event: $event) {}
        }
    };
}

aggregate!(Account, AccountFact, Opened { owner: String }, on_opened, "opened");

#[derive(Debug, Default)]
struct Made;

projection!(Made, "made", opened, &Opened);

#[test]
fn runs() {
    assert_eq!(AccountFact::EVENTS.event_types(), ["opened"]);
    assert_eq!(on_opened::definition().options.retries, Some(2));
    assert_eq!(Made::definition().name, "made");
}
