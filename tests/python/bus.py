"""What the scripts share: the bus they work on, named by their arguments, and their output of one JSON text a line."""

import json
import sys
from contextlib import asynccontextmanager

from eventsource.adapters.redis import RedisEventBus, RedisEventBusConfig


def say(**line):
    print(json.dumps(line), flush=True)


@asynccontextmanager
async def connected():
    """The bus of `script.py REDIS_URL STREAM_PREFIX …`, in the default group."""
    _, url, prefix, *_ = sys.argv
    config = RedisEventBusConfig(
        redis_url=url,
        stream_prefix=prefix,
        batch_size=10,
        block_ms=100,  # stopping waits for it
        pending_idle_ms=200,
    )
    bus = RedisEventBus(config)
    await bus.connect()
    try:
        yield bus
    finally:
        await bus.disconnect()
