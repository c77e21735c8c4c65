"""Charts as SVG text, drawn on the server: lines over time with marked moments, and histograms of times.

Pure functions from numbers to strings; no script, no font, no network. Colours are CSS variables (`--ink`, `--faint`,
`--line-0` to `--line-7`, `--good`, `--bad`) which the page defines for light and dark.

    svg = line_chart([Line("model", x, y)], [Mark(5_000, "g1-h2", "promoted")], frame=Frame("Hit rate", "events", "hit@10"))
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

import numpy as np

from storage.arrays import F64s

LINES_MAX: Final = 8
POINTS_MAX: Final = 400
MARKS_MAX: Final = 200
BINS: Final = 40
_DASHES: Final = ("", "7 4", "2 3", "9 3 2 3", "", "12 4", "4 2", "2 6")
_LEGEND_ROW: Final = 20
_LABEL_GAP: Final = 58.0


@dataclass(frozen=True)
class Line:
    """One named line; x and y (N,) of equal length, x ascending. Points that are not finite leave a gap."""

    name: str
    x: F64s
    y: F64s


@dataclass(frozen=True)
class Mark:
    """A moment on the x axis: kind `promoted` (a full line with its label) or anything else (a cross below)."""

    x: float
    label: str
    kind: str


@dataclass(frozen=True)
class Frame:
    """Title, axis labels and size in user units; the page scales it."""

    title: str
    x_label: str
    y_label: str
    width: int = 720
    height: int = 400


@dataclass(frozen=True)
class _Area:
    """Where numbers lie on the page."""

    left: float
    right: float
    top: float
    bottom: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)


def ticks(low: float, high: float, count_max: int = 6) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within low..high, at most `count_max`.

    >>> ticks(0, 0.23)
    [0.0, 0.05, 0.1, 0.15, 0.2]
    """
    assert high > low and count_max >= 2, f"no room for ticks in {low}..{high}"
    raw = (high - low) / (count_max - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(place * step, 12) for place in range(first, math.floor(high / step + 1e-9) + 1)]


def line_chart(lines: Sequence[Line], marks: Sequence[Mark] = (), *, frame: Frame) -> str:
    """An SVG of up to 8 lines over one x axis, y from 0, with legend, and marks where something happened.

    A line of more than 400 points is thinned evenly; marks beyond 200 are left out. Without a finite point the chart says so.
    """
    assert len(lines) <= LINES_MAX, f"{len(lines)} lines; at most {LINES_MAX} can be told apart"
    kept = [_finite(line) for line in lines]
    if not any(len(line.x) for line in kept):
        return _empty(frame)
    rows = 1 + (len(lines) + (1 if marks else 0) - 1) // 4
    x_all, y_all = np.concatenate([line.x for line in kept]), np.concatenate([line.y for line in kept])
    top = 44 + _LEGEND_ROW * rows
    area = _Area(62, frame.width - 16, top, frame.height - 52, _widened(x_all), (0.0, _headroom(float(y_all.max()))))
    parts = [_axes(area, frame, y_ticks=ticks(*area.y_range)), *_marks(marks[:MARKS_MAX], area)]
    parts += [_path(_thinned(line), place, area) for place, line in enumerate(lines)]
    parts.append(_legend([line.name for line in lines], bool(marks), frame.width))
    return _svg(frame, parts)


