"""Publishes the samples: the first by itself, the others together."""

import asyncio

from bus import connected
from events import SAMPLES


async def main():
    async with connected() as bus:
        await bus.publish(SAMPLES[:1])
        await bus.publish(SAMPLES[1:])


asyncio.run(main())
