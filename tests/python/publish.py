"""Publishes the samples: the first by itself, the others together."""

import asyncio

from bus import connected, parser
from events import SAMPLES


async def main():
    async with connected(parser.parse_args()) as bus:
        await bus.publish(SAMPLES[:1])
        await bus.publish(SAMPLES[1:])


asyncio.run(main())