def histogram(values: F64s, *, frame: Frame, quantiles: Sequence[float] = (0.5, 0.99)) -> str:
    """An SVG histogram of positive numbers in bins of equal ratio (a log axis), with quantiles marked as p50, p99.

    Numbers that are not finite or not positive are left out, and the chart says how many.
    """
    good = np.asarray(values, dtype=np.float64)
    good = good[np.isfinite(good) & (good > 0)]
    if not len(good):
        return _empty(frame)
    low, high = float(np.log10(good.min())), float(np.log10(good.max()))
    low, high = low - 0.05, high + 0.05
    counts, edges = np.histogram(np.log10(good), bins=BINS, range=(low, high))
    area = _Area(62, frame.width - 16, 62, frame.height - 52, (low, high), (0.0, _headroom(float(counts.max()))))
    bars = []
    for count, left, right in zip(counts.tolist(), edges.tolist(), edges[1:].tolist(), strict=False):
        if count:
            x, y = area.x(left), area.y(count)
            span = f"{_short(10**left)} to {_short(10**right)}: {count}"
            width, height = area.x(right) - x - 1, area.bottom - y
            bars.append(f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"><title>{span}</title></rect>')
    parts = [_axes(area, frame, y_ticks=[tick for tick in ticks(*area.y_range) if tick == int(tick)], log=True), *bars]
    parts += _quantiles(good, quantiles, area)
    if left_out := np.size(values) - len(good):
        parts.append(_text(frame.width - 16, 40, f"{left_out} left out", "end", kind="small"))
    return _svg(frame, parts)


def _svg(frame: Frame, parts: Sequence[str]) -> str:
    title = _safe(frame.title)
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {frame.width} {frame.height}" role="img" aria-label="{title}">'
    heading = _text(16, 22, frame.title, "start", kind="heading")
    return "\n".join([opening, f"<title>{title}</title>", heading, *parts, "</svg>"])


def _empty(frame: Frame) -> str:
    return _svg(frame, [_text(frame.width / 2, frame.height / 2, "nothing was measured", "middle", kind="small")])


def _safe(text: str) -> str:
    """Escaped, and without the characters that XML cannot hold at all."""
    return escape("".join(letter for letter in text if letter >= " " and not "\ud800" <= letter <= "\udfff" and letter < "\ufffe"))


def _text(x: float, y: float, text: str, anchor: str, *, kind: str = "label") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_safe(text)}</text>'


def _finite(line: Line) -> Line:
    assert line.x.shape == line.y.shape, f"{line.name}: x {line.x.shape} and y {line.y.shape} differ"
    good = np.isfinite(line.x) & np.isfinite(line.y)
    return Line(line.name, line.x[good], line.y[good])


def _thinned(line: Line) -> Line:
    if len(line.x) <= POINTS_MAX:
        return line
    places = np.linspace(0, len(line.x) - 1, POINTS_MAX).round().astype(np.int64)
    return Line(line.name, line.x[places], line.y[places])


def _widened(values: F64s) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _headroom(highest: float) -> float:
    return highest * 1.08 if highest > 0 else 1.0


def _short(value: float) -> str:
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:.0e}" if abs(value) < 1e-3 else f"{value / 1000:,.0f}k"


def _log_ticks(low: float, high: float) -> list[float]:
    fine = [math.log10(factor) + power for power in range(math.floor(low), math.ceil(high) + 1) for factor in (1, 2, 5)]
    inside = [tick for tick in fine if low <= tick <= high]
    whole = [tick for tick in inside if tick == int(tick)]
    return inside if len(inside) <= 9 or len(whole) < 2 else whole


