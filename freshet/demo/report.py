"""The demo's report: one HTML file that explains itself, with no script and nothing to fetch.

Not a console: it is written once, when the demo ends.

    write_report(Path("out/demo.html"), report)
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import jinja2
import numpy as np

from freshet.demo.charts import LINES_MAX, Frame, Line, Mark, histogram, line_chart
from storage.arrays import F64s

TEMPLATES: Final = Path(__file__).parent / "templates"
DECISIONS_MAX: Final = 500


@dataclass(frozen=True)
class System:
    """One ranked system. x and y (N,): events so far, and the moving mean of hit@10 there; low and high: its 95 % interval."""

    name: str
    about: str
    hit_at_10: float
    low: float
    high: float
    x: F64s
    y: F64s


@dataclass(frozen=True)
class Decision:
    """One answer of the gate: when (events so far), about which version, yes or no, why, and the numbers it rests on."""

    at_event: int
    version: str
    promoted: bool
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DemoReport:
    """Everything the page shows. `systems`: the model first; times in ms, one per event made visible and per look-up."""

    data: str
    terms: str
    events: int
    accepted: int
    dead_letters: int
    events_per_s: float
    seconds: float
    model_version: str
    systems: tuple[System, ...]
    decisions: tuple[Decision, ...]
    visible_ms: F64s
    lookup_ms: F64s
    window: int = 0
    rss_mb: float = math.nan
    digest_live: str = ""
    digest_replay: str = ""

    def __post_init__(self) -> None:
        if not 1 <= len(self.systems) <= LINES_MAX:
            raise ValueError(f"{len(self.systems)} systems: the chart tells 1 to {LINES_MAX} apart")


def write_report(path: Path, report: DemoReport) -> None:
    """Write the page: aside first, then renamed over `path`, whose folder is made. Raises `OSError` if it cannot be written."""
    page = render(report)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(page, encoding="utf-8", errors="replace")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def render(report: DemoReport) -> str:
    """The page as text; everything that comes from data is escaped. Only the last 500 decisions are listed."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "share": share}
    promotions = sum(decision.promoted for decision in report.decisions)
    return environment.get_template("demo.html").render(
        report=report,
        headlines=_headlines(report, promotions),
        decisions=report.decisions[-DECISIONS_MAX:],
        hidden=max(0, len(report.decisions) - DECISIONS_MAX),
        promotions=promotions,
        best=max((system.hit_at_10 for system in report.systems if math.isfinite(system.hit_at_10)), default=math.nan),
        curve=_curve(report),
        visible=histogram(report.visible_ms, frame=Frame("Event to visible", "milliseconds (log scale)", "events", height=320)),
        lookup=histogram(report.lookup_ms, frame=Frame("Look-up", "milliseconds (log scale)", "look-ups", height=320)),
    )


def number(value: float) -> str:
    """A number for people: thousands separated, four figures, a dash for what is not finite.

    >>> number(12345), number(0.20571), number(float("nan"))
    ('12,345', '0.2057', '–')
    """
    if not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.4g}"


def share(value: float) -> str:
    """A share with four decimals, as the protocol prints it, without its leading nought."""
    return f"{value:.4f}".removeprefix("0") if math.isfinite(value) else "–"


def _headlines(report: DemoReport, promotions: int) -> list[tuple[str, str, str]]:
    model, refusals = report.systems[0], len(report.decisions) - promotions
    digests = "equal" if report.digest_live == report.digest_replay else "NOT EQUAL"
    shown = [
        (share(model.hit_at_10), f"hit@10 of {model.name}", f"95 %: {share(model.low)} to {share(model.high)}"),
        (number(report.events), "events", f"{number(report.accepted)} accepted, {number(report.dead_letters)} dead letters"),
        (number(round(report.events_per_s)), "events per second", f"{number(round(report.seconds))} s in all"),
        (_milliseconds(report.visible_ms, 0.99), "visible, p99", f"p50 {_milliseconds(report.visible_ms, 0.5)}"),
        (_milliseconds(report.lookup_ms, 0.99), "look-up, p99", f"p50 {_milliseconds(report.lookup_ms, 0.5)}"),
        (str(promotions), "promotions", f"{refusals} refused; live: {report.model_version}"),
    ]
    if math.isfinite(report.rss_mb):
        shown.append((f"{number(round(report.rss_mb))} MB", "peak memory", ""))
    if report.digest_live or report.digest_replay:
        shown.append((digests, "digests, live and replay", (report.digest_live or "–")[:16]))
    return shown


def _milliseconds(values: F64s, quantile: float) -> str:
    good = values[np.isfinite(values)]
    return f"{float(np.quantile(good, quantile)):.3g} ms" if len(good) else "–"


def _curve(report: DemoReport) -> str:
    lines = [Line(system.name, system.x, system.y) for system in report.systems]
    marks = [Mark(one.at_event, one.version, "promoted" if one.promoted else "refused") for one in report.decisions]
    window = f", mean of the last {report.window:,}" if report.window else ""
    return line_chart(lines, marks, frame=Frame("Hit rate over time", "events so far", f"hit@10{window}"))
