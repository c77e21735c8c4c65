"""Charts are well-formed SVG whatever the numbers and names are, and say what they were given."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from freshet.demo.charts import LINES_MAX, POINTS_MAX, Frame, Line, Mark, histogram, line_chart, ticks
from storage.arrays import F64s

SVG = "{http://www.w3.org/2000/svg}"
FRAME = Frame("Hit rate <over> time & \x00more", "events", "hit@10")


def parsed(svg: str) -> ElementTree.Element:
    """The root of a chart that must be XML, with no coordinate that is not a number."""
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert not re.search(r'="[^"]*\b(nan|inf)\b', svg)
    return root


def texts(root: ElementTree.Element) -> list[str]:
    """All that is written in the chart."""
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def line(name: str, y: list[float]) -> Line:
    """A line over 0, 1, 2, ..."""
    return Line(name, np.arange(len(y), dtype=np.float64), np.array(y))


def test_a_line_chart_draws_every_line_and_names_it() -> None:
    root = parsed(line_chart([line("model", [0.1, 0.2, 0.3]), line("pop & <co>", [0.05, 0.05, 0.04])], frame=FRAME))
    paths = [element for element in root.iter(f"{SVG}path") if element.get("class") == "line"]
    assert len(paths) == 2
    assert {"model", "pop & <co>", "events", "hit@10"} <= set(texts(root))
    assert (paths[0].get("d") or "").count("L") == 2


def test_higher_numbers_are_drawn_higher() -> None:
    root = parsed(line_chart([line("up", [0.0, 0.5, 1.0])], frame=FRAME))
    (path,) = (element for element in root.iter(f"{SVG}path") if element.get("class") == "line")
    heights = [float(pair.split(" ")[1]) for pair in re.findall(r"[ML]([\d. ]+)", path.get("d") or "")]
    assert heights == sorted(heights, reverse=True)


def test_promotions_and_refusals_are_marked_and_labels_without_room_move_to_the_tip() -> None:
    marks = [Mark(5, "g1-h2", "promoted"), Mark(5.1, "g1-h3", "promoted"), Mark(9, "g1-<h4>", "refused"), Mark(99, "outside", "promoted")]
    root = parsed(line_chart([line("model", [0.1] * 11)], marks, frame=FRAME))
    assert {"g1-h2", "g1-<h4>", "promoted", "refused"} <= set(texts(root))
    assert "g1-h3" not in texts(root)
    tips = [element.text for element in root.iter(f"{SVG}title")]
    assert "promoted: g1-h3" in tips
    assert not any("outside" in (tip or "") for tip in tips)


def test_gaps_stay_gaps_and_long_lines_are_thinned() -> None:
    root = parsed(line_chart([line("gap", [0.1, math.nan, 0.3, 0.4]), line("long", [0.2] * 10_000)], frame=FRAME))
    gap, long = (element.get("d") or "" for element in root.iter(f"{SVG}path") if element.get("class") == "line")
    assert gap.count("M") == 2
    assert long.count("L") == POINTS_MAX - 1


@pytest.mark.parametrize("y", [[], [math.nan, math.inf], [0.0], [0.0, 0.0], [1e-9, 2e-9], [1e9, 2e9]])
def test_odd_numbers_give_a_chart_all_the_same(y: list[float]) -> None:
    assert parsed(line_chart([line("odd", y)], frame=FRAME)).tag.endswith("svg")


def test_more_lines_than_can_be_told_apart_are_refused() -> None:
    with pytest.raises(AssertionError, match="told apart"):
        line_chart([line(str(place), [1.0]) for place in range(LINES_MAX + 1)], frame=FRAME)


def test_a_histogram_counts_everything_once_and_marks_its_quantiles() -> None:
    values: F64s = np.random.default_rng(0).lognormal(1, 0.7, size=3_000)
    root = parsed(histogram(values, frame=FRAME))
    tips = [bar.find(f"{SVG}title") for bar in root.iter(f"{SVG}rect")]
    assert sum(int((tip.text or "").rsplit(": ", 1)[1]) for tip in tips if tip is not None) == 3_000
    assert f"p50 = {np.quantile(values, 0.5):.3g}" in texts(root)
    assert f"p99 = {np.quantile(values, 0.99):.3g}" in texts(root)


@pytest.mark.parametrize("values", [[], [math.nan], [0.0, -1.0], [3.0], [3.0, 3.0, math.nan, -1.0], [1e-6, 1e6]])
def test_a_histogram_of_odd_numbers_says_what_it_left_out(values: list[float]) -> None:
    root = parsed(histogram(np.array(values, dtype=np.float64), frame=FRAME))
    if values == [3.0, 3.0, math.nan, -1.0]:
        assert "2 left out" in texts(root)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0.23), (0, 104_000), (3, 3.0001), (-5, 5)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 6
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)
    steps = np.diff(found)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
