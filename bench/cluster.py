"""The stopwatch of the cluster form: one broker, one Redis, the same events as JSON and as packs, beside a peer.

    report = measure(Plan(events=400_000), folder, say=print); report["ratio"]["histories_packs"]

`histories` is a loop that keeps each user's newest 128 entries and a watermark; `full` is a whole worker, timed until the lag
of `events` and of `edges` is 0 and everything is in its archive. Each run is a process of its own, which takes a few other
events first (to compile, and to connect), and an empty Redis. Its clock runs from the claim of its last partition, before
anything is fetched, to its last commit or archive file; its CPU is all its threads'. With a peer, each run of ours comes after
one of the peer, and a ratio is the median of such pairs.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import redis

from bench.bare import rewritten
from bench.peers.peer import PeerResult, run_quix
from bench.services import KafkaServer, RedisServer
from bench.synthetic import EDGE_WINDOW, PACK_EVENTS, draw, event, pack
from storage.archive import Archive
from storage.arrays import I64s
from storage.histories import decode as decode_history
from storage.log import PACK, Entry, Position
from storage.names import Names
from storage.places import LocalPlace, Place
from storage.state import HISTORIES, TALLIES, Advance, Claim, Commit, Refusal, Write
from storage.state_memory import MemoryState
from storage.state_redis import RedisState
from stream.archiver import Archiver
from stream.collecting import collect_seldom
from stream.consuming import BatchConsumer
from stream.edges import EDGES
from stream.hashing import hash_events
from stream.ingest import EVENTS, Tally
from stream.kafka import Kafka
from stream.log_kafka import KafkaLog
from stream.routing import partitions_of
from stream.shape import Shape
from stream.topics import create
from stream.wire import decode, encode_event, encode_pack
from stream.worker import EVENTS_AT_ONCE, Worker

PARTITIONS: Final = 12
FORMS: Final = ("json", "packs")
MODES: Final = tuple(f"{loop}_{form}" for loop in ("histories", "full") for form in FORMS)
WARM: Final = "warm-"
WARM_EVENTS: Final = 3000
APPENDED_AT_ONCE: Final = 5000
POLL_MS: Final = 100
RUN_S: Final = 1800.0
_TALLY: Final = np.array([1], dtype=np.uint64)

Moment = tuple[float, float]
"""Wall and process CPU seconds."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is measured. `rounds`: how often each mode runs; figures are medians."""

    events: int
    rounds: int = 2
    peer: bool = False
    edge_window: int = EDGE_WINDOW
    seed: int = 0

    def __post_init__(self) -> None:
        if self.events < 1 or self.rounds < 1:
            raise ValueError(f"events={self.events} and rounds={self.rounds} must be at least 1")


@dataclass(frozen=True)
class Job:
    """One run of ours: which loop, which topics, and a name of its own for its group and its state."""

    bootstrap: str
    redis_url: str
    topics: str
    name: str
    full: bool
    edge_window: int

    @property
    def kafka(self) -> Kafka:
        """The broker, with the prefix of the topics."""
        return Kafka(self.bootstrap, prefix=self.topics)

    @property
    def shape(self) -> Shape:
        """The product's, over the partitions of the bench."""
        return Shape(partitions=PARTITIONS, edge_window=self.edge_window)


@dataclass(frozen=True)
class Run:
    """What one run took for so many events, a peer's or ours."""

    events: int
    seconds: float
    cpu_seconds: float

    @property
    def events_per_s(self) -> float:
        """By the wall."""
        return self.events / self.seconds

    @property
    def us_per_event(self) -> float:
        """CPU of the client's process, all threads."""
        return 1e6 * self.cpu_seconds / self.events


