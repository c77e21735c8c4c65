"""The neural source of a report: the product's model and trainer, planned from the data's shape, fitted within seconds, kept, gone on from.

    found = fitted(material, Fitting(Wanted(folder), seed=0, clock=clock, began=clock()), seconds=1200.0); keep(found.model, folder)

What is planned follows from how long sequences are and how many items there are, never from a data set's name; what cannot be
known beforehand (`DROPOUTS`) is chosen on validation. A killed run goes on at its last check if data and plan
are the same.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.quality.asking import Questions, ranks_of
from bench.quality.layouts import Catalogue, Described
from bench.quality.progress import Clock, Meter, quiet
from bench.quality.systems import COUNTING, EVERYTHING, Together
from encoders.base import I64s, ItemFeatures, Ragged
from encoders.blend import Blend
from encoders.config import ModelConfig
from encoders.model import Model
from encoders.text import tokens
from freshet.version_files import MODEL_FILE
from storage.files import write_file
from storage.ids import ITEM, hash_ids
from stream.shape import Shape
from trainers.config import CPU, FLOAT32, TrainConfig
from trainers.loop import Going, Lesson, Trained, Trainer
from trainers.metrics import mid_ranks_among
from trainers.samples import Placed
from trainers.saved import BadRun, Saved
from trainers.sequence_baselines import Systems
from trainers.sequence_model import NEURAL, SequenceModel, encoded, placed_sequences

ACTION: Final = "click"
"""What every event of these files is taken for."""
VALIDATION_MAX: Final = 4096
"""Validation questions that stop a run, drawn by the seed."""
RANKED_AT_ONCE: Final = 128
STEP_POSITIONS: Final = 2048
"""Questions that a step asks, about."""
HISTORY_MIN: Final = 8
HISTORY_QUANTILE: Final = 0.99
"""Share of the sequences that are heard whole, if a server would keep them."""
UNIFORM: Final = 1024
"""Negatives drawn from a large catalogue, beside those of the batch."""
CHECKS_OF_A_PASS: Final = 2
CHECK_STEPS: Final = (50, 500)
"""Between two checks at least and at most."""
DROPOUTS: Final = (0.2, 0.35, 0.5, 0.65)
"""Tried in this order, as long as more of it ranks validation better."""
AGAIN_SHARE: Final = 0.1
"""Of the time, that must be left for another run."""
REFIT_SHARE: Final = 0.2
"""Of the time, for learning the validation data too, where the format allows it."""
REFIT_RATE: Final = 0.3
"""Of the learning rate."""
PACE_QUESTIONS: Final = 256
ASK_MARGIN: Final = 1.25
REST_SHARE: Final = 0.05
"""Of the time, for searching weights and what cannot be foreseen."""
TRAIN_SECONDS_MIN: Final = 1.0


@dataclass(frozen=True)
class Material:
    """Sequences of item rows to learn, oldest first, questions to choose by, what is known of the items; whether items come back."""

    train: Ragged
    validation: Questions
    features: ItemFeatures
    exclude_seen: bool


@dataclass(frozen=True)
class Wanted:
    """Which systems a report fits, what that and their test may take in all, where runs and model are kept, and who watches.

    `steps_max` is for who has no clock. `device` and `precision` are the trainer's.
    """

    folder: Path
    choice: str = EVERYTHING
    minutes: float = 30.0
    meter: Meter = quiet
    told: Callable[[str], None] = lambda line: None
    steps_max: int = 1_000_000
    device: str = CPU
    precision: str = FLOAT32

    @property
    def neural(self) -> bool:
        """Whether there is a neural source."""
        return self.choice != COUNTING

    @property
    def counting(self) -> bool:
        """Whether there are counting sources."""
        return self.choice != NEURAL


@dataclass(frozen=True)
class Fitting:
    """One report's fitting: what is wanted, the seed, the clock and when it began."""

    wanted: Wanted
    seed: int
    clock: Clock
    began: float

    def left(self) -> float:
        """Seconds."""
        return 60 * self.wanted.minutes - (self.clock() - self.began)


@dataclass(frozen=True)
class Fitted:
    """The model, and what the report says of it."""

    model: Model
    told: dict[str, Any]


def action_code() -> int:
    """The code that the product's reducers give `ACTION`."""
    return Shape().actions[ACTION].code


