"""How a command reaches a data folder: over HTTP when a server runs on it, else by opening it.

with access(settings, url=None) as site: site.append(entries); print(site.recommend("u1", k=10))
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import quote

import httpx
import msgspec

from freshet.settings import Settings
from storage.log import PACK, Entry, Position
from stream.producer import LINGER_EVENTS, Limits, Producer

SERVER_FILE = "server.json"
"""In a data folder: where the server that holds it listens."""
ARROW = "application/vnd.apache.arrow.stream"
LINES = "application/x-ndjson"
RAW = "application/octet-stream"
TIMEOUT_S = 30.0


class Unreachable(RuntimeError):
    """The server did not answer, or answered with an error; the message says what to do."""


class Place(Protocol):
    """Where a file can be published."""

    def producer(self) -> Producer:
        """What sends events there, in order."""

    def append_entities(self, bodies: Sequence[bytes]) -> None:
        """Append entity messages durably, in order."""

    def settle(self) -> None:
        """Have everything that was appended applied, where that is this process's to do."""


class Site(Place, Protocol):
    """What the commands need of a data folder, however it is reached."""

    def append(self, entries: Sequence[Entry]) -> list[Position]:
        """Append events durably, in order."""

    def recommend(self, user_id: str, k: int) -> dict[str, Any]:
        """An answer as JSON."""

    def status(self) -> dict[str, Any]:
        """What `freshet lag` prints."""

    def models(self) -> dict[str, Any]:
        """What `freshet models list` prints."""

    def roll_back(self) -> str:
        """Make the version before the live one live again; its name. Raises as `Serving.roll_back`."""


class HttpSite:
    """A running server: `with HttpSite(url) as site`."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        try:
            self._client = httpx.Client(base_url=self._url, timeout=TIMEOUT_S)
        except httpx.InvalidURL as error:
            raise Unreachable(f"{self._url} is no URL ({error}): it looks like http://127.0.0.1:8080") from error

    def __enter__(self) -> "HttpSite":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._client.close()

    def producer(self) -> Producer:
        """One that packs where the server has one partition: it routes single events, and takes no pack apart."""
        return Producer(self.append, limits=Limits(linger_events=1 if len(self.status()["partitions"]) > 1 else LINGER_EVENTS))

    def append(self, entries: Sequence[Entry]) -> list[Position]:
        """POST each pack, and JSON messages one by one: bytes that are no JSON must arrive as they are."""
        found = []
        for entry in entries:
            kind = ARROW if entry.form == PACK else LINES if _is_object(entry.value) else RAW
            token = self._ask("POST", "/v1/events", content=entry.value, headers={"content-type": kind})["token"]
            found.append(Position(token["partition"], token["offset"], token["number"]))
        return found

    def append_entities(self, bodies: Sequence[bytes]) -> None:
        """POST them as lines."""
        self._ask("POST", "/v1/entities", content=b"\n".join(bodies), headers={"content-type": "application/x-ndjson"})

    def recommend(self, user_id: str, k: int) -> dict[str, Any]:
        """GET the route an application uses."""
        segment = quote(user_id, safe="").replace(".", "%2E")  # an id may be any text: "a/b", "50%", ".."
        return self._ask("GET", f"/v1/users/{segment}/recommendations", params={"k": k})

    def status(self) -> dict[str, Any]:
        """GET /v1/status."""
        return self._ask("GET", "/v1/status")

    def models(self) -> dict[str, Any]:
        """GET /v1/models."""
        return self._ask("GET", "/v1/models")

    def roll_back(self) -> str:
        """POST /v1/models/roll-back: the server answers from the earlier version from then on."""
        return str(self._ask("POST", "/v1/models/roll-back")["version"])

    def digest(self) -> dict[str, Any]:
        """GET /v1/digest: the digest of the live state, and the append number it stands at."""
        return self._ask("GET", "/v1/digest")

    def settle(self) -> None:
        """The server applies by itself; wait for the end of what was appended."""
        end = sum(row["end"] for row in self.status()["partitions"])
        if end:
            self._ask("GET", "/v1/users/nobody/recommendations", params={"k": 1, "min_number": end - 1, "wait_ms": 5000})

    def _ask(self, method: str, path: str, **how: Any) -> dict[str, Any]:
        try:
            reply = self._client.request(method, path, **how)
        except httpx.HTTPError as error:
            raise Unreachable(f"{self._url} does not answer ({error}): is `freshet serve` running there?") from error
        if reply.status_code >= 400:
            raise Unreachable(f"{self._url}{path} answered {reply.status_code}: {reply.text[:500]}")
        found: dict[str, Any] = reply.json()
        return found


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(body), dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def server_url(settings: Settings) -> str:
    """Where the server of this folder listens. Raises `Unreachable` when whoever holds the folder is none."""
    found = settings.data / SERVER_FILE
    if not found.exists():
        raise Unreachable(f"{settings.data} is in use by a process that is no server: wait for it to end")
    return str(msgspec.json.decode(found.read_bytes())["url"])


@contextmanager
def access(settings: Settings, url: str | None) -> Iterator[Site]:
    """The server at `url`, else the one that holds the folder, else the folder itself. Raises `Unreachable`, `FolderBusy`."""
    if url:
        with HttpSite(url) as site:
            yield site
        return
    from freshet.engine import Engine, FolderBusy  # takes a second to load, and what opens a folder five: to ask a server needs neither

    try:
        engine = Engine(settings)
    except FolderBusy:
        with HttpSite(server_url(settings)) as site:
            yield site
        return
    from freshet.opened import opened

    with engine, opened(engine) as site:
        yield site
