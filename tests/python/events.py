"""The events that both sides know: `tests/tests/python/samples.rs` has the same types and the same values."""

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from uuid import UUID

from pydantic import BaseModel

from eventsource.domain.event import DomainEvent
from eventsource.domain.event_registry import register_event


class Size(str, Enum):
    SMALL = "small"
    LARGE = "large"


class Grade(IntEnum):
    FIRST = 1
    SECOND = 2


class Line(BaseModel):
    sku: str
    price: Decimal
    note: str | None


@register_event
class AllKinds(DomainEvent):
    """One field for each kind of value."""

    aggregate_type: str = "Sample"
    event_version: int = 2
    text: str
    data: bytes
    yes: bool
    count: int
    beyond_float: int
    beyond_64_bits: int
    floats: list[float]
    amounts: list[Decimal]
    day: date
    at: time
    second: datetime
    micros: datetime
    elsewhere: datetime
    naive: datetime
    spans: list[timedelta]
    size: Size
    grade: Grade
    owner: UUID
    line: Line
    lines: list[Line]
    pair: tuple[int, str]
    prices: dict[str, Decimal]
    maybe: str | None


@register_event
class NoFields(DomainEvent):
    aggregate_type: str = "Sample"


TYPES = (AllKinds, NoFields)


def sample_id(number: int) -> UUID:
    return UUID(int=number)


SAMPLES = [
    AllKinds(
        event_id=sample_id(1),
        occurred_at=datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC),
        aggregate_id=sample_id(100),
        aggregate_version=7,
        tenant_id=sample_id(200),
        actor_id='Zoë "x"\n',
        correlation_id=sample_id(300),
        causation_id=sample_id(400),
        metadata={"z": 1, "a": [None, True, 1.50, 9007199254740993], "größe": {"日本": "🦀", "empty": {}}},
        text="".join(map(chr, range(1, 32))) + '"\\/\x7fé\u2028日本🦀e\u0301',
        data="café".encode(),
        yes=True,
        count=-42,
        beyond_float=2**53 + 1,
        beyond_64_bits=-(2**65) - 1,
        floats=[100.0, 0.1, -0.0, 1e16, 1e15, 123456789012345680.0, 1e-5, 1e-7, 5e-324, 1.7976931348623157e308],
        amounts=[Decimal("1234.5600"), Decimal("-0.00"), Decimal("1E+3"), Decimal("12345678901234567890.123456789")],
        day=date(2024, 2, 29),
        at=time(3, 4, 5),
        second=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        micros=datetime(2026, 1, 2, 3, 4, 5, 120000, tzinfo=UTC),
        elsewhere=datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        naive=datetime(2026, 1, 2, 3, 4, 5),
        spans=[timedelta(days=1, hours=2, seconds=3.5), timedelta(0), timedelta(days=-1, microseconds=1)],
        size=Size.LARGE,
        grade=Grade.SECOND,
        owner=UUID("feaf2364-cce1-4ed3-9a63-624520185ae3"),
        line=Line(sku="a-1", price=Decimal("9.90"), note=None),
        lines=[Line(sku="b-2", price=Decimal("0.10"), note="gift"), Line(sku="", price=Decimal("0"), note="")],
        pair=(1, "one"),
        prices={"eur": Decimal("1.10"), "usd": Decimal("1.20")},
        maybe="yes",
    ),
    AllKinds(
        event_id=sample_id(2),
        occurred_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        aggregate_id=sample_id(100),
        aggregate_version=8,
        correlation_id=sample_id(300),
        text="",
        data=b"",
        yes=False,
        count=0,
        beyond_float=2**64 - 1,
        beyond_64_bits=2**127 - 1,
        floats=[],
        amounts=[],
        day=date(1, 1, 1),
        at=time(23, 59, 59),
        second=datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
        micros=datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        elsewhere=datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=-8))),
        naive=datetime(1970, 1, 1),
        spans=[],
        size=Size.SMALL,
        grade=Grade.FIRST,
        owner=UUID(int=0),
        line=Line(sku="c", price=Decimal("-1.5"), note="é"),
        lines=[],
        pair=(-1, ""),
        prices={},
        maybe=None,
    ),
    NoFields(
        event_id=sample_id(3),
        occurred_at=datetime(2026, 1, 2, 3, 4, 5, 1, tzinfo=UTC),
        aggregate_id=sample_id(101),
        correlation_id=sample_id(300),
    ),
]
