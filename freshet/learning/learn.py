"""One training, in a process of its own at low priority: archive in, a candidate and the gate's decision out.

    python -m freshet.learning.learn JOB.json
    torchrun --nproc-per-node 2 -m freshet.learning.learn JOB.json      # a trunk on several processes, or machines

Reads the archive up to an append number, the live version and the items' content; writes model, blends and a report into
the job's folder. Everything it measures is point in time: a walk replays the past through the product's own reducers,
and look-ups are made before each event is applied.

The past is cut in three, oldest first: *training* events, a *gate* window, which neither the candidate nor the live model has
learned from, and a *blend* window on which the weights of the sources are fitted. That is the newest, because a model serves when it is
older still: right after what it learned from it deserves twice the weight that it does some thousand events later.
"""

import os
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import torch

from encoders.base import ItemFeatures
from encoders.blend import Blend
from encoders.config import PLACES, ModelConfig
from encoders.model import Model
from freshet.learning.evidence import Answered, Contender, Known, answers, segments
from freshet.learning.job import HEAD, Job, Report
from freshet.learning.reading import read_for_training
from freshet.learning.walk import Walk
from freshet.version_files import BLEND_FILE, COUNTING_FILE, LINEAR_FILE, MODEL_FILE, OPTIMISER_FILE, REPORT_FILE
from freshet.view import View
from serving.linear import LinearSource
from serving.lookup import COUNTING, UNFITTED
from serving.sources import BROUGHT, SOURCES
from storage.archive import Archive
from storage.arrays import F32s, I64s
from storage.catalogue import Content, decode_content
from storage.files import write_file
from storage.models import Registry
from storage.neighbours import IN_COLLECTION, RELATIONS, SHOWN_NEXT_TO
from storage.state import NODES, State
from storage.state_lmdb import LmdbState, boot_id
from stream.archiving import from_archive
from stream.ingest import Applied
from stream.shape import Shape
from trainers.blend import Case, best_of, shared_out, sharpen, weighed
from trainers.config import TrainConfig
from trainers.device import device_of, lent
from trainers.gate import Decision, Evidence, GateConfig, decide
from trainers.graph import placed
from trainers.heads_training import HeadConfig, Samples, head_samples, replay_mask, tune_head
from trainers.linear import fitted
from trainers.loop import Trainer
from trainers.metrics import discounted_gain
from trainers.parallel import ALONE, Part, joined
from trainers.samples import EventColumns

ROWS_AT_ONCE: Final = 8192
FIRST_LOSS_SHARE: Final = 0.02
"""With nothing live a candidate need only be shown to keep all but this share of what the counts have: it brings what counts cannot,
vectors for items that nobody has touched."""
LINEAR_SHARE: Final = 0.05
"""Of a training's time, what solving for the linear source may take; a head's too: its weights are as old as the version."""
GATE_SHARE: Final = 0.1
GATE_WINDOW_MAX: Final = 40_000
"""Of the archive's newest events the gate's window, if that is more than it asks about: the same number of questions of more people shows
more, for what one person does hangs together."""
EVENTS_MIN: Final = 300
"""Fewer events than this teach nothing worth asking about."""
FIRST_STEPS_MIN: Final = 200
"""Of a training from nothing. For its first hundred steps a trunk sees all users alike, and a gate refuses that: a slow machine takes the
time it needs.
"""
_NICENESS: Final = 10
"""Look-ups and ingest go first. At 19 a training beside a busy stream got so little that the demo learned less in the same time."""


@dataclass(frozen=True)
class Inputs:
    """What a training reads: of the archive what fits, in the order of its appends; the parent's files; what is known of the items."""

    archive: pa.Table
    parent: dict[str, bytes] | None
    contents: dict[int, Content]
    older_share: float = 1.0
    """Which part of the users the older events are of."""


@dataclass
class Past:
    """The walk so far, and the training events it passed."""

    walk: Walk
    parts: list[EventColumns] = field(default_factory=list)

    def take(self, applied: Applied) -> None:
        """Keep the likings of one batch."""
        columns, kept = applied.columns, applied.kept & (applied.columns.weight > 0)
        stamps = columns.stamps[kept]
        actions = ((stamps >> np.uint64(8)) & np.uint64(255)).astype(np.uint8)
        self.parts.append(EventColumns(columns.users[kept], columns.items[kept], actions, (stamps >> np.uint64(16)).astype(np.int64)))

    def columns(self) -> EventColumns:
        """All of them, in log order."""
        return EventColumns(*(np.concatenate([getattr(p, name) for p in self.parts]) for name in ("users", "items", "actions", "ts_ms")))


