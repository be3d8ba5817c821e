"""Makes dead letters of what is on the stream, by a handler that always fails and recovery until nothing is pending."""

import asyncio
import logging

from bus import connected, say
from events import TYPES


async def fail(event):
    say(failed=str(event.event_id))
    raise RuntimeError("always fails")


async def main():
    logging.disable()
    async with connected() as bus:
        for event_type in TYPES:
            bus.subscribe(event_type, fail)
        length = (await bus.get_stream_info())["stream"]["length"]
        consuming = asyncio.create_task(bus.start_consuming())
        while bus.stats.events_processed_failed < length:
            await asyncio.sleep(0.01)
        await bus.stop_consuming()
        await consuming
        while (await bus.get_stream_info())["pending_messages"]:
            await bus.recover_pending_messages(min_idle_time_ms=1)
        for letter in await bus.get_dlq_messages():
            say(dead_letter=letter["message_id"], fields=list(letter["data"].items()))


asyncio.run(main())
