"""A member that learns what became of its joining when it polls next, and not only while it polls.

kafka-python asks the brokers to let it into the group, waits for as long as the poll may take, and goes on waiting with the
next poll. When the answer comes in between, while its owner works on records, it takes it for an old one and asks anew; and to
ask makes everybody else join anew. Two busy members then never settle. Here such an answer is kept, and used by the next poll.

    keep_joins(KafkaConsumer(...))
"""

from typing import Any


def keep_joins(consumer: Any) -> None:  # kafka-python has no types
    """From now on the consumer asks once for each time it joins."""
    coordinator = consumer._coordinator
    join, complete = coordinator._do_join_and_sync_async, coordinator._on_join_complete_async
    kept: list[tuple[Any, bytes]] = []

    async def joined() -> bytes:
        if kept and kept[0][0] is coordinator._generation:
            return kept[0][1]
        answer: bytes = await join()
        kept[:] = [(coordinator._generation, answer)]
        return answer

    async def completed(*args: Any, **options: Any) -> None:
        kept.clear()
        await complete(*args, **options)

    coordinator._do_join_and_sync_async, coordinator._on_join_complete_async = joined, completed
