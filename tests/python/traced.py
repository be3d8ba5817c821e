"""A service that takes the payment of each order in a span of OpenTelemetry, and prints the spans that have ended.

It ends when its input is closed.
"""

import asyncio
import logging
import sys

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from bus import connected, parser, say
from shop import OrderPlaced, PaymentTaken

options = parser.parse_args()
exporter = InMemorySpanExporter()
propagator = TraceContextTextMapPropagator()


def take_payment(bus):
    async def handle(order):
        context = propagator.extract(order.metadata)
        with trace.get_tracer("payments").start_as_current_span("take_payment", context=context):
            metadata = {}
            propagator.inject(metadata)
            payment = PaymentTaken(aggregate_id=order.aggregate_id, number=order.number, metadata=metadata)
            await bus.publish([payment.with_causation(order)])

    return handle


def say_spans():
    for span in exporter.get_finished_spans():
        say(
            span={
                "name": span.name,
                "trace": trace.format_trace_id(span.context.trace_id),
                "id": trace.format_span_id(span.context.span_id),
                "parent": trace.format_span_id(span.parent.span_id if span.parent else 0),
                "attributes": {},
            }
        )


async def main():
    logging.disable()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    async with connected(options) as bus:
        bus.subscribe(OrderPlaced, take_payment(bus))
        consuming = asyncio.create_task(bus.start_consuming())
        await asyncio.to_thread(sys.stdin.read)
        await bus.stop_consuming()
        await consuming
    say_spans()


asyncio.run(main())
