"""Consumes until its input is closed; says each event as the library writes it, and whether it is one of the samples.

With the argument `fail-first` the handler fails the first time it gets an event, and what is pending is recovered
meanwhile, which is up to the application.
"""

import asyncio
import logging
import sys

from bus import connected, say
from events import SAMPLES, TYPES

FAIL_FIRST = "fail-first" in sys.argv
tried = set()


async def handle(event):
    if FAIL_FIRST and event.event_id not in tried:
        tried.add(event.event_id)
        say(failed=str(event.event_id))
        raise RuntimeError("fails the first time")
    say(handled=str(event.event_id), payload=event.model_dump_json(), is_sample=event in SAMPLES)


async def recover(bus):
    while True:
        await bus.recover_pending_messages()
        await asyncio.sleep(0.1)


async def main():
    async with connected() as bus:
        for event_type in TYPES:
            bus.subscribe(event_type, handle)
        consuming = asyncio.create_task(bus.start_consuming())
        if FAIL_FIRST:
            logging.disable()
            recovering = asyncio.create_task(recover(bus))
        say(consumer=bus.config.consumer_name)
        await asyncio.to_thread(sys.stdin.read)
        if FAIL_FIRST:
            recovering.cancel()
        await bus.stop_consuming()
        await consuming
        say(**bus.get_stats_dict())


asyncio.run(main())
