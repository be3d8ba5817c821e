"""Consumes until its input is closed; says each event as the library writes it, and whether it is one of the samples.

The handler fails with each event as often as `--failures` or the event's own metadata say. With `--recover` what is
pending is recovered now and then, which is up to the application. With `--hold-after` the handler never ends with any
event after that many. The log is left out with `--quiet`, and where failures are to be expected.
"""

import asyncio
import logging
import sys
from collections import Counter

from bus import READ_COUNT, connected, parser, say
from events import SAMPLES, TYPES

parser.add_argument("--failures", type=int, default=0)
parser.add_argument("--recover", action="store_true")
parser.add_argument("--hold-after", type=int)
parser.add_argument("--quiet", action="store_true")
options = parser.parse_args()
failed, handled = Counter(), 0


async def handle(event):
    global handled
    event_id = str(event.event_id)
    failures = event.metadata.get("failures", options.failures)
    if failed[event_id] < failures:
        failed[event_id] += 1
        say(failed=event_id)
        raise RuntimeError(f"fails {failures} times")
    if handled == options.hold_after:
        await asyncio.Event().wait()
    handled += 1
    say(handled=event_id, payload=event.model_dump_json(), is_sample=event in SAMPLES)


async def recover(bus):
    while True:
        await bus.recover_pending_messages(**{READ_COUNT: 1000})
        await asyncio.sleep(0.05)


async def main():
    if options.quiet or options.recover:
        logging.disable()
    async with connected(options) as bus:
        for event_type in TYPES:
            bus.subscribe(event_type, handle)
        consuming = asyncio.create_task(bus.start_consuming())
        say(consumer=bus.config.consumer_name)
        recovering = asyncio.create_task(recover(bus)) if options.recover else None
        await asyncio.to_thread(sys.stdin.read)
        if recovering:
            recovering.cancel()
        await bus.stop_consuming()
        await consuming


asyncio.run(main())
