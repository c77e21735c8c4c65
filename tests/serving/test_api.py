"""The routes: what goes in, what comes out, and that nothing sent in makes them fail."""

import asyncio
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import httpx
import msgspec
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.api import create_app
from serving.bodies import ARROW, BODY_BYTES_MAX, MESSAGES_MAX
from serving.services import Engine
from storage.log import VALUE_BYTES_MAX, LogFull, Position
from storage.models import UnknownVersion
from stream.deadletters import DEAD_LETTERS
from stream.events import Event
from stream.ingest import EVENTS
from stream.wire import encode_pack
from tests.serving.small_site import Site


@pytest.fixture
def client(site: Site) -> Iterator[TestClient]:
    with TestClient(create_app(site.services()), raise_server_exceptions=False) as client:
        yield client


def event(site: Site, user: str = "u1", item: str = "m1") -> dict[str, Any]:
    return {"user_id": user, "action": "like", "item_id": item, "ts_ms": site.now_ms}


def is_problem(body: dict[str, Any]) -> bool:
    return set(body) == {"error", "value", "allowed", "do"} and bool(body["error"])


def test_an_event_posted_is_gone_from_the_next_answer(site: Site, client: TestClient) -> None:
    first = client.get("/v1/users/u1/recommendations?k=3").json()
    taken = first["items"][0]["item_id"]
    posted = client.post("/v1/events", json=event(site, item=taken))
    assert posted.status_code == 202 and posted.json()["appended"] == 1 and posted.json()["malformed"] == 0
    token = posted.json()["token"]
    stale = client.get(f"/v1/users/u1/recommendations?min_number={token['number']}").json()
    assert not stale["fresh"]
    site.run()
    fresh = client.get(f"/v1/users/u1/recommendations?min_number={token['number']}").json()
    assert fresh["fresh"] and fresh["as_of"]["number"] == token["number"] > first["as_of"]["number"]
    assert taken not in {item["item_id"] for item in fresh["items"]}
    assert (fresh["model"], fresh["generation"], fresh["index"]) == ("g1-h0", 1, first["index"])


def test_who_replays_a_log_says_what_time_it_is(site: Site, client: TestClient) -> None:
    path, later_ms = "/v1/users/u1/recommendations?k=3", site.now_ms + 3 * 86_400_000
    now, later = client.get(path).json(), client.get(f"{path}&at_ms={later_ms}").json()
    assert [item["score"] for item in later["items"]] != [item["score"] for item in now["items"]]
    told = site.lookup.recommend("u1", k=3, now_ms=later_ms)
    assert [item["item_id"] for item in later["items"]] == [item.item_id for item in told.items]
    for at_ms in (0, (1 << 47) - 1):
        answer = client.get(f"{path}&at_ms={at_ms}")
        assert answer.status_code == 200 and all(math.isfinite(item["score"]) for item in answer.json()["items"])


def test_a_caller_may_wait_for_its_own_event(site: Site, client: TestClient) -> None:
    token = client.post("/v1/events", json=event(site)).json()["token"]
    asking = threading.Event()

    def ready() -> bool:
        asking.set()
        return True

    def apply() -> None:
        assert asking.wait(10)
        site.run()

    services = replace(site.services(), ready=ready)
    applying = threading.Thread(target=apply)
    applying.start()
    with TestClient(create_app(services)) as waiting:
        answer = waiting.get(f"/v1/users/u1/recommendations?min_number={token['number']}&wait_ms=5000").json()
    applying.join()
    assert answer["fresh"] and answer["as_of"]["number"] == token["number"]


