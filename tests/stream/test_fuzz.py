"""Poison does not block: whatever bytes come, one ingest process lives through all of them and accounts for each.

Invariant 9 of the design. accepted + dead letters = fed, and at the end the state is the one a replay of that log gives.
"""

import base64
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.log import JSON, PACK
from stream.events import Event
from stream.shape import ACTIONS
from stream.wire import encode_event, encode_pack

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


class Fed(NamedTuple):
    """A message and how many events it has if it can be read."""

    form: int
    body: bytes
    events: int


class Feeder:
    """One process that ingests; it is never replaced, so its first death ends the tests."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None and process.stdout is not None
        self._process, self._stdin, self._stdout = process, process.stdin, process.stdout

    def account(self, messages: Sequence[Fed]) -> tuple[int, int]:
        """Feed messages; assert that each is accounted for; return how many events were accepted and how many died."""
        accepted, dead = self._ask([[m.form, base64.b64encode(m.body).decode()] for m in messages])
        unreadable = {at for at, _, kind in dead if kind.startswith("unreadable")}
        fed = sum(1 if at in unreadable else message.events for at, message in enumerate(messages))
        assert accepted + len(dead) == fed
        return accepted, len(dead)

    def equals_its_replay(self) -> bool:
        """Whether the state is what a replay of everything fed so far gives."""
        return bool(self._ask(None))

    def _ask(self, order: object) -> Any:  # the child's JSON
        try:
            self._stdin.write(json.dumps(order).encode() + b"\n")
            self._stdin.flush()
            line = self._stdout.readline()
        except BrokenPipeError:
            line = b""
        assert line, f"the process died, status {self._process.wait()}"
        return json.loads(line)


@pytest.fixture(scope="module")
def feeder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Feeder]:
    command = [sys.executable, "-m", "tests.stream.ingest_child", "feed", str(tmp_path_factory.mktemp("fed"))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Feeder(process)


texts = st.text(max_size=12)
names = st.sampled_from(["a", "b", "c", "ü" * 5, "x" * 256, "x" * 257])
events = st.builds(
    Event,
    user_id=names,
    action=st.sampled_from([*ACTIONS, "levitate"]),
    ts_ms=st.integers(-(2**53), 2**53) | st.integers(0, 10**12),
    item_id=st.none() | names,
    event_id=st.none() | names,
    surface=st.none() | names,
    session_id=st.none() | names,
    collection_id=st.none() | names,
    source_item_id=st.none() | names,
    shown=st.lists(names, max_size=3),
    query=st.none() | texts,
    dwell_ms=st.none() | st.integers(-(2**53), 2**53),
    value=st.none() | st.floats(),
    context=st.dictionaries(texts, st.none() | texts | st.integers() | st.booleans() | st.floats(allow_nan=False), max_size=3),
    schema=st.integers(0, 2**15 - 1),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(Event.__struct_fields__) | texts, inner, max_size=6),
    max_leaves=12,
)
changes = st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(1, 255)), min_size=1, max_size=6)


def altered(body: bytes, at: Sequence[tuple[int, int]]) -> bytes:
    """The body with some bytes changed."""
    changed = bytearray(body)
    for place, mask in at:
        changed[place % len(changed)] ^= mask
    return bytes(changed)


arbitrary = st.builds(Fed, st.sampled_from([JSON, PACK, 7]), st.binary(max_size=200), st.just(1))
any_json = st.builds(lambda value: Fed(JSON, json.dumps(value).encode(), 1), json_values)
valid_json = st.builds(lambda event: Fed(JSON, encode_event(event), 1), events)
bad_json = st.builds(lambda event, at: Fed(JSON, altered(encode_event(event), at), 1), events, changes)
packs = st.lists(events, max_size=4)
valid_packs = st.builds(lambda batch: Fed(PACK, encode_pack(batch), len(batch)), packs)
flipped_packs = st.builds(lambda batch, at: Fed(PACK, altered(encode_pack(batch), at), len(batch)), packs, changes)
cut_packs = st.builds(lambda batch, end: Fed(PACK, encode_pack(batch)[: -end or None], len(batch)), packs, st.integers(0, 6000))
mixtures = st.lists(st.one_of(arbitrary, any_json, valid_json, bad_json, valid_packs, flipped_packs, cut_packs), min_size=1, max_size=12)


@EXAMPLES
@given(messages=mixtures)
def test_poison_does_not_block_whatever_is_fed(feeder: Feeder, messages: list[Fed]) -> None:
    feeder.account(messages)


@EXAMPLES
@given(messages=st.lists(valid_json | bad_json | valid_packs, min_size=1, max_size=12))
def test_poison_does_not_block_json_with_altered_bytes(feeder: Feeder, messages: list[Fed]) -> None:
    feeder.account(messages)


def sample_pack(rng: random.Random, rows: int) -> bytes:
    return encode_pack(
        [
            Event(user_id=f"u{n}", action="view", item_id=f"i{n}", ts_ms=n, event_id=f"e{rng.random()}", shown=["a", "b"], value=0.5)
            for n in range(rows)
        ]
    )


def test_poison_does_not_block_eight_thousand_packs_with_flipped_bits(feeder: Feeder) -> None:
    rng = random.Random(11)
    accepted = dead = 0
    for _ in range(20):
        messages = []
        for _ in range(400):
            body, rows = bytearray(sample_pack(rng, 6)), 6
            for _ in range(rng.choice((1, 1, 2, 8))):
                body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
            messages.append(Fed(PACK, bytes(body), rows))
        taken, refused = feeder.account(messages)
        accepted, dead = accepted + taken, dead + refused
    assert accepted > 1000 and dead > 1000, "some flips are harmless, some are not"


def test_poison_does_not_block_packs_cut_at_every_length(feeder: Feeder) -> None:
    body = sample_pack(random.Random(12), 3)
    feeder.account([Fed(PACK, body[:end], 3) for end in range(0, len(body), 3)])


def test_poison_leaves_a_process_that_works_and_a_state_that_its_replay_gives(feeder: Feeder) -> None:
    event = Event(user_id="last", action="view", item_id="i", ts_ms=1)
    assert feeder.account([Fed(JSON, encode_event(event), 1), Fed(PACK, encode_pack([event]), 1)]) == (2, 0)
    assert feeder.equals_its_replay()
