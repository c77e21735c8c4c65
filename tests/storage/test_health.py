"""Heartbeats: the last word of each process, bounded, and never a broken one."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from storage.health import KEPT_MS, Beat, Health

BEAT = Beat("serving-0", 41, at_ms=1_000, version="g1-h3", collection="items-g1", watermark=8123)


def test_the_last_word_of_each_process_is_read(tmp_path: Path) -> None:
    health = Health(tmp_path)
    health.beat(BEAT)
    health.beat(replace(BEAT, at_ms=2_000, watermark=9_000))
    health.beat(Beat("trainer", 42, at_ms=1_500))
    assert Health(tmp_path).read() == [replace(BEAT, at_ms=2_000, watermark=9_000), Beat("trainer", 42, at_ms=1_500)]
    assert health.alive(2_400, within_ms=500) == [replace(BEAT, at_ms=2_000, watermark=9_000)]


def test_a_clean_end_removes_the_record(tmp_path: Path) -> None:
    health = Health(tmp_path)
    health.beat(BEAT)
    health.forget(BEAT)
    health.forget(BEAT)
    assert health.read() == []


def test_records_are_bounded_and_the_oldest_go_first(tmp_path: Path) -> None:
    health = Health(tmp_path, records_max=3)
    for pid in range(1, 8):
        health.beat(replace(BEAT, pid=pid, at_ms=pid))
    assert [beat.pid for beat in health.read()] == [5, 6, 7]
    health.beat(replace(BEAT, pid=9, at_ms=KEPT_MS + 7))
    assert [beat.pid for beat in health.read()] == [7, 9]


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{}", b'{"process": "serving-0"', b'{"process":"x","pid":1,"at_ms":1}'])
def test_an_unreadable_record_is_left_out(tmp_path: Path, content: bytes) -> None:
    health = Health(tmp_path)
    health.beat(Beat("trainer", 42, at_ms=1_500))
    (tmp_path / "serving-0.41.json").write_bytes(content)
    assert health.read() == [Beat("trainer", 42, at_ms=1_500)]


def test_a_failing_rename_keeps_the_former_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    health = Health(tmp_path)
    health.beat(BEAT)

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="Input/output"):
        health.beat(replace(BEAT, at_ms=2_000))
    assert health.read() == [BEAT]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["", "../x", "a b", "a.b", "x" * 65])
def test_a_process_name_must_be_a_file_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="process name"):
        Health(tmp_path).beat(replace(BEAT, process=name))
