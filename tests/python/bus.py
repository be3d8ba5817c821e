"""What the scripts share: their arguments, the bus they work on, and their output of one JSON text a line."""

import json
from argparse import ArgumentParser
from contextlib import asynccontextmanager
from dataclasses import fields

from eventsource.adapters.redis import RedisEventBus, RedisEventBusConfig

# what release 0.14 renamed
READ_COUNT = "stream_read_count"
if READ_COUNT not in {field.name for field in fields(RedisEventBusConfig)}:
    READ_COUNT = "batch_size"

parser = ArgumentParser()
parser.add_argument("redis_url")
parser.add_argument("stream_prefix")
parser.add_argument("--group", default="default")
parser.add_argument("--idle-ms", type=int, default=200)
parser.add_argument("--max-retries", type=int, default=3)


def say(**line):
    print(json.dumps(line), flush=True)


@asynccontextmanager
async def connected(options):
    config = RedisEventBusConfig(
        redis_url=options.redis_url,
        stream_prefix=options.stream_prefix,
        consumer_group=options.group,
        **{READ_COUNT: 10},
        block_ms=100,  # stopping waits for it
        pending_idle_ms=options.idle_ms,
        max_retries=options.max_retries,
    )
    bus = RedisEventBus(config)
    await bus.connect()
    try:
        yield bus
    finally:
        await bus.disconnect()