@dataclass(frozen=True)
class Cut:
    """The archive in three: training rows, then the gate's window, then the blend's; `learned_to` numbers the last training event."""

    training: pa.Table
    gate: pa.Table
    blend: pa.Table
    learned_to: int


@dataclass(frozen=True)
class Candidate:
    """What training made, before anybody asked it anything."""

    model: Model
    optimiser: bytes
    metrics: dict[str, float]


def main() -> None:
    """Run the job named on the command line."""
    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)
    os.nice(_NICENESS)
    torch.set_num_threads(job.threads)
    code = 0
    try:
        job = msgspec.structs.replace(job, device=device_of(job.device, asked_by="FRESHET_TRAIN_DEVICE"))
        with joined(job.device) as part:
            inputs = folder_inputs(job, Path(job.data)) if job.data else _cluster_inputs(job)
            if part.rank == 0:
                run(job, inputs, part)
            else:
                train_along(job, inputs, part)
    except Exception:  # noqa: BLE001  # the outermost: the parent reads the last line and the exit code
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    os._exit(code)  # torch's threads sometimes abort a process that winds down in order, and a whole candidate with it


def run(job: Job, inputs: Inputs, part: Part = ALONE) -> Report:
    """Train, fit, compare; write everything into `job.out`, the report last: where it is, the rest is whole. Raises `DiskFull`."""
    began, out, parent = time.monotonic(), Path(job.out), _as_it_answers(job, inputs.parent)
    cut = cut_archive(job, inputs.archive)
    past, columns, features = learned_from(job, inputs, cut)
    index = past.walk.view.index
    rival = Contender.stored("live", parent, features, index) if parent else Contender("live", COUNTING)
    made = (
        train_head(job, columns, features, rival.model, parent)
        if job.kind == HEAD and parent and rival.model
        else train_trunk(job, columns, features, rival.model, part)
    )
    linear = fitted(placed(features, columns), features.ids, seconds_max=LINEAR_SHARE * job.seconds_max)
    counting = Blend.from_json(parent[COUNTING_FILE]) if parent else Blend(SOURCES[1:], UNFITTED.weights[1:])
    aged, start = _aged(job, inputs, cut), rival.blend.over(SOURCES) if parent else UNFITTED
    candidate, counting = fit_blends(
        aged, cut.blend, Contender.of("candidate", made.model, start, features, LinearSource(linear, aged.view.index)),
        counting.over(SOURCES[1:]),
    )  # fmt: skip
    candidate = candidate.with_linear(LinearSource(linear, index))
    gate = GateConfig(cases_planned=min(cut.gate.num_rows, job.gate_events), loss_share_max=0.0 if parent else FIRST_LOSS_SHARE)
    decision = judge(answers(past.walk, cut.gate, [candidate, rival], most=job.gate_events), candidate, rival, gate)
    weights = {f"weight_{name}": float(w) for name, w in zip(candidate.blend.sources, candidate.blend.weights, strict=True)}
    numbers = decision.numbers | weights | {"older_users_share": inputs.older_share}
    report = Report(decision.promote, decision.reason, numbers, cut.learned_to, len(columns), made.metrics, time.monotonic() - began)
    files = {
        MODEL_FILE: made.model.to_bytes(), BLEND_FILE: candidate.blend.to_json().encode(), COUNTING_FILE: counting.to_json().encode(),
        OPTIMISER_FILE: made.optimiser, LINEAR_FILE: linear.to_bytes(), REPORT_FILE: msgspec.json.encode(report),
    }  # fmt: skip
    for name, data in files.items():
        write_file(out / name, data, durable=False)
    return report


def _as_it_answers(job: Job, parent: dict[str, bytes] | None) -> dict[str, bytes] | None:
    """The parent's files under the weights it answers with: what a candidate must be better than."""
    return parent | {BLEND_FILE: job.blend.encode()} if parent and job.blend is not None else parent