@pytest.mark.parametrize("kind", ["array", "lines", "lines by look", "pack"])
def test_many_events_in_every_form(site: Site, client: TestClient, kind: str) -> None:
    events = [event(site, user=f"n{n}") for n in range(3)]
    lines = b"\n".join(msgspec.json.encode(each) for each in events) + b"\r\n\n"
    content, content_type = {
        "array": (msgspec.json.encode(events), "application/json; charset=utf-8"),
        "lines": (lines, "application/x-ndjson"),
        "lines by look": (lines, "application/x-www-form-urlencoded"),
        "pack": (encode_pack([msgspec.convert(each, Event) for each in events]), ARROW),
    }[kind]
    before = sum(tally.accepted for tally in site.ingest.tallies.values())
    posted = client.post("/v1/events", content=content, headers={"content-type": content_type})
    site.run()
    assert posted.status_code == 202 and posted.json()["appended"] == (1 if kind == "pack" else 3)
    assert sum(tally.accepted for tally in site.ingest.tallies.values()) == before + 3


def test_a_bad_event_among_good_ones_becomes_a_dead_letter(site: Site, client: TestClient) -> None:
    posted = client.post("/v1/events", content=msgspec.json.encode([event(site), 7, {"user_id": "u"}]))
    assert posted.status_code == 202 and posted.json()["malformed"] == 2
    lines = b"not json at all\n" + msgspec.json.encode(event(site, user="u9")) + b"\n\xff\xfe"
    assert client.post("/v1/events", content=lines, headers={"content-type": "application/x-ndjson"}).json()["malformed"] == 2
    site.run()
    assert len(site.log.read(DEAD_LETTERS, 0, 0)) == 4


def test_a_body_that_cannot_be_read_is_refused_with_the_reason(client: TestClient, site: Site) -> None:
    end = site.log.next_number(EVENTS)
    simple = [b"", b"  \n", b"[]", b"7", b"null", b'"text"', b"nonsense", b"{", b"[1,", b"\xff\xfe\x00"]
    for body in (*simple, b"[" * 20_000, b'{"a":' * 20_000, b'{"a":1}}'):
        for route in ("/v1/events", "/v1/entities"):
            answer = client.post(route, content=body)
            assert answer.status_code == 400 and is_problem(answer.json()), body[:20]
    assert site.log.next_number(EVENTS) == end


def test_a_pack_that_is_no_arrow_stream_is_refused(client: TestClient) -> None:
    answer = client.post("/v1/events", content=b"PAR1", headers={"content-type": ARROW})
    assert answer.status_code == 400 and "Arrow" in answer.json()["error"]
    assert client.post("/v1/entities", content=b"PAR1", headers={"content-type": ARROW}).status_code == 415


def test_what_is_too_large_is_refused_whole(site: Site, client: TestClient) -> None:
    end = site.log.next_number(EVENTS)
    long = {**event(site), "query": "x" * VALUE_BYTES_MAX}
    for body in (msgspec.json.encode([event(site), long]), b" " * BODY_BYTES_MAX + b"{}", b"[" + b"1," * MESSAGES_MAX + b"1]"):
        answer = client.post("/v1/events", content=body)
        assert answer.status_code == 413 and is_problem(answer.json())
    assert site.log.next_number(EVENTS) == end


def test_a_full_log_is_507_and_says_what_to_do(site: Site) -> None:
    def full(messages: Sequence[bytes], form: int = 0) -> list[Position]:
        raise LogFull("the log holds 8 bytes, its bound is log_bytes_max=8; raise it")

    services = replace(site.services(), append_events=full, append_entities=full)
    with TestClient(create_app(services)) as client:
        for route in ("/v1/events", "/v1/entities"):
            answer = client.post(route, json=event(site))
            assert answer.status_code == 507 and "log_bytes_max" in answer.json()["error"] and answer.json()["do"]


