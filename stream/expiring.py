"""An idempotent producer that tells in time what the brokers did not take, and goes on when they are back.

A record that was sent, was not acknowledged and expires before it can be sent again leaves a gap behind its producer's id, so
kafka-python drops the id. It does not ask for another, though, and while it has none it neither sends nor lets anything expire:
everything behind that record waits for ever, also when the brokers are well. Here it asks, and lets expire meanwhile.

    keep_expiring(KafkaProducer(enable_idempotence=True, ...))
"""

from typing import Any, Final

from kafka.errors import KafkaTimeoutError
from kafka.producer.transaction_manager import TransactionState

LOOK_MS: Final = 500
"""How late an expiry may be told while no broker gives an id."""


def keep_expiring(producer: Any) -> None:  # kafka-python has no types
    """From now on nothing waits for longer than `delivery_timeout_ms`, and a dropped id is followed by a new one."""
    sender, manager = producer._sender, producer._transaction_manager
    client, reset = sender._client, manager.reset_producer_id
    poll, await_ready = client.poll, client.await_ready

    def reset_producer_id() -> None:
        reset()
        manager._current_state = TransactionState.UNINITIALIZED  # what its thread asks for an id from

    def polled(*args: Any, **options: Any) -> Any:
        _expire(sender, manager)
        return poll(*args, **options)

    def awaited(node: Any, timeout_ms: float = LOOK_MS) -> Any:
        _expire(sender, manager)
        return await_ready(node, timeout_ms=min(timeout_ms, LOOK_MS))

    manager.reset_producer_id, client.poll, client.await_ready = reset_producer_id, polled, awaited


def _expire(sender: Any, manager: Any) -> None:
    """In the thread that sends, which does it itself where there is an id."""
    if manager.has_producer_id():
        return
    accumulator = sender._accumulator
    for batch in accumulator.expired_batches() + sender._get_expired_inflight_batches():
        waited = f"{batch.record_count} records waited for longer than {accumulator.delivery_timeout_ms} ms"
        sender._complete_batch_with_exception(batch, KafkaTimeoutError(waited))
