"""A worker as a process, which kills itself where it is told to and stops in order on SIGTERM.

python -m tests.cluster.worker_child '{"bootstrap": ..., "prefix": ..., "redis": ..., "partitions": 3, "point": "before commit", "hit": 2}'
"""

import json
import logging
import signal
import sys
import time
from dataclasses import replace

import redis

from storage.places import place_of
from storage.state_redis import RedisState
from stream.archiver import Archiver
from stream.kafka import Kafka
from stream.log_kafka import KafkaLog
from stream.worker import Worker, run
from tests.stream.event_logs import SMALL
from tests.stream.ingest_child import ending_at


def clock_ms() -> int:
    return int(time.time() * 1000)


def main() -> None:
    order = json.loads(sys.argv[1])
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
