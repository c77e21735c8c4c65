"""The report: one file, nothing to fetch, everything from data escaped, and the numbers where a reader looks for them."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from freshet.demo.report import Decision, DemoReport, System, number, render, share, write_report

VOID = {"meta", "br", "link", "img", "input", "hr"}


def system(name: str, hit: float) -> System:
    """A curve that wobbles around its mean."""
    x = np.arange(0, 80_000, 500, dtype=np.float64)
    y = hit + 0.01 * np.sin(x / 9_000)
    return System(name, f"what {name} is", hit, hit - 0.003, hit + 0.003, x, y)


def report() -> DemoReport:
    """A full report of made-up numbers."""
    generator = np.random.default_rng(0)
    return DemoReport(
        data="made-up <data>",
        terms="Use it & <b>enjoy</b>.",
        events=80_012,
        accepted=80_000,
        dead_letters=12,
        events_per_s=411.7,
        seconds=194.0,
        model_version="g1-h3",
        systems=(system("model", 0.2113), system("cooccurrence", 0.2006), system("popular", 0.0762)),
        decisions=(
            Decision(20_000, "g1-h1", True, "better by <0.004>", {"hit_at_10": 0.2057, "p": 0.011}),
            Decision(40_000, "g1-h2", False, "not a number", {"hit_at_10": math.nan}),
        ),
        visible_ms=generator.lognormal(1, 0.5, size=500),
        lookup_ms=generator.lognormal(0, 0.5, size=500),
        window=5_000,
        rss_mb=1404.2,
        digest_live="abc",
        digest_replay="abc",
    )


class Balance(HTMLParser):
    """Fails on a tag that is closed twice or never, and gathers what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.written = ""
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag that closes itself opens nothing."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.written += data


def read(page: str) -> Balance:
    """The page, checked for balance."""
    balance = Balance()
    balance.feed(page)
    balance.close()
    assert not balance.open
    return balance


def test_the_page_needs_nothing_else_and_works_in_the_dark_and_on_a_phone() -> None:
    page = render(report())
    assert read(page).links == []
    assert "<script" not in page
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", page)
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_the_charts_are_well_formed_and_their_colours_are_defined() -> None:
    page = render(report())
    charts = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(charts) == 3
    for chart in charts:
        ElementTree.fromstring(chart)
    used = set(re.findall(r"var\((--[\w-]+)\)", page))
    assert used <= set(re.findall(r"(--[\w-]+):", page))


def test_the_numbers_are_on_the_page() -> None:
    written = read(render(report())).written
    for part in (".2113", ".2083 to .2143", "80,012", "12 dead letters", "1 refused; live: g1-h3", "1,404 MB", "equal", "g1-h2", "0.011"):
        assert part in written
    assert "hit_at_10 –" in written


def test_what_comes_from_data_is_escaped() -> None:
    page = render(report())
    assert "<b>enjoy" not in page
    assert "made-up <data>" not in page
    written = read(page).written
    assert "Use it & <b>enjoy</b>." in written
    assert "better by <0.004>" in written


def test_digests_that_differ_are_shouted() -> None:
    assert "NOT EQUAL" in render(replace(report(), digest_replay="abd"))


def test_a_report_of_nothing_is_a_page_too() -> None:
    nothing = np.zeros(0)
    bare = System("model", "", math.nan, math.nan, math.nan, nothing, nothing)
    page = render(replace(report(), systems=(bare,), decisions=(), visible_ms=nothing, lookup_ms=nothing))
    written = read(page).written
    assert written.count("nothing was measured") == 3
    assert "No candidate came up" in written


def test_writing_replaces_the_page_whole_and_leaves_nothing_aside(tmp_path: Path) -> None:
    path = tmp_path / "out" / "demo.html"
    write_report(path, report())
    write_report(path, replace(report(), data="second"))
    assert "second" in path.read_text(encoding="utf-8")
    assert [left.name for left in path.parent.iterdir()] == ["demo.html"]


def test_a_place_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        write_report(tmp_path / "file" / "demo.html", report())


def test_a_report_without_systems_is_refused() -> None:
    with pytest.raises(ValueError, match="0 systems"):
        replace(report(), systems=())


@pytest.mark.parametrize(("value", "wanted"), [(12345, "12,345"), (0.20571, "0.2057"), (1.0, "1"), (math.inf, "–"), (-0.004, "-0.004")])
def test_numbers_are_written_for_people(value: float, wanted: str) -> None:
    assert number(value) == wanted


def test_shares_are_written_as_the_protocol_prints_them() -> None:
    assert (share(0.21), share(1.0), share(math.nan)) == (".2100", "1.0000", "–")
