"""The event and the aggregate of all workloads: those of `benches/peers/common/src/order.rs`."""

from eventsource import DeclarativeAggregate, DomainEvent, handles, register_event
from pydantic import BaseModel


class ItemOption(BaseModel):
    name: str
    value: str


@register_event
class ItemAdded(DomainEvent):
    aggregate_type: str = "Order"
    number: int
    sku: str
    name: str
    quantity: int
    unit_cents: int
    currency: str
    is_gift: bool
    options: list[ItemOption]


def item(order_id, version, number):
    return ItemAdded(
        aggregate_id=order_id,
        aggregate_version=version,
        number=number,
        sku=f"BK-2041-{number}",
        name="Grundzüge der Lagerhaltung, 4th edition",
        quantity=number % 7 + 1,
        unit_cents=2_499,
        currency="EUR",
        is_gift=False,
        options=[
            ItemOption(name="binding", value="hardcover"),
            ItemOption(name="wrapping", value="paper, blue"),
            ItemOption(name="card", value="none"),
        ],
    )


class OrderState(BaseModel):
    items: int = 0
    cents: int = 0

    def with_item(self, event):
        return OrderState(items=self.items + 1, cents=self.cents + event.quantity * event.unit_cents)


class Order(DeclarativeAggregate[OrderState]):
    aggregate_type = "Order"

    def _get_initial_state(self):
        return OrderState()

    def add_next(self):
        self.apply_event(item(self.aggregate_id, self.get_next_version(), self.version))

    @handles(ItemAdded)
    def _added(self, event):
        self._state = (self._state or OrderState()).with_item(event)
