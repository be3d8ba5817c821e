//! The function stays a function, next to the type of its name.
#![allow(clippy::double_must_use)]

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {
    owner: String,
}

mod handlers {
    use eventbus::prelude::*;

    /// Greets.
    #[handler]
    #[must_use]
    pub async fn greet(event: &super::Opened, State(greeting): State<&'static str>) -> Result<(), String> {
        Err(format!("{greeting}, {}", event.owner))
    }
}

#[test]
fn runs() {
    let event = Opened { owner: "Ada".into() };
    let mut greeting = pin!(handlers::greet(&event, State("Hello")));
    let Poll::Ready(greeting) = greeting.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("it waits for nothing");
    };
    assert_eq!(greeting, Err("Hello, Ada".to_owned()));
    let _: Option<handlers::greet> = None;
}
