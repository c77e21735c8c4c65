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


def shadow_of(decision: dict[str, Any]) -> str:
    """What was seen of the version in shadow, in words; empty if it was not there."""
    numbers = decision["numbers"]
    if "shadow_lookups" not in numbers:
        return ""
    ranked, failed, dropped = (numbers[f"shadow_{name}"] for name in ("lookups", "failed", "dropped"))
    told = f"{ranked:.0f} look-ups in shadow"
    if ranked > failed:
        told += f", {numbers['shadow_overlap']:.0%} of the live answers given too, {numbers['shadow_mean_ms']:.1f} ms each"
    return told + "".join(f", {count:.0f} {what}" for count, what in ((failed, "failed"), (dropped, "dropped")) if count)


def word_of(decision: dict[str, Any]) -> str:
    """What became of the version that a decision names."""
    if decision.get("kind") == ROLL_BACK:
        return "live again"
    return "promoted" if decision["promoted"] else "refused"