def train_along(job: Job, inputs: Inputs, part: Part) -> None:
    """What a process other than the first does: train the same trunk. Heads, blends and the gate are the first one's."""
    parent = inputs.parent
    if job.kind == HEAD and parent:
        return
    _, columns, features = learned_from(job, inputs, cut_archive(job, inputs.archive))
    train_trunk(job, columns, features, Model.from_bytes(parent[MODEL_FILE]) if parent else None, part)


def learned_from(job: Job, inputs: Inputs, cut: Cut) -> tuple[Past, EventColumns, ItemFeatures]:
    """The walk up to the gate's window, what it passed, and the items' features as they were then."""
    past = Past(Walk(Shape(partitions=job.partitions), inputs.contents))
    for applied in _advanced(past.walk, cut.training):
        past.take(applied)
    columns, view = past.columns(), past.walk.view
    if not len(columns):
        raise ValueError(f"none of the {cut.training.num_rows} oldest events is a liking; at least one is needed to train: wait for more")
    now_ms, live = int(columns.ts_ms.max()), Model.from_bytes(inputs.parent[MODEL_FILE]) if inputs.parent else None
    widths = live.config.widths if live is not None and not job.anew else _places(view, now_ms)
    features, _ = view.facts(widths).of(view.catalogue.ids, now_ms=now_ms)
    return past, columns, features


def _places(view: View, now_ms: int) -> tuple[int, ...]:
    """What a new model has room for: no relation that nobody uses."""
    used = {relation: len(view.neighbours.links(relation, view.catalogue.ids, as_of_ms=now_ms)[0]) > 0 for relation in RELATIONS.values()}
    near, siblings, collections, shown = PLACES
    grouped = used[IN_COLLECTION]
    return (near, siblings * grouped, collections * grouped, shown * used[SHOWN_NEXT_TO])


