"""A steady load from a process of its own: so many synthetic events a second through the product's producer, until it is told to stop.

    with Load(Order(kafka, rate=2000)) as load: ...
    load.sent, load.late_ms

Users and items are Zipf (exponent 1), event times are now. A process of its own, so that who measures beside it is not held up.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from bench.synthetic import ITEMS, USERS, zipf
from freshet.clock import now_ms
from storage.arrays import F64s
from stream.events import Event
from stream.kafka import Kafka
from stream.producer import Limits, Producer
from stream.producer_kafka import KafkaSink

TICK_S: Final = 0.005
START_S: Final = 120.0
STOP_S: Final = 60.0
_DRAWN_AT_ONCE: Final = 20_000


@dataclass(frozen=True)
class Order:
    """What is sent where; events a second."""

    kafka: Kafka
    rate: int
    users: int = USERS
    items: int = ITEMS
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.rate, self.users, self.items) < 1:
            raise ValueError(f"rate={self.rate}, users={self.users}, items={self.items}: each must be at least 1")


class Load:
    """Runs while the block does; all that was sent is acknowledged when it is left. Raises RuntimeError when its process failed."""

    def __init__(self, order: Order) -> None:
        context = get_context("spawn")
        self._stopping = context.Event()
        self._sent, self._late_us = context.Value("q", 0), context.Value("q", 0)
        self._process = context.Process(target=_drive, args=(order, self._stopping, self._sent, self._late_us), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        end = time.monotonic() + START_S
        while not self.sent:
            if not self._process.is_alive() or time.monotonic() > end:
                self._process.kill()
                raise RuntimeError("the load did not begin: its process has said why")
            time.sleep(TICK_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        self._process.join(STOP_S)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        if self._process.exitcode and error is None:
            raise RuntimeError(f"the load ended with {self._process.exitcode}: its process has said why")

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process.pid is not None, "the load runs inside its block"
        return self._process.pid

    @property
    def sent(self) -> int:
        """Events given to the producer so far."""
        return int(self._sent.value)

    @property
    def late_ms(self) -> float:
        """How far the load was behind its own schedule at worst: what it did not hold it did not measure."""
        return float(self._late_us.value) / 1000


def events(order: Order) -> Iterator[Event]:
    """Without end, each with the time at which it is asked for; ids are the producer's."""
    generator = np.random.default_rng(order.seed)
    while True:
        users, items = (zipf(generator, size, _DRAWN_AT_ONCE).tolist() for size in (order.users, order.items))
        for user, item in zip(users, items, strict=True):
            yield Event(user_id=f"u{user}", action="click", item_id=f"i{item}", ts_ms=now_ms())


def spread(values_ms: list[float] | F64s) -> dict[str, float]:
    """Count, median, 99th percentile and worst of some times."""
    found = np.asarray(values_ms, dtype=np.float64)
    if not len(found):
        return {"count": 0}
    p50, p99 = np.percentile(found, [50, 99])
    return {"count": len(found), "p50": round(float(p50), 1), "p99": round(float(p99), 1), "max": round(float(found.max()), 1)}


def _drive(order: Order, stopping: Any, sent: Any, late_us: Any) -> None:
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    made = events(order)
    with Producer(KafkaSink(order.kafka), limits=Limits(waiting_max=10 * order.rate + 1000)) as producer:
        began = time.perf_counter()
        while not stopping.is_set():
            due = int((time.perf_counter() - began) * order.rate)
            behind = due - sent.value
            late_us.value = max(late_us.value, int(1e6 * behind / order.rate))
            for _ in range(behind):
                producer.send(next(made))
            sent.value = due
            time.sleep(TICK_S)
