use eventbus::prelude::*;

#[handler]
async fn any<E: DomainEvent>(_event: &E) {}

#[handler]
async fn sized<const N: usize>(_event: &RecordedEvent) {}

fn main() {}