def measure(plan: Plan, folder: Path, *, say: Say) -> dict[str, object]:
    """Start the services, fill the topics, run everything in turns. Raises RuntimeError when a run applied other than all events."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    with KafkaServer(folder / "kafka") as kafka, RedisServer(folder / "redis") as server:
        wanted = _fill_all(kafka.bootstrap, plan, say)
        peers: dict[str, list[PeerResult]] = {mode: [] for mode in MODES}
        ours: dict[str, list[Run]] = {mode: [] for mode in MODES}
        for turn in range(plan.rounds):
            for mode in MODES:
                loop, form = mode.split("_")
                if plan.peer:
                    peers[mode].append(run_quix(kafka.bootstrap, Kafka(kafka.bootstrap, prefix="json-").topic(EVENTS), plan.events))
                    say(f"round {turn + 1}: quix {_figures(peers[mode][-1])}")
                job = Job(kafka.bootstrap, server.url, f"{form}-", f"{mode}-{turn}", loop == "full", plan.edge_window)
                ours[mode].append(_run_apart(job, plan.events, wanted))
                say(f"round {turn + 1}: {mode} {_figures(ours[mode][-1])}")
    return report_of(plan, ours, peers if plan.peer else {})


def report_of(plan: Plan, ours: Mapping[str, Sequence[Run]], peers: Mapping[str, Sequence[PeerResult]]) -> dict[str, object]:
    """The figures, and with a peer the ratios: events a second, ours over the peer's, and CPU an event, the peer's over ours."""
    report: dict[str, object] = {
        "form": "cluster", "events": plan.events, "rounds": plan.rounds, "partitions": PARTITIONS, "edge_window": plan.edge_window,
    }  # fmt: skip
    if peers:
        pairs = {mode: list(zip(ours[mode], peers[mode], strict=True)) for mode in ours}
        report["ratio"] = {mode: median(our.events_per_s / peer.events_per_s for our, peer in pairs[mode]) for mode in ours}
        report["cpu_ratio"] = {mode: median(peer.us_per_event / our.us_per_event for our, peer in pairs[mode]) for mode in ours}
        every = [run for runs in peers.values() for run in runs]
        report["quix"] = _summary(every) | {"versions": dict(every[0].versions)}
    return report | {mode: _summary(runs) for mode, runs in ours.items()}


def _summary(runs: Sequence[Run | PeerResult]) -> dict[str, object]:
    return {
        "events_per_s": median(run.events_per_s for run in runs),
        "us_per_event": median(run.us_per_event for run in runs),
        "runs": [{"events_per_s": round(run.events_per_s), "us_per_event": round(run.us_per_event, 3)} for run in runs],
    }


def _figures(run: Run | PeerResult) -> str:
    return f"{run.events_per_s:,.0f} events/s, {run.us_per_event:.1f} us of CPU an event"


def _fill_all(bootstrap: str, plan: Plan, say: Say) -> int:
    """Fill the topics of both forms, and those to warm up with; returns how many history entries must come of them."""
    users, items = draw(plan.events, seed=plan.seed)
    for form in FORMS:
        say(f"writing {plan.events:,} events as {form} ...")
        _fill(Kafka(bootstrap, prefix=f"{WARM}{form}-"), form, *draw(WARM_EVENTS, seed=plan.seed + 1))
        _fill(Kafka(bootstrap, prefix=f"{form}-"), form, users, items)
    return int(np.minimum(np.bincount(users), Shape().history_max).sum())


def _fill(kafka: Kafka, form: str, users: I64s, items: I64s) -> None:
    create(kafka, partitions=PARTITIONS, replicas=1)
    with KafkaLog(kafka) as log:
        for entries in _messages(form, users, items):
            log.append(EVENTS, entries, now_ms=0)


def _messages(form: str, users: I64s, items: I64s) -> Iterator[list[Entry]]:
    """Entries by partition of their user, in the order of their (last) event."""
    where = partitions_of(pa.array([f"u{user}" for user in users.tolist()], pa.string()), PARTITIONS)
    at_once = APPENDED_AT_ONCE
    if form == "packs":
        rows = [(p, np.flatnonzero(where == p)) for p in range(PARTITIONS)]
        parts = [(p, mine[at : at + PACK_EVENTS]) for p, mine in rows for at in range(0, len(mine), PACK_EVENTS)]
        parts.sort(key=lambda part: int(part[1][-1]))
        at_once = max(1, APPENDED_AT_ONCE // PACK_EVENTS)
        for start in range(0, len(parts), at_once):
            yield [Entry(p, encode_pack(pack(users, items, part)), PACK) for p, part in parts[start : start + at_once]]
        return
    for start in range(0, len(users), at_once):
        numbers = range(start, min(len(users), start + at_once))
        yield [Entry(int(where[n]), encode_event(event(users, items, n)), key=f"u{users[n]}".encode()) for n in numbers]


def _run_apart(job: Job, events: int, wanted: int) -> Run:
    """One run in a process of its own; then the state is looked into, and thrown away."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        seconds, cpu_seconds = pool.submit(warm_and_run, job).result(RUN_S)
    client: redis.Redis = redis.Redis.from_url(job.redis_url)
    state = RedisState(client, partitions=PARTITIONS, prefix=job.name)
    check(state, events if job.full else None, wanted, job.name)
    client.flushdb()
    state.close()
    return Run(events, seconds, cpu_seconds)


