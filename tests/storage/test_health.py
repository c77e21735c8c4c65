"""Heartbeats: the last word of each process, bounded, and never a broken one; in a folder and in Redis."""

import os
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from storage.health import KEPT_MS, RECORDS_MAX, Beat, Beats, Health
from storage.health_redis import RedisHealth
from tests.services import redis_server


class FolderSite:
    """Beats in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def opened(self, records_max: int = RECORDS_MAX) -> Beats:
        return Health(self._folder, records_max)

    def put(self, key: str, data: bytes) -> None:
        (self._folder / f"{key}.json").write_bytes(data)


class RedisSite:
    """Beats under one prefix of the shared Redis."""

    def __init__(self, _: Path | None = None) -> None:
        self.url, self.prefix = redis_server().url, uuid.uuid4().hex
        self.client = redis.Redis.from_url(self.url)

    def opened(self, records_max: int = RECORDS_MAX) -> Beats:
        return RedisHealth(redis.Redis.from_url(self.url), self.prefix, records_max=records_max)

    def put(self, key: str, data: bytes) -> None:
        self.client.hset(f"{self.prefix}:health", key, data)


Site = FolderSite | RedisSite


@pytest.fixture(params=[FolderSite, RedisSite])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    made: Site = request.param(tmp_path)
    return made


BEAT = Beat("serving-0", 41, at_ms=1_000, version="g1-h3", collection="items-g1", watermark=8123)


def test_the_last_word_of_each_process_is_read(site: Site) -> None:
    health = site.opened()
    health.beat(BEAT)
    health.beat(replace(BEAT, at_ms=2_000, watermark=9_000))
    health.beat(Beat("trainer", 42, at_ms=1_500))
    assert site.opened().read() == [replace(BEAT, at_ms=2_000, watermark=9_000), Beat("trainer", 42, at_ms=1_500)]
    assert health.alive(2_400, within_ms=500) == [replace(BEAT, at_ms=2_000, watermark=9_000)]


def test_a_clean_end_removes_the_record(site: Site) -> None:
    health = site.opened()
    health.beat(BEAT)
    health.forget(BEAT)
    health.forget(BEAT)
    assert health.read() == []


def test_records_are_bounded_and_the_oldest_go_first(site: Site) -> None:
    health = site.opened(records_max=3)
    for pid in range(1, 8):
        health.beat(replace(BEAT, pid=pid, at_ms=pid))
    assert [beat.pid for beat in health.read()] == [5, 6, 7]
    health.beat(replace(BEAT, pid=9, at_ms=KEPT_MS + 7))
    assert [beat.pid for beat in health.read()] == [7, 9]


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{}", b'{"process": "serving-0"', b'{"process":"x","pid":1,"at_ms":1}'])
def test_an_unreadable_record_is_left_out(site: Site, content: bytes) -> None:
    health = site.opened()
    health.beat(Beat("trainer", 42, at_ms=1_500))
    site.put("serving-0.41", content)
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
def test_a_process_name_must_be_a_file_name(site: Site, name: str) -> None:
    with pytest.raises(ValueError, match="process name"):
        site.opened().beat(replace(BEAT, process=name))


def test_in_redis_who_beats_while_others_are_weeded_out_stays() -> None:
    site = RedisSite()
    site.opened().beat(replace(BEAT, pid=1, at_ms=1))

    class Meanwhile(redis.Redis):
        def hgetall(self, name: str) -> object:  # type: ignore[override]  # between the reading and the weeding
            found = super().hgetall(name)
            site.opened().beat(replace(BEAT, pid=1, at_ms=9))
            return found

    RedisHealth(Meanwhile.from_url(site.url), site.prefix, records_max=1).beat(replace(BEAT, pid=2, at_ms=8))
    assert [(beat.pid, beat.at_ms) for beat in site.opened().read()] == [(1, 9), (2, 8)]
    site.opened(records_max=1).beat(replace(BEAT, pid=2, at_ms=10))
    assert [(beat.pid, beat.at_ms) for beat in site.opened().read()] == [(2, 10)]


def test_in_redis_the_bound_counts_what_cannot_be_read_too() -> None:
    site = RedisSite()
    site.put("serving-0.41", b"{")
    site.opened().beat(Beat("trainer", 42, at_ms=1_500))
    assert site.client.hkeys(f"{site.prefix}:health") == [b"trainer.42"]