def test_an_entity_posted_is_found_similar_and_a_deleted_one_is_gone(site: Site, client: TestClient) -> None:
    site.now_ms += 1000
    posted = client.post("/v1/entities", json=[{"kind": "item", "id": "shop/m7", "title": "red fox hides", "ts_ms": site.now_ms}])
    assert posted.status_code == 202 and posted.json()["token"]["topic"] == "entities"
    site.run()
    site.refresh(site.ids("shop/m7"))
    similar = client.get("/v1/items/shop%2Fm7/similar?k=2").json()
    assert {item["item_id"] for item in similar["items"]} == {"m1", "m2"} and similar["items"][0]["title"]
    assert "shop/m7" in {item["item_id"] for item in client.get("/v1/items/m1/similar").json()["items"]}
    client.post("/v1/entities", json={"kind": "item", "id": "shop/m7", "ts_ms": site.now_ms + 1, "deleted": True})
    site.run()
    assert client.get("/v1/items/shop/m7/similar").status_code == 404
    assert "shop/m7" not in {item["item_id"] for item in client.get("/v1/items/m1/similar").json()["items"]}


def test_an_unknown_item_is_404_and_so_is_an_unknown_path(client: TestClient) -> None:
    for path in ("/v1/items/nothing/similar", "/v1/nothing", "/", "/v1/users/u1"):
        answer = client.get(path)
        assert answer.status_code == 404 and is_problem(answer.json())
    answer = client.delete("/v1/events")
    assert answer.status_code == 405 and answer.headers["allow"] == "POST" and is_problem(answer.json())


def test_what_is_asked_is_checked(client: TestClient) -> None:
    for query in ("k=0", "k=101", "k=x", "k=", "min_number=-1", "wait_ms=5001", "wait_ms=nan", "at_ms=-1", "at_ms=soon"):
        answer = client.get(f"/v1/users/u1/recommendations?{query}")
        assert answer.status_code == 422 and is_problem(answer.json()) and query.partition("=")[0] in answer.json()["error"]


def test_an_id_has_a_length(client: TestClient) -> None:
    for name in ("", "x" * 257, "é" * 129):
        assert client.get(f"/v1/users/{name}/recommendations").status_code == 422
        assert client.get(f"/v1/items/{name}/similar").status_code == 422


def test_health_is_ingest_moving(site: Site, client: TestClient) -> None:
    def health(engine: Engine) -> int:
        site.engine = engine
        return int(client.get("/healthz").status_code)

    assert health(Engine(alive=True, lag_records=5, stuck_ms=10)) == 200
    assert health(Engine(alive=True, lag_records=0, stuck_ms=99_999_999)) == 200
    assert health(Engine(alive=True, lag_records=5, stuck_ms=30_001)) == 503
    assert health(Engine(alive=False, lag_records=0, stuck_ms=0)) == 503


def test_before_the_state_is_loaded_events_are_taken_and_look_ups_wait(site: Site, client: TestClient) -> None:
    assert client.get("/readyz").status_code == 200
    site.is_ready = False
    assert client.get("/readyz").status_code == 503
    assert client.get("/v1/users/u1/recommendations").status_code == 503
    assert client.get("/v1/items/m1/similar").status_code == 503
    assert client.post("/v1/events", json=event(site)).status_code == 202


def test_metrics_name_their_units_and_count(site: Site, client: TestClient) -> None:
    client.get("/v1/users/u1/recommendations")
    site.engine = Engine(alive=True, lag_records=7, stuck_ms=0, dirty_items=3)
    site.metrics.events_accepted.inc(5)
    site.metrics.visible_seconds.observe(0.004)
    site.metrics.model("g1-h0", generation=1, collection="items-g1")
    site.metrics.model("g1-h1", generation=1, collection="items-g1")
    for n in range(40):
        site.metrics.dead_letters(f"reason {n}")
    lines = client.get("/metrics").text.splitlines()
    for line in (
        "freshet_lag_records 7.0",
        "freshet_dirty_items 3.0",
        "freshet_events_accepted_total 5.0",
        "freshet_lookup_seconds_count 1.0",
        "freshet_visible_seconds_count 1.0",
        'freshet_model_info{collection="items-g1",generation="1",version="g1-h1"} 1.0',
        'freshet_dead_letters_total{reason="other"} 8.0',
        "freshet_promotions_total 0.0",
        "freshet_refusals_total 0.0",
    ):
        assert line in lines
    assert not any("g1-h0" in line for line in lines)