def check(state: RedisState, events: int | None, wanted: int, name: str) -> None:
    """Raise RuntimeError unless the histories hold so many entries and, where `events` are told, the tallies just these."""
    entries = sum(len(decode_history(blob)) for p in range(PARTITIONS) for _, blob in state.scan(HISTORIES, p))
    if entries != wanted:
        raise RuntimeError(f"{name}: the histories hold {entries} entries, {wanted} were expected")
    if events is None:
        return
    blobs = [state.read(TALLIES, p, _TALLY)[0] for p in range(PARTITIONS)]
    tallies = [msgspec.json.decode(blob, type=Tally) for blob in blobs if blob]
    accepted = sum(tally.accepted - tally.duplicates for tally in tallies)
    if accepted != events or any(tally.dead_letters for tally in tallies):
        raise RuntimeError(f"{name}: {accepted} events were applied, {events} were expected: {tallies}")


def warm_and_run(job: Job) -> Moment:
    """Seconds and CPU seconds of a run, after a small one. For a process of its own."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    loop = _full if job.full else _histories
    loop(replace(job, topics=WARM + job.topics, name=WARM + job.name))
    collect_seldom()
    return loop(job)


class _Timed(RedisState):
    """Knows when it was claimed last before its first commit, and when it committed last."""

    began: Moment = (0.0, 0.0)
    ended: Moment | None = None

    def claim(self, stream: str, partition: int, topic_id: str) -> Claim:
        """And look at the clock."""
        claim = super().claim(stream, partition, topic_id)
        if self.ended is None:
            self.began = _now()
        return claim

    def commit(self, advances: Sequence[Advance], writes: Sequence[Write]) -> None:
        """And look at the clock."""
        super().commit(advances, writes)
        self.ended = _now()

    def commit_each(self, commits: Sequence[Commit]) -> list[Refusal | None]:
        """And look at the clock."""
        refusals = super().commit_each(commits)
        self.ended = _now()
        return refusals

    @property
    def spent(self) -> Moment:
        """From the one to the other."""
        assert self.ended is not None, "nothing was committed"
        return self.ended[0] - self.began[0], self.ended[1] - self.began[1]


def _histories(job: Job) -> Moment:
    """Events to last-128 lists and watermarks, nothing else: names stay in memory. A commit holds what one poll gave of a partition."""
    state, shape, names, claims = _state(job), job.shape, Names(MemoryState()), dict[int, Claim]()
    with KafkaLog(job.kafka) as log:
        topic, ends = log.topic(EVENTS).id, _ends(log, EVENTS)

    def claim(stream: str, partition: int) -> int:
        claims[partition] = state.claim(stream, partition, topic)
        return claims[partition].watermark

    at_once = EVENTS_AT_ONCE // PACK_EVENTS if "packs" in job.topics else EVENTS_AT_ONCE
    consumer = BatchConsumer(job.kafka, group=job.name, topics=(EVENTS,), claim=claim)
    marks, late = dict.fromkeys(ends, 0), _late(job)
    while marks != ends:
        late()
        for batch in consumer.poll(timeout_ms=POLL_MS, records_max=at_once):
            here = batch.partition
            hashed = hash_events(decode(batch.records).source, str, names, shape)
            hashed = hashed.named([[None] * len(strange) for strange in hashed.strange])
            users, blobs = rewritten(hashed.columns, partial(state.read, HISTORIES, here), shape)
            state.commit([Advance(claims[here], marks[here], batch.end)], [Write(HISTORIES, here, users, blobs)])
            marks[here] = batch.end
            for kind, fresh in hashed.fresh:
                names.learn(kind, fresh)
    consumer.close()
    state.close()
    return state.spent


class _Noting(KafkaLog):
    """Knows where `edges` ends from its own appends: to ask the broker takes a tenth of a second, and it would be ours."""

    def __init__(self, kafka: Kafka) -> None:
        super().__init__(kafka)
        self.edge_ends = _ends(self, EDGES)

    def append(self, topic: str, entries: Sequence[Entry], *, now_ms: int) -> list[Position]:
        """And note where the last one landed."""
        landed = super().append(topic, entries, now_ms=now_ms)
        if topic == EDGES:
            for at in landed:
                self.edge_ends[at.partition] = max(at.offset + 1, self.edge_ends[at.partition])
        return landed


def _full(job: Job) -> Moment:
    """A worker until everything is applied, its own edges too, and archived; older runs' edges on the topic are passed over."""
    state = _state(job)
    with closing(_Noting(job.kafka)) as log, tempfile.TemporaryDirectory() as folder:
        topic, events, late = log.topic(EDGES).id, _ends(log, EVENTS), _late(job)
        for partition, end in log.edge_ends.items():
            state.accept(EDGES, partition, topic, end)
        place = LocalPlace(Path(folder), shared=True)
        archiver = Archiver(place, log, clock_ms=_clock_ms)
        worker = Worker(job.kafka, state, log, job.shape, group=job.name, archiver=archiver)
        applied = False
        while not applied:
            late()
            done = worker.round(now_ms=_clock_ms())
            quiet = not (done.events or done.edges)
            applied = quiet and state.watermarks(EVENTS) == events and state.watermarks(EDGES) == log.edge_ends
        archived = archiver.flush(timeout_s=RUN_S)
        state.ended = _now()
        worker.close()
        if not archived or not _holds(place, events):
            raise RuntimeError(f"{job.name}: the archive does not end where the log does, at {events}")
    state.close()
    return state.spent


def _holds(place: Place, ends: Mapping[int, int]) -> bool:
    archive = Archive(place, read_only=True)
    return all(archive.published(partition) == end for partition, end in ends.items())


def _clock_ms() -> int:
    return int(time.time() * 1000)


def _state(job: Job) -> _Timed:
    return _Timed(redis.Redis.from_url(job.redis_url), partitions=PARTITIONS, prefix=job.name)


def _ends(log: KafkaLog, topic: str) -> dict[int, int]:
    return {partition: log.end_offset(topic, partition) for partition in range(PARTITIONS)}


def _late(job: Job) -> Callable[[], None]:
    """Raises TimeoutError when called after RUN_S."""
    end = time.monotonic() + RUN_S

    def ask() -> None:
        if time.monotonic() > end:
            raise TimeoutError(f"{job.name} was not done after {RUN_S:.0f} s: ask for fewer events")

    return ask


def _now() -> Moment:
    return time.perf_counter(), time.process_time()
