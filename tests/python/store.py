"""Runs the Python code of the guide's chapter on moving with the library's store in PostgreSQL, which makes the tables."""

import asyncio
from argparse import ArgumentParser
from ast import PyCF_ALLOW_TOP_LEVEL_AWAIT
from pathlib import Path
from uuid import UUID

from eventsource import (
    AggregateRepository,
    DeclarativeAggregate,
    DomainEvent,
    create_async_engine,
    handles,
    register_event,
)
from eventsource.adapters.postgresql import PostgreSQLEventStore
from pydantic import BaseModel

parser = ArgumentParser()
parser.add_argument("database_url")
parser.add_argument("chapter", type=Path)


async def main():
    options = parser.parse_args()
    code = options.chapter.read_text().split("```python\n")[1].split("```")[0]
    classes, load, steps = code.partition("account = await ")
    scope = {
        "BaseModel": BaseModel,
        "DeclarativeAggregate": DeclarativeAggregate,
        "DomainEvent": DomainEvent,
        "handles": handles,
        "register_event": register_event,
    }
    exec(compile(classes, options.chapter, "exec"), scope)
    address = options.database_url.split("://", 1)[1]
    engine = create_async_engine(f"postgresql+asyncpg://{address}")
    accounts = AggregateRepository(PostgreSQLEventStore(engine, create_schema=True), scope["Account"])
    account = accounts.create_new(UUID(int=100))
    account.deposit(1)
    await accounts.save(account)
    scope |= {"accounts": accounts, "account_id": UUID(int=100)}
    await eval(compile(load + steps, options.chapter, "exec", flags=PyCF_ALLOW_TOP_LEVEL_AWAIT), scope)
    await engine.dispose()


asyncio.run(main())