def test_status_is_what_the_roof_says(client: TestClient) -> None:
    assert client.get("/v1/status").json()["tallies"]["0"]["accepted"] > 0


def test_an_error_of_ours_is_json_and_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> dict[str, object]:
        raise RuntimeError("no such luck")

    with TestClient(create_app(replace(site.services(), status=broken)), raise_server_exceptions=False) as client:
        answer = client.get("/v1/status")
    assert answer.status_code == 500 and is_problem(answer.json()) and "no such luck" not in answer.text
    assert "api.failed" in caplog.text


PIECES = st.lists(st.sampled_from([b"{}", b"[", b"[]", b'{"a":1}', b"\xff", b"1", b","]))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    route=st.sampled_from(["/v1/events", "/v1/entities"]),
    body=st.binary(max_size=200) | st.builds(b"\n".join, PIECES),
    content_type=st.sampled_from(["", "application/json", "application/x-ndjson", ARROW, "text/plain", "é/;"]),
)
def test_no_body_makes_it_fail(client: TestClient, route: str, body: bytes, content_type: str) -> None:
    answer = client.post(route, content=body, headers={"content-type": content_type.encode()})
    assert answer.status_code in {202, 400, 415}
    assert answer.status_code == 202 or is_problem(answer.json())


def test_those_who_wait_keep_nobody_from_being_answered_and_are_answered_when_it_is_applied(site: Site, client: TestClient) -> None:
    token = client.post("/v1/events", json=event(site)).json()["token"]
    path = f"/v1/users/u1/recommendations?min_number={token['number']}&wait_ms=5000"

    async def ask() -> tuple[list[bool], bool]:
        transport = httpx.ASGITransport(create_app(site.services()))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as asked:
            waiting = [asyncio.create_task(asked.get(path)) for _ in range(100)]
            others = [await asked.get("/v1/users/u2/recommendations")]
            while len(site.lookup.progress._calls) < len(waiting):
                others.append(await asked.get("/v1/users/u2/recommendations"))
            none_was_answered = not any(task.done() for task in waiting)
            site.run()
            return [reply.json()["fresh"] for reply in await asyncio.gather(*waiting)], none_was_answered and all(
                reply.status_code == 200 for reply in others
            )

    fresh, answered_beside = asyncio.run(ask())
    assert answered_beside
    assert fresh == [True] * 100
    assert not site.lookup.progress._calls


def test_a_wait_that_runs_out_is_forgotten(site: Site, client: TestClient) -> None:
    answer = client.get("/v1/users/u1/recommendations?min_number=1000000&wait_ms=1").json()
    assert not answer["fresh"]
    assert not site.lookup.progress._calls


def test_who_is_given_no_way_back_has_no_such_route_and_who_is_goes_one_step(site: Site, client: TestClient) -> None:
    assert client.get("/v1/models").status_code == client.post("/v1/models/roll-back").status_code == 404
    before = ["g1-1"]

    def roll_back() -> str:
        if not before:
            raise UnknownVersion("cannot roll back: g1-1 has no predecessor on record; stored: g1-1")
        return before.pop()

    offered = replace(site.services(), models=lambda: {"live": None}, roll_back=roll_back)
    with TestClient(create_app(offered), raise_server_exceptions=False) as other:
        assert other.get("/v1/models").json() == {"live": None}
        assert other.post("/v1/models/roll-back").json() == {"version": "g1-1"}
        refused = other.post("/v1/models/roll-back")
        assert refused.status_code == 409
        assert "no predecessor on record" in refused.json()["error"]
        assert "/v1/models" in refused.json()["do"]
        assert other.get("/v1/models/roll-back").status_code == 405, "nobody rolls back by following a link"
