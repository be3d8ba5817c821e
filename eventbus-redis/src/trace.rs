//! Spans with the fields that OpenTelemetry has for messaging.

use eventbus::port::Delivery;
use tracing::Span;

use crate::bus::Shared;

/// Around one call of publish.
pub(crate) fn publish(bus: &Shared, events: usize) -> Span {
    if !bus.config.enable_tracing {
        return Span::none();
    }
    tracing::info_span!(
        "publish",
        otel.name = format_args!("publish {}", bus.stream),
        otel.kind = "producer",
        messaging.system = "redis",
        messaging.operation.name = "publish",
        messaging.destination.name = bus.stream,
        messaging.batch.message_count = events,
    )
}

/// Around the handlers of one delivery.
pub(crate) fn process(bus: &Shared, delivery: &Delivery) -> Span {
    if !bus.config.enable_tracing {
        return Span::none();
    }
    tracing::info_span!(
        "process",
        otel.name = format_args!("process {}", bus.stream),
        otel.kind = "consumer",
        messaging.system = "redis",
        messaging.operation.name = "process",
        messaging.destination.name = bus.stream,
        messaging.consumer.group.name = %delivery.group(),
        messaging.message.id = delivery.message_id().map(|id| id.as_str()),
        event_type = %delivery.metadata().event_type(),
        event_id = %delivery.metadata().event_id(),
    )
}
