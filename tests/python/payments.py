"""A service that takes the payment of each order, and publishes an event of its own because of the order's.

Records each run of its handler in a list of Redis: the id of the event, and the id of the event that the run published.
The second is made of the first, so that a repeated run publishes the same event. With `--hold-after` the run after that
many publishes and records, but never ends: its event stays in flight. It ends when its input is closed.
"""

import asyncio
import json
import logging
import sys
from uuid import uuid5

from redis.asyncio import Redis

from bus import READ_COUNT, connected, parser, say
from shop import OrderPlaced, PaymentTaken

parser.add_argument("--hold-after", type=int)
options = parser.parse_args()
runs = 0


def payment_because_of(order):
    """Sets correlation and cause; those of an order with an even number also tenant, actor and trace."""
    return PaymentTaken(
        event_id=uuid5(order.event_id, "PaymentTaken"),
        aggregate_id=order.aggregate_id,
        number=order.number,
        **(rest_of_context(order) if order.number % 2 == 0 else {}),
    ).with_causation(order)


def rest_of_context(cause):
    """What `with_causation` leaves out."""
    trace = {key: cause.metadata[key] for key in ("traceparent", "tracestate") if key in cause.metadata}
    return {"tenant_id": cause.tenant_id, "actor_id": cause.actor_id, "metadata": trace}


def take_payment(bus, redis):
    async def handle(order):
        global runs
        payment = payment_because_of(order)
        await bus.publish([payment])
        ids = json.dumps([str(order.event_id), str(payment.event_id)])
        await redis.rpush(f"{options.stream_prefix}:runs:{options.group}", ids)
        if runs == options.hold_after:
            say(holds=str(order.event_id))
            await asyncio.Event().wait()
        runs += 1

    return handle


async def recover(bus):
    while True:
        await bus.recover_pending_messages(**{READ_COUNT: 1000})
        await asyncio.sleep(0.05)


async def main():
    logging.disable()
    async with connected(options) as bus, Redis.from_url(options.redis_url) as redis:
        bus.subscribe(OrderPlaced, take_payment(bus, redis))
        consuming = asyncio.create_task(bus.start_consuming())
        recovering = asyncio.create_task(recover(bus))
        await asyncio.to_thread(sys.stdin.read)
        recovering.cancel()
        await bus.stop_consuming()
        await consuming


asyncio.run(main())
