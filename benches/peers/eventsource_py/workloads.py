"""The workloads that eventsource-py has: the sizes and checks of those of `benches/peers/common/src/workload`."""

import asyncio
from pathlib import Path
from time import perf_counter
from uuid import uuid4

import asyncpg
from eventsource import AggregateRepository, create_async_engine
from eventsource.adapters.postgresql import PostgreSQLEventStore
from eventsource.adapters.redis import RedisEventBus, RedisEventBusConfig
from redis.asyncio import Redis

from order import ItemAdded, Order, OrderState, item

QUICK_DIVISOR = 4
# as by hand
CONNECTIONS = 16


def expect(what, result, due):
    if result != due:
        raise RuntimeError(f"{what}: {result} instead of {due}")


async def together(callers):
    """Runs callers beside each other, and adds up what they did."""
    times = [time for done in await asyncio.gather(*callers) for time in done]
    return len(times), times


class Workload:
    async def clean_up(self):
        pass

    async def check(self):
        pass


class Save(Workload):
    """Callers that each save to one order after the other."""

    EVENTS_PER_ORDER = 10

    async def open(self, options):
        name, (server, _) = f"bench-{uuid4()}", options.postgres.rsplit("/", 1)
        connection = await asyncpg.connect(options.postgres)
        await connection.execute(f'CREATE DATABASE "{name}"')
        backend = await connection.fetchval("SELECT pg_backend_pid()")
        # the parent of each backend; the name before it, in parentheses, may contain any character
        self.server = int(Path(f"/proc/{backend}/stat").read_text().rsplit(") ", 1)[1].split()[1])
        await connection.close()
        self.database = f"{server}/{name}"
        url = f"postgresql+asyncpg://{self.database.split('://', 1)[1]}"
        engine = create_async_engine(url, pool_size=CONNECTIONS, max_overflow=0)
        self.orders = AggregateRepository(PostgreSQLEventStore(engine, create_schema=True), Order)
        saves = (4_000 if options.callers == 1 else 32_000) // (QUICK_DIVISOR if options.quick else 1)
        self.callers, self.saves, self.saved = options.callers, -(-saves // options.callers), 0
        # creates the tables
        order = Order(uuid4())
        order.add_next()
        await self.orders.save(order)
        self.saved += 1
        self.is_analyzed = False

    async def _fetch(self, statement):
        connection = await asyncpg.connect(self.database)
        value = await connection.fetchval(statement)
        await connection.close()
        return value

    async def run(self):
        operations, times = await together(self._save() for _ in range(self.callers))
        self.saved += operations
        return operations, times

    async def clean_up(self):
        if not self.is_analyzed:
            # until then the server has kept plans for empty tables
            await self._fetch("ANALYZE")
            self.is_analyzed = True

    async def _save(self):
        order, times = Order(uuid4()), []
        for _ in range(self.saves):
            if order.version == self.EVENTS_PER_ORDER:
                order = Order(uuid4())
            start = perf_counter()
            order.add_next()
            await self.orders.save(order)
            times.append(perf_counter() - start)
        stored = await self.orders.load(order.aggregate_id)
        expect("an order", (stored.version, stored.state), (order.version, order.state))
        return times

    async def check(self):
        expect("events in the store", await self._fetch("SELECT count(*) FROM events"), self.saved)


class OnRedis(Workload):
    """A stream with a prefix of its own."""

    async def open(self, options):
        self.url, self.prefix = options.redis, f"bench-{uuid4()}"
        self.redis = Redis.from_url(self.url)
        self.server = (await self.redis.info("server"))["process_id"]

    async def connect(self, **options):
        bus = RedisEventBus(RedisEventBusConfig(redis_url=self.url, stream_prefix=self.prefix, **options))
        await bus.connect()
        return bus

    async def delete(self, bus):
        await self.redis.delete(bus.config.stream_name)


def items(count):
    return [item(uuid4(), 1, number) for number in range(count)]


class Publish(OnRedis):
    """Callers that each publish one event after the other."""

    async def open(self, options):
        await super().open(options)
        self.bus, self.published = await self.connect(), 0
        events = (40_000 if options.callers == 1 else 64_000) // (QUICK_DIVISOR if options.quick else 1)
        self.events = [items(events // options.callers) for _ in range(options.callers)]

    async def run(self):
        operations, times = await together(map(self._publish, self.events))
        self.published += operations
        return operations, times

    async def _publish(self, events):
        times = []
        for event in events:
            start = perf_counter()
            await self.bus.publish([event])
            times.append(perf_counter() - start)
        return times

    async def check(self):
        expect("entries", await self.redis.xlen(self.bus.config.stream_name), self.published)
        await self.delete(self.bus)


class PublishBatches(Publish):
    """One caller that publishes one batch after the other."""

    BATCH = 100

    async def open(self, options):
        await super().open(options)
        self.batches, self.events = 800 // (QUICK_DIVISOR if options.quick else 1), items(self.BATCH)

    async def run(self):
        for _ in range(self.batches):
            await self.bus.publish(self.events)
        self.published += self.batches * self.BATCH
        return self.batches * self.BATCH, []


class Consume(OnRedis):
    """A new group in each round, which reads the whole stream."""

    EVENTS_PER_PUBLISH = 1_000

    async def open(self, options):
        await super().open(options)
        self.events = 100_000 // (QUICK_DIVISOR if options.quick else 1)
        publisher, batch, self.due = await self.connect(), items(self.EVENTS_PER_PUBLISH), OrderState()
        for _ in range(self.events // self.EVENTS_PER_PUBLISH):
            await publisher.publish(batch)
            for event in batch:
                self.due = self.due.with_item(event)
        await publisher.disconnect()

    async def run(self):
        self.bus = await self.connect(consumer_group=f"group-{uuid4()}")
        count, cents, done = 0, 0, asyncio.Event()

        async def handle(event):
            nonlocal count, cents
            count += 1
            cents += event.quantity * event.unit_cents
            if count == self.events:
                done.set()

        self.bus.subscribe(ItemAdded, handle)
        consuming = self.bus.start_consuming_in_background()
        await asyncio.wait([consuming, asyncio.create_task(done.wait())], return_when=asyncio.FIRST_COMPLETED)
        config = self.bus.config
        while (await self.redis.xpending(config.stream_name, config.consumer_group))["pending"]:
            pass
        expect("the handled events", OrderState(items=count, cents=cents), self.due)
        return self.events, []

    async def clean_up(self):
        await self.bus.disconnect()

    async def check(self):
        await self.delete(self.bus)


ALL = {"save-1": Save, "publish-1": Publish, "publish-100": PublishBatches, "consume": Consume}
