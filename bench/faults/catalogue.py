"""Every fault by its name, and what some trials of one come to.

figures = measure("kill_worker", ground, trials=100, told=print)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final

from bench.faults import inputs, losses, services, trainer, workers
from bench.faults.judging import Verdict
from bench.faults.sites import Ground

Fault = Callable[[Ground, int], Verdict]
"""Of a ground and a trial's number, which seeds what it makes and chooses among what it does."""
FAULTS: Final[Mapping[str, Fault]] = {
    "kill_worker": workers.kill_worker,
    "kill_trainer": trainer.kill_trainer,
    "redis_restart": services.redis_restart,
    "kafka_restart": services.kafka_restart,
    "kafka_unreachable": services.kafka_unreachable,
    "rebalance_catch_up": workers.rebalance_catch_up,
    "paused_worker": workers.paused_worker,
    "producer_retry": services.producer_retry,
    "duplicates": inputs.duplicates,
    "misrouted": inputs.misrouted,
    "retention": losses.retention,
    "topic_recreated": losses.topic_recreated,
    "aborted_transaction": inputs.aborted_transaction,
    "poison": inputs.poison,
    "hot_partition": inputs.hot_partition,
    "archive_disk_full": workers.archive_disk_full,
    "clock_skew": workers.clock_skew,
}


@dataclass(frozen=True)
class Figures:
    """Of all trials of one fault: sums; the median and the longest recovery; what was wrong, trial by trial."""

    trials: int
    lost: int
    doubled: int
    recovery_s: float
    recovery_s_max: float
    wrong: list[str]


def measure(name: str, ground: Ground, *, trials: int, told: Callable[[str], None]) -> Figures:
    """Trial after trial. Raises RuntimeError and TimeoutError for a trial that came to no end."""
    verdicts = []
    for trial in range(trials):
        verdict = FAULTS[name](ground, trial)
        told(f"{name} {trial + 1}/{trials}: lost {verdict.lost}, doubled {verdict.doubled}, recovered in {verdict.recovery_s:.1f} s")
        verdicts.append(verdict)
    wrong = [f"trial {trial}: {what}" for trial, verdict in enumerate(verdicts) for what in verdict.wrong]
    for line in wrong:
        told(f"{name}: {line}")
    recoveries = [verdict.recovery_s for verdict in verdicts]
    return Figures(
        trials, sum(verdict.lost for verdict in verdicts), sum(verdict.doubled for verdict in verdicts),
        round(median(recoveries), 3), round(max(recoveries), 3), wrong,
    )  # fmt: skip