def features_of(catalogue: Catalogue, described: Described) -> ItemFeatures:
    """The catalogue as the item tower reads it: ids and text as a server would have them of the same names, titles and attributes."""
    names = list(catalogue.rows)
    facts = [{"attribute": described.attributes[name]} if name in described.attributes else {} for name in names]
    nobody = np.full((len(names), 1), -1, dtype=np.int64)
    return ItemFeatures(
        hash_ids(names, ITEM),
        text=tokens([described.titles.get(name, "") for name in names], facts),
        degree=np.zeros(len(names), dtype=np.float32),
        neighbours=nobody,
        weights=np.zeros(nobody.shape, dtype=np.float32),
    )


def planned(material: Material, fitting: Fitting, *, seconds: float) -> TrainConfig:
    """Sizes from the data's shape: histories as long as nearly all are and a server keeps, steps of about 2,048 positions."""
    lengths = np.diff(material.train.offsets)
    wanted = int(np.ceil(np.quantile(lengths, HISTORY_QUANTILE))) if len(lengths) else HISTORY_MIN
    history_len = min(max(wanted, HISTORY_MIN), Shape().history_max)
    cut = int(np.ceil(lengths / history_len).sum())
    batch = max(1, round(STEP_POSITIONS * cut / max(1, len(material.train.values))))
    low, high = CHECK_STEPS
    return TrainConfig(
        model=ModelConfig(history_len=history_len, surroundings=False, clock=False, cold_dropout=0.0),
        seed=fitting.seed,
        steps_max=fitting.wanted.steps_max,
        seconds_max=seconds,
        batch_windows=batch,
        check_every=min(max(cut // batch // CHECKS_OF_A_PASS, low), high),
        patience=10,
        uniform=UNIFORM,
        exclude_seen=material.exclude_seen,
        shuffle_ties=False,
        device=fitting.wanted.device,
        precision=fitting.wanted.precision,
    )


def fitted(material: Material, fitting: Fitting, *, seconds: float) -> Fitted:
    """The best of several runs, at most `seconds` in all.

    The first drops little. One that stops by itself, because validation ranks no better, has learned the training data by heart: the next
    drops more, until that helps no longer. Then, as the rate of a run that stopped had not come down, the best is run for as many steps
    as were best.
    """
    runs, left = list[_Run](), seconds
    for dropout in DROPOUTS:
        plan = planned(material, fitting, seconds=left)
        runs.append(_Run(dropping(plan, dropout), material, fitting, name=f"with dropout {dropout}"))
        left -= runs[-1].trained.seconds
        helped = runs[-1] is max(runs, key=_Run.gain)
        if not (helped and runs[-1].stopped and left > AGAIN_SHARE * seconds):
            break
    best = max(runs, key=_Run.gain)
    if best.stopped and best.trained.best_step and left > AGAIN_SHARE * seconds:
        plan = replace(best.plan, steps_max=best.trained.best_step, seconds_max=left)
        runs.append(_Run(plan, material, fitting, name="as long as was best"))
        best = max(runs, key=_Run.gain)
    told = {
        "runs": [one.told() for one in runs], "validation": best.trained.metrics, "dropout": best.plan.model.dropout,
        "device": best.plan.device, "precision": best.plan.precision,
        "steps": best.trained.steps, "best_step": best.trained.best_step, "seconds": sum(one.trained.seconds for one in runs),
        "model": asdict(best.trained.model.config),
    }  # fmt: skip
    return Fitted(best.trained.model, told)


class _Run:
    """One training by a plan, from nothing."""

    def __init__(self, plan: TrainConfig, material: Material, fitting: Fitting, *, name: str) -> None:
        self.plan, self.trained = plan, _trained(plan, material, fitting, name=name)

    @property
    def stopped(self) -> bool:
        """Whether it ended before its time, as it ranked no better."""
        return self.trained.steps < self.plan.steps_max and self.trained.seconds < self.plan.seconds_max

    def gain(self) -> float:
        """MRR on validation; 0 where there was no question."""
        return self.trained.metrics.get("MRR", 0.0)

    def told(self) -> dict[str, float]:
        """What the report says of it."""
        run = self.trained
        return {"dropout": self.plan.model.dropout, "steps": run.steps, "best_step": run.best_step, "seconds": run.seconds, **run.metrics}


def training_seconds(material: Material, counting: Systems, fitting: Fitting, *, questions: int) -> float:
    """What is left for training once so many questions will have been asked, by the pace of the first of them and an untrained model."""
    model = Model.new(planned(material, fitting, seconds=1.0).model, material.features.ids, seed=0)
    systems = Together(counting, source_of(model, material.features))
    equal = Blend(systems.names, np.ones(len(systems.names)))

    def ask(count: int) -> float:
        began, few = fitting.clock(), material.validation.take(np.arange(min(count, len(material.validation))))
        ranks_of(systems, few, equal, num_items=len(material.features), advance=lambda n: None)
        return (fitting.clock() - began) / max(1, len(few))

    ask(PACE_QUESTIONS)  # kernels are compiled, counts are laid out
    rest = ASK_MARGIN * questions * ask(PACE_QUESTIONS) + REST_SHARE * 60 * fitting.wanted.minutes
    return max(TRAIN_SECONDS_MIN, fitting.left() - rest)


def source_of(model: Model, features: ItemFeatures) -> SequenceModel:
    """The model as a source of these formats."""
    return SequenceModel(model, features, action=action_code())


def refitted(found: Fitted, material: Material, fitting: Fitting, *, seconds: float) -> Fitted:
    """The same weights after more steps on `material`, which holds the validation data too: nothing is left to choose by."""
    config = planned(material, fitting, seconds=seconds)
    config = replace(config, model=found.model.config, learning_rate=REFIT_RATE * config.learning_rate)
    trained = _gone_through(found.model, config, Lesson(material.features, _events(material), None), fitting, name="refit")
    return Fitted(trained.model, {**found.told, "refit_steps": trained.steps})


def dropping(config: TrainConfig, dropout: float) -> TrainConfig:
    """With another dropout."""
    return replace(config, model=replace(config.model, dropout=dropout))


def keep(model: Model, folder: Path) -> Path:
    """Write the checkpoint, whole or not at all; `freshet serve --model` takes it. The runs it came from go."""
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / MODEL_FILE, model.to_bytes())
    for run in folder.glob("*.run"):
        run.unlink()
    return folder / MODEL_FILE


def _trained(config: TrainConfig, material: Material, fitting: Fitting, *, name: str) -> Trained:
    rows = np.arange(len(material.validation))
    if len(rows) > VALIDATION_MAX:
        rows = np.sort(np.random.default_rng(fitting.seed).choice(rows, VALIDATION_MAX, replace=False))
    asked = material.validation.take(rows)

    def ask(model: Model) -> I64s:
        vectors = model.embed_items(material.features)
        users, ranks = encoded(model, vectors, asked.inputs, action=action_code()), [np.zeros(0, dtype=np.int64)]
        for start in range(0, len(users), RANKED_AT_ONCE):
            part = asked.take(np.arange(start, min(start + RANKED_AT_ONCE, len(users))))
            scores = (users[start : start + RANKED_AT_ONCE] @ vectors.T).astype(np.float64)
            ranks.append(mid_ranks_among(scores, part.targets, part.left_out))
        return np.concatenate(ranks)

    model = Model.new(config.model, material.features.ids, seed=config.seed)
    return _gone_through(model, config, Lesson(material.features, _events(material), ask if len(asked) else None), fitting, name=name)


def _gone_through(model: Model, config: TrainConfig, lesson: Lesson, fitting: Fitting, *, name: str) -> Trained:
    """One run with its bar, from where it was left if there is such a place."""
    key, path = _key(config, lesson), fitting.wanted.folder / f"{name.replace(' ', '-')}.run"
    saved, metric = _left(path, key, fitting), float("nan")
    with fitting.wanted.meter(name) as tell:

        def checked(step: int, steps: int, loss: float, found: float) -> None:
            nonlocal metric
            metric = found

        going = Going(checked, lambda spent, loss: tell(spent, loss, metric), lambda saved: write_file(path, saved.to_bytes()))
        fitting.wanted.folder.mkdir(parents=True, exist_ok=True)
        return Trainer(config, clock=fitting.clock, going=going).run(model, lesson, key=key, saved=saved)


def _left(path: Path, key: str, fitting: Fitting) -> Saved | None:
    if not path.exists():
        return None
    try:
        saved = Saved.from_bytes(path.read_bytes(), key=key)
    except BadRun as error:
        fitting.wanted.told(f"{path}: {error}: begins anew")
        return None
    fitting.wanted.told(f"{path}: goes on after step {saved.plain['step']}, {saved.plain['seconds']:.0f} s")
    return saved


def _key(config: TrainConfig, lesson: Lesson) -> str:
    """Names data and plan, but not how much time there is."""
    plan = json.dumps({**asdict(config), "seconds_max": 0}, sort_keys=True).encode()
    columns = lesson.past.columns
    return hashlib.sha256(plan + columns.users.tobytes() + columns.items.tobytes() + lesson.features.text.values.tobytes()).hexdigest()


def _events(material: Material) -> Placed:
    return placed_sequences(material.train, material.features.ids, action=action_code())
