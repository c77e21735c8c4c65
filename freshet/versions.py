"""What an operator asks of a registry: which versions there are, which is live, what was decided; and the one before live again, on record.

told = described(registry); back = rolled_back(registry, now_ms=now_ms)
"""

from typing import Any, Final

import msgspec

from storage.models import Live, Models

ROLL_BACK: Final = "roll-back"
"""The kind of such a record; a gate's decision has the training's: trunk or head."""


def described(registry: Models, *, candidate: str | None = None) -> dict[str, Any]:
    """As JSON: the live record, the version proposed to all, the versions and the decisions, both oldest first. Raises `Damaged`."""
    live = registry.live()
    return {
        "live": msgspec.to_builtins(live) if live else None,
        "candidate": candidate,
        "versions": [msgspec.to_builtins(version) for version in registry.versions()],
        "decisions": registry.decisions(),
    }


def rolled_back(registry: Models, *, now_ms: int, because: str = "by command") -> Live:
    """In order: 1. the record goes back to the live version's predecessor, 2. that is written down beside the gate's decisions.

    Raises `UnknownVersion` when there is none, `StaleRecord` when another flip came between, `Damaged`: then nothing has changed.
    """
    live = registry.live()
    back = registry.roll_back(expected_sequence=live.sequence if live else 0)
    assert live is not None, "who has nothing live has no predecessor"
    registry.record(
        {
            "version": back.version, "kind": ROLL_BACK, "promoted": True, "reason": f"rolled back from {live.version} {because}",
            "numbers": {}, "at_ms": now_ms,
        }
    )  # fmt: skip
    return back


def word_of(decision: dict[str, Any]) -> str:
    """What became of the version that a decision names."""
    if decision.get("kind") == ROLL_BACK:
        return "live again"
    return "promoted" if decision["promoted"] else "refused"
