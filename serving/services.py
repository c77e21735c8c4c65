"""What the API is given to work with: ready objects and callables, wired by the roof.

app = create_app(Services(lookup=lookup, append_events=append, ...))
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from serving.lookup import Lookup
from serving.metrics import Metrics
from storage.log import Position


@dataclass(frozen=True)
class Engine:
    """How ingest is doing. `stuck_ms`: since when records wait with none applied, 0 when none wait."""

    alive: bool
    lag_records: int
    stuck_ms: int
    dirty_items: int = 0


@dataclass(frozen=True)
class Services:
    """Everything behind the routes; all callables may be called from any thread.

    `append_events(messages, form)` and `append_entities(messages)` append durably and in order, all or nothing, and return
    one position per message; both may raise `LogFull`. `digest` is the live state's, with the append number it stands at.
    `status` is what the command line prints of lag. `ready` says when the state is loaded. `clock_ms` is UTC milliseconds.
    `models` tells the versions and what was decided of them; `roll_back` returns the name of the version that answers from then on and
    raises `UnknownVersion` when there is none before the live one. An app without them has no such route: a cluster's has not. `answered`
    is told whom a look-up has answered, and how many items were asked for.
    """

    lookup: Lookup
    append_events: Callable[[Sequence[bytes], int], Sequence[Position]]
    append_entities: Callable[[Sequence[bytes]], Sequence[Position]]
    engine: Callable[[], Engine]
    status: Callable[[], Mapping[str, object]]
    digest: Callable[[], Mapping[str, object]]
    ready: Callable[[], bool]
    metrics: Metrics
    clock_ms: Callable[[], int]
    models: Callable[[], Mapping[str, object]] | None = None
    roll_back: Callable[[], str] | None = None
    answered: Callable[[str, int], None] = lambda user_id, k: None
    stuck_ms_max: int = 30_000