def _axes(area: _Area, frame: Frame, *, y_ticks: Sequence[float], log: bool = False) -> str:
    parts = []
    for tick in y_ticks:
        y = area.y(tick)
        parts.append(f'<line class="grid" x1="{area.left:.1f}" y1="{y:.1f}" x2="{area.right:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(area.left - 8, y + 4, _short(tick), "end"))
    for tick in _log_ticks(*area.x_range) if log else ticks(*area.x_range):
        x = area.x(tick)
        parts.append(f'<line class="axis" x1="{x:.1f}" y1="{area.bottom:.1f}" x2="{x:.1f}" y2="{area.bottom + 5:.1f}"/>')
        anchor = "end" if x > area.right - 12 else "middle"  # the page ends there
        parts.append(_text(x + 8 * (anchor == "end"), area.bottom + 19, _short(10**tick if log else tick), anchor))
    parts.append(f'<line class="axis" x1="{area.left:.1f}" y1="{area.bottom:.1f}" x2="{area.right:.1f}" y2="{area.bottom:.1f}"/>')
    parts.append(_text((area.left + area.right) / 2, area.bottom + 40, frame.x_label, "middle"))
    middle = (area.top + area.bottom) / 2
    turned = f'transform="rotate(-90 14 {middle:.1f})"'
    parts.append(f'<text class="label" x="14" y="{middle:.1f}" text-anchor="middle" {turned}>{_safe(frame.y_label)}</text>')
    return "\n".join(parts)


def _path(line: Line, place: int, area: _Area) -> str:
    commands, pen_down = [], False
    for x, y in zip(line.x.tolist(), line.y.tolist(), strict=True):
        if not (math.isfinite(x) and math.isfinite(y)):
            pen_down = False
            continue
        commands.append(f"{'L' if pen_down else 'M'}{area.x(x):.1f} {area.y(y):.1f}")
        pen_down = True
    return f'<path class="line" {_stroke(place)} d="{"".join(commands)}"><title>{_safe(line.name)}</title></path>'


def _stroke(place: int) -> str:
    width = 2.6 if place == 0 else 1.6
    return f'style="stroke:var(--line-{place});stroke-width:{width}" stroke-dasharray="{_DASHES[place] or "none"}"'


def _legend(names: Sequence[str], marked: bool, width: int) -> str:
    parts = []
    column = (width - 32) / 4
    for place, name in enumerate(names):
        x, y = 16 + place % 4 * column, 46 + place // 4 * _LEGEND_ROW
        parts.append(f'<line {_stroke(place)} x1="{x:.1f}" y1="{y - 4}" x2="{x + 24:.1f}" y2="{y - 4}"/>')
        parts.append(_text(x + 30, y, name, "start"))
    if marked:
        x, y = 16 + len(names) % 4 * column, 46 + len(names) // 4 * _LEGEND_ROW
        parts += [
            _triangle(x + 5, y - 8),
            _text(x + 14, y, "promoted", "start"),
            _cross(x + 84, y - 4),
            _text(x + 92, y, "refused", "start"),
        ]
    return "\n".join(parts)


def _triangle(x: float, y: float) -> str:
    return f'<path class="promoted" d="M{x - 5:.1f} {y:.1f}L{x + 5:.1f} {y:.1f}L{x:.1f} {y + 8:.1f}Z"/>'


def _cross(x: float, y: float) -> str:
    return f'<path class="refused" d="M{x - 4:.1f} {y - 4:.1f}L{x + 4:.1f} {y + 4:.1f}M{x - 4:.1f} {y + 4:.1f}L{x + 4:.1f} {y - 4:.1f}"/>'


def _marks(marks: Sequence[Mark], area: _Area) -> list[str]:
    """Promotions as lines with a label at the top, refusals as crosses with one at the bottom; a label without room is in the tip alone."""
    parts = []
    written = {True: -math.inf, False: -math.inf}
    for mark in sorted(marks, key=lambda mark: mark.x):
        if not area.x_range[0] <= mark.x <= area.x_range[1]:
            continue
        x, promoted = area.x(mark.x), mark.kind == "promoted"
        room = x - written[promoted] >= _LABEL_GAP
        anchor = "end" if x > area.right - _LABEL_GAP else "start"
        shape = _triangle(x, area.top - 8) if promoted else _cross(x, area.bottom - 8)
        rule = f'<line class="moment" x1="{x:.1f}" y1="{area.top:.1f}" x2="{x:.1f}" y2="{area.bottom:.1f}"/>' if promoted else ""
        label = ""
        if room:
            written[promoted] = x
            away = -8 if anchor == "end" else 8
            label = _text(x + away, area.top + 4 if promoted else area.bottom - 14, mark.label, anchor, kind="small")
        parts.append(f"<g><title>{_safe(mark.kind)}: {_safe(mark.label)}</title>{rule}{shape}{label}</g>")
    return parts


def _quantiles(values: F64s, quantiles: Sequence[float], area: _Area) -> list[str]:
    parts = []
    for place, quantile in enumerate(quantiles):
        value = float(np.quantile(values, quantile))
        x = area.x(math.log10(value))
        parts.append(f'<line class="quantile" x1="{x:.1f}" y1="{area.top - 4:.1f}" x2="{x:.1f}" y2="{area.bottom:.1f}"/>')
        anchor = "end" if x > area.right - 90 else "start"
        label = f"p{100 * quantile:g} = {_short(value)}"
        parts.append(_text(x + (-5 if anchor == "end" else 5), area.top - 8 + 14 * (place % 2), label, anchor, kind="strong"))
    return parts