def cut_archive(job: Job, whole: pa.Table) -> Cut:
    """Cut the archive, never inside a pack. Raises ValueError when there is too little."""
    rows = whole.num_rows
    if rows < EVENTS_MIN:
        raise ValueError(f"the archive holds {rows} events; at least {EVENTS_MIN} are needed to train")
    gate = max(job.gate_events, min(GATE_WINDOW_MAX, int(GATE_SHARE * rows)))
    newest = min(job.blend_events + gate, rows // 4)
    numbers = whole.column("number").to_numpy()
    split = _record_start(numbers, rows - newest)
    if split == 0:
        raise ValueError(f"the archive holds {rows} events in packs too large to cut; train once more have come")
    middle = _record_start(numbers, rows - newest * job.blend_events // (job.blend_events + gate))
    middle = middle if middle > split else rows  # one pack alone: weights can stay as they are, a decision needs events
    return Cut(whole.slice(0, split), whole.slice(split, middle - split), whole.slice(middle), int(numbers[split - 1]))


def _advanced(walk: Walk, table: pa.Table) -> Iterator[Applied]:
    """Batch by batch, nothing asked."""
    for start in range(0, table.num_rows, ROWS_AT_ONCE):
        yield walk.advance(from_archive(table.slice(start, ROWS_AT_ONCE)))


def _aged(job: Job, inputs: Inputs, cut: Cut) -> Walk:
    """A walk that stands before the blend window; the other one is to be asked from the gate's on."""
    walk = Walk(Shape(partitions=job.partitions), inputs.contents)
    for table in (cut.training, cut.gate):
        for _ in _advanced(walk, table):
            pass
    return walk


def train_trunk(job: Job, columns: EventColumns, features: ItemFeatures, live: Model | None, part: Part = ALONE) -> Candidate:
    """A new space, warm from the live trunk where there is one and nothing else is asked, and of its configuration."""
    live = None if job.anew else live
    model = live.config if live else ModelConfig().placed(features.widths)
    steps_min = min(job.steps_max, FIRST_STEPS_MIN) if live is None else 0
    config = TrainConfig(
        model=model, seed=job.seed, seconds_max=job.seconds_max, steps_min=steps_min, steps_max=job.steps_max,
        device=job.device, precision=job.precision,
    )  # fmt: skip
    trained = Trainer(config, part=part).train(columns, features, live)
    return Candidate(trained.model, b"", {**trained.metrics, "steps": float(trained.steps), "best_step": float(trained.best_step)})


def train_head(job: Job, columns: EventColumns, features: ItemFeatures, live: Model, parent: dict[str, bytes]) -> Candidate:
    """The live trunk, its head fitted to the newest events and a replay sample."""
    events = placed(features, columns)
    config = HeadConfig(seed=job.seed, device=job.device)
    new = np.zeros(len(events), dtype=np.bool_)
    new[-min(len(events), job.new_events) :] = True
    old = replay_mask(len(events), before=int((~new).sum()), replay_max=config.replay_max, generator=np.random.default_rng(job.seed))
    with lent(live, torch.device(config.device)):
        vectors = live.embed_items(features)
        samples = Samples(head_samples(live, vectors, events, asked=new), head_samples(live, vectors, events, asked=old))
    tuned = tune_head(live, samples, vectors, config=config, optimiser=parent.get(OPTIMISER_FILE) or None)
    return Candidate(
        tuned.model, tuned.optimiser, {"loss_before": tuned.loss_before, "loss_after": tuned.loss_after, "steps": float(tuned.steps)}
    )


def fit_blends(walk: Walk, window: pa.Table, candidate: Contender, counting: Blend) -> tuple[Contender, Blend]:
    """The candidate under weights fitted on the window, and `counting` (no neural source) fitted alike; each from where it stands.

    What the counts weigh among themselves may begin from what `counting` was found to have, if the candidate ranks higher so. What the
    model weighs beside them begins from the least that ranks about highest: no weight of another model says anything of this one's.
    """
    every = [
        Case(one.features[candidate.name].astype(np.float32), one.target, one.known.user_id)  # as the search reads them: half the memory
        for one in answers(walk, window, [candidate])
        if one.target >= 0
    ]
    counted = [Case(case.features[:, 1:], case.target, case.asker) for case in every]
    counting = sharpen(counted, counting)
    start = best_of(every, [candidate.blend, shared_out(candidate.blend, counting)])
    return candidate.with_blend(sharpen(every, weighed(every, start, "neural"))), counting


def judge(answered: Iterable[Answered], candidate: Contender, rival: Contender, gate: GateConfig) -> Decision:
    """The gate's decision on discounted gains, which is also what the blend was searched for.

    The candidate was built for the collection it would get, so generations agree. Answers are let go one by one: each holds every
    item's scores.
    """
    ranks, users, known = list[tuple[int, int]](), list[F32s](), list[Known]()
    for one in answered:
        ranks.append((one.rank(candidate), one.rank(rival)))
        known.append(one.known)
        if candidate.name in one.users:
            users.append(one.users[candidate.name])
    of_candidate, of_rival = np.array(ranks, dtype=np.int64).reshape(-1, 2).T
    _, askers = np.unique([one.user_id for one in known], return_inverse=True)
    evidence = Evidence(
        candidate=discounted_gain(of_candidate), live=discounted_gain(of_rival), askers=askers, segments=segments(known),
        users=np.stack(users) if users else np.empty((0, 1), np.float32), generation=0, expected=0,
        brought_weight=sum(candidate.blend.weights[candidate.blend.sources.index(name)] for name in BROUGHT),
    )  # fmt: skip
    return decide(evidence, gate)


def folder_inputs(job: Job, folder: Path) -> Inputs:
    """From the folder of an embedded server, read beside the process that holds it."""
    state = LmdbState(folder / "state", boot_id=boot_id(), read_only=True)
    try:
        contents = stored_contents(state, job.partitions)
    finally:
        state.close()
    parent = Registry(folder / "models").files(job.parent) if job.parent else None
    read = read_for_training(Archive(folder / "archive", read_only=True), most=job.events_max, below=job.below)
    return Inputs(read.table(), parent, contents, older_share=read.share)


def stored_contents(state: State, partitions: int) -> dict[int, Content]:
    """What is known of the items."""
    return {node: decode_content(blob) for p in range(partitions) for node, blob in state.scan(NODES, p)}


def _cluster_inputs(job: Job) -> Inputs:
    from freshet.learning.learn_cluster import cluster_inputs  # only here: an embedded server's child needs neither Redis nor its settings

    return cluster_inputs(job)


def _record_start(numbers: I64s, row: int) -> int:
    """The first row of the record that this row belongs to: a pack is one record and is not cut."""
    return int(np.searchsorted(numbers, numbers[row]))


if __name__ == "__main__":
    main()
