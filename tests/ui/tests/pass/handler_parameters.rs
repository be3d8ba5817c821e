//! Every parameter that a handler can take.
#![allow(unused_parens)]

use eventbus::{HandlerError, handler::Handler, prelude::*};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Opened {
    owner: String,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Opened))]
struct Account {}

impl Apply for Account {
    fn apply(&mut self, _event: &AccountEvent) {}
}

#[handler]
async fn by_reference(_event: &Opened) {}

#[handler]
async fn by_value(Opened { owner }: Opened) {
    drop(owner);
}

#[handler]
async fn mutable(mut event: Opened, mut meta: State<Vec<u8>>) {
    event.owner.clear();
    meta.0.clear();
}

#[handler]
async fn enveloped(event: Envelope<Opened>) -> Result<(), String> {
    Err(format!("{} {}", event.owner, event.metadata().version()))
}

#[handler]
async fn borrowed_envelope(_event: &Envelope<AccountEvent>) -> Result<(), HandlerError> {
    Err(HandlerError::permanent("no"))
}

#[handler]
async fn every_event_of_the_aggregate(event: &AccountEvent) -> eventbus::Result<()> {
    let AccountEvent::Opened(_) = event;
    Ok(())
}

#[handler]
async fn every_event(event: &RecordedEvent, _meta: &Metadata) {
    let _ = event.payload();
}

#[handler]
async fn everything(
    event: &Opened,
    _meta: &Metadata,
    _record: &RecordedEvent,
    State(_state): State<std::sync::Arc<str>>,
    Attempt(attempt): Attempt,
    _another: State<u32>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    Err(format!("{} {attempt}", event.owner).into())
}

#[handler]
async fn hidden_error(_event: (Opened)) -> Result<(), impl std::error::Error + Send + Sync> {
    Err::<(), _>(std::io::Error::other("no"))
}

#[test]
fn runs() {
    assert_eq!(by_value::definition().events.event_types(), ["Opened"]);
    assert_eq!(every_event::definition().events.event_types(), [""; 0]);
    assert!(every_event::definition().events.matches("Anything"));
    assert_eq!(borrowed_envelope::definition().events.event_types(), ["Opened"]);
    let _ = hidden_error::definition();
}
