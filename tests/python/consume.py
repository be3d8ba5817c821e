"""Consumes until its input is closed; says each event as the library writes it, and whether it is one of the samples.

Its third argument, if there is one, is how often the handler fails with each event. Then what is pending is recovered
now and then, which is up to the application; what fails four times becomes a dead letter.
"""

import asyncio
import logging
import sys
from collections import Counter

from bus import connected, say
from events import SAMPLES, TYPES

FAILURES = int(sys.argv[3]) if len(sys.argv) > 3 else 0
failed = Counter()


async def handle(event):
    event_id = str(event.event_id)
    if failed[event_id] < FAILURES:
        failed[event_id] += 1
        say(failed=event_id)
        raise RuntimeError(f"fails {FAILURES} times")
    say(handled=event_id, payload=event.model_dump_json(), is_sample=event in SAMPLES)


async def recover(bus):
    while True:
        await bus.recover_pending_messages()
        await asyncio.sleep(0.05)


async def main():
    if FAILURES:
        logging.disable()
    async with connected() as bus:
        for event_type in TYPES:
            bus.subscribe(event_type, handle)
        consuming = asyncio.create_task(bus.start_consuming())
        say(consumer=bus.config.consumer_name)
        recovering = asyncio.create_task(recover(bus)) if FAILURES else None
        await asyncio.to_thread(sys.stdin.read)
        if recovering:
            recovering.cancel()
        await bus.stop_consuming()
        await consuming


asyncio.run(main())
