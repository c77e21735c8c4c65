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

from storage.state_redis import RedisState
from stream.kafka import Kafka
from stream.log_kafka import KafkaLog
from stream.worker import Worker, run
from tests.stream.event_logs import SMALL
from tests.stream.ingest_child import ending_at


def main() -> None:
    order = json.loads(sys.argv[1])
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    kafka = Kafka(order["bootstrap"], prefix=f"{order['prefix']}-")
    shape = replace(SMALL, partitions=order["partitions"])
    state = RedisState(redis.Redis.from_url(order["redis"]), partitions=shape.partitions, prefix=order["prefix"])
    how = signal.SIGSTOP if "pause" in order else signal.SIGKILL
    fault = ending_at(order.get("pause") or order.get("point", ""), order.get("hit", 1), how)
    worker = Worker(kafka, state, KafkaLog(kafka), shape, group=order["prefix"], session_ms=order.get("session_ms", 3000), fault=fault)
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    run(worker, clock_ms=lambda: int(time.time() * 1000), stopping=lambda: bool(stopping))


if __name__ == "__main__":
    main()
