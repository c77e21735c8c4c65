"""Publish a few events, ask for a recommendation, publish one more, ask again: the answer has changed.

No server and no model: engine and service run in this process, over a folder that is thrown away.

    .venv/bin/python examples/produce_and_ask.py
"""

import tempfile
from pathlib import Path

import msgspec

from freshet.clock import now_ms
from freshet.engine import Engine
from freshet.service import Service
from freshet.settings import Settings
from serving.answers import Answer
from stream.events import Entity, Event

TASTES = {"ann": "kiln bowl mug", "ben": "kiln bowl vase", "cem": "kiln bowl mug teapot", "dee": "tent boots", "eve": "boots tent stove"}


def main() -> None:
    """Everything in order; what is asserted is what a first reader should see."""
    with tempfile.TemporaryDirectory(prefix="freshet-example-") as folder, Engine(Settings(data=Path(folder) / "data")) as engine:
        service = Service(engine)
        try:
            bowl = Entity(kind="item", id="bowl", title="A shallow bowl")
            engine.append_entities([msgspec.json.encode(bowl)], now_ms=now_ms())
            publish(engine, [(user, item) for user, items in TASTES.items() for item in items.split()])
            publish(engine, [("you", "kiln")])
            before = ask(service)
            publish(engine, [("you", before.items[0].item_id)])
            after = ask(service)
        finally:
            service.close()
    taken, items = before.items[0].item_id, [item.item_id for item in after.items]
    assert items != [item.item_id for item in before.items], "the answer has changed"
    assert taken not in items, "what was just taken is gone"
    assert after.as_of.number == before.as_of.number + 1, "the answer says which append is the newest it contains"


def publish(engine: Engine, taken: list[tuple[str, str]]) -> None:
    """Append (durable when it returns), then apply until nothing is pending: from here on look-ups see it."""
    events = [Event(user_id=user, item_id=item, action="click", ts_ms=now_ms()) for user, item in taken]
    engine.append_events([msgspec.json.encode(event) for event in events], now_ms=now_ms())
    engine.drain(now_ms=now_ms())


def ask(service: Service) -> Answer:
    """The best three for `you`, printed."""
    answer = service.lookup.recommend("you", k=3, now_ms=now_ms())
    shown = (f"{item.title or item.item_id} {item.score:.2f}" for item in answer.items)
    print(f"as of append {answer.as_of.number}: {', '.join(shown)}")
    return answer


if __name__ == "__main__":
    main()
