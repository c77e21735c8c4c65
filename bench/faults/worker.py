"""A worker as a process that kills or stops itself where it is told to, or whose clock is wrong; it stops in order on SIGTERM.

python -m bench.faults.worker '{"bootstrap": ..., "prefix": ..., "redis": ..., "partitions": 3, "point": "before commit", "hit": 2}'
"""

import json
import logging
import signal
import sys
import time
from dataclasses import replace

import redis

from bench.faults.messages import SMALL
from bench.faults.points import ending_at
from storage.places import place_of
from storage.state_redis import RedisState
from stream.archiver import Archiver
from stream.kafka import Kafka
from stream.log_kafka import KafkaLog
from stream.worker import Worker, run


def main() -> None:
    """One worker with the small bounds of the faults, until it is told to stop or has stopped itself."""
    order = json.loads(sys.argv[1])
    wrong_ms = int(order.get("clock_wrong_ms", 0))

    def clock_ms() -> int:
        return int(time.time() * 1000) + wrong_ms

    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    kafka = Kafka(order["bootstrap"], prefix=f"{order['prefix']}-")
    shape = replace(SMALL, partitions=order["partitions"])
    state = RedisState(redis.Redis.from_url(order["redis"]), partitions=shape.partitions, prefix=order["prefix"])
    how = signal.SIGSTOP if "pause" in order else signal.SIGKILL
    fault = ending_at(order.get("pause") or order.get("point", ""), order.get("hit", 1), how)
    log, archiver = KafkaLog(kafka), None
    if "archive" in order:
        archiver = Archiver(place_of(order["archive"]), log, clock_ms=clock_ms, age_ms=order.get("age_ms", 50), fault=fault)
    worker = Worker(
        kafka, state, log, shape, group=order["prefix"], session_ms=order.get("session_ms", 3000), archiver=archiver, fault=fault
    )  # fmt: skip
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    run(worker, clock_ms=clock_ms, stopping=lambda: bool(stopping))


if __name__ == "__main__":
    main()
