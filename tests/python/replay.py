"""Replays every dead letter, and says what the library tells about it."""

import asyncio
from datetime import UTC, datetime, timedelta

from bus import connected, parser, say


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


async def main():
    async with connected(parser.parse_args()) as bus:
        for letter in await bus.get_dlq_messages():
            message_id = letter["message_id"]
            died = datetime.fromisoformat(letter["data"]["dlq_timestamp"]) - EPOCH
            replayed = await bus.replay_dlq_message(message_id)
            say(data=letter["data"], dead_since=died // timedelta(microseconds=1), replayed=replayed)


asyncio.run(main())
