"""Replays every dead letter."""

import asyncio

from bus import connected, say


async def main():
    async with connected() as bus:
        for letter in await bus.get_dlq_messages():
            message_id = letter["message_id"]
            say(dead_letter=message_id, replayed=await bus.replay_dlq_message(message_id))


asyncio.run(main())
