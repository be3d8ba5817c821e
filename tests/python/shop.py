"""The events of a shop: an order, and its payment."""

from eventsource.domain.event import DomainEvent
from eventsource.domain.event_registry import register_event


@register_event
class OrderPlaced(DomainEvent):
    aggregate_type: str = "Order"
    number: int


@register_event
class PaymentTaken(DomainEvent):
    aggregate_type: str = "Payment"
    number: int
