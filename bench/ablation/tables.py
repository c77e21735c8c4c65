"""The table: each variant beside what it is read against, the paper's direction beside ours.

rows = rows_of({"OmniSage": [figures of seed 0, ...], "no graph": [...]}); page = html(rows, "ml-1m_sas.txt", 1200)
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

import numpy as np

from bench.ablation.variants import VARIANTS

FIGURES: Final = ("UE_NDCG@10", "UE_HR@10", "EE_NDCG@10", "EE_HR@10")
FLAT: Final = 0.03
"""Changes below that hardly are any; papers, 1.6: flat, < 3 %."""


def rows_of(found: Mapping[str, Sequence[Mapping[str, float]]]) -> list[dict[str, object]]:
    """Means over seeds, their change against the variant each is read against, seed by seed, and whether the paper's direction holds."""
    rows = []
    for name, runs in found.items():
        variant = VARIANTS[name]
        row: dict[str, object] = {"variant": name, "says": variant.says, "against": variant.against, "paper": variant.paper}
        row |= {figure: float(np.mean([run[figure] for run in runs])) for figure in FIGURES}
        row |= {what: float(np.mean([run[what] for run in runs])) for what in ("steps", "best_step", "seconds")}
        for kind in ("UE", "EE"):
            pairs = list(zip(runs, found[variant.against], strict=True))
            changes = [run[f"{kind}_NDCG@10"] / max(base[f"{kind}_NDCG@10"], 1e-12) - 1 for run, base in pairs]
            row |= {f"{kind}_change": float(np.mean(changes)), f"{kind}_changes": changes}
        rows.append(row | {"verdict": _verdict(name, row)})
    return rows


def _verdict(name: str, row: Mapping[str, object]) -> str:
    """By what the variant is about: EE where it is asked by the last item, else UE."""
    variant = VARIANTS[name]
    if variant.against == name:
        return ""
    changes = row["EE_changes" if variant.by_last_item else "UE_changes"]
    assert isinstance(changes, list), "a row holds its changes by seed"
    mean = float(np.mean(changes))
    seen = "flat" if abs(mean) < FLAT else "up" if mean > 0 else "down"
    agreed = all((change > 0) == (mean > 0) for change in changes) or seen == "flat"
    wanted = "flat" if variant.down is None else "down" if variant.down else "up"
    if not agreed:
        return f"{seen}, but not with every seed"
    if variant.paper in ("", "not published"):
        return seen
    return f"{seen}, as in the paper" if seen == wanted else f"{seen}; the paper: {wanted}"


def html(rows: Sequence[Mapping[str, object]], data: str, steps: int) -> str:
    """A page with a bar for each change."""
    lines = "".join(_line(row) for row in rows)
    return (
        f"<!doctype html><meta charset=utf-8><title>Ablation, {escape(data)}</title>{_STYLE}"
        f"<h1>{escape(data)}: what each part is worth</h1><p>{steps} steps a run; NDCG@10 among all items not yet had; means over seeds, "
        "dots are seeds. UE: asked by the user's vector, EE: by the last item's.</p><table><tr><th>variant<th>read against<th>UE<th>change"
        f"<th>EE<th>change<th>paper<th>here</tr>{lines}</table>\n"
    )


def _line(row: Mapping[str, object]) -> str:
    cells = [f"<b>{escape(str(row['variant']))}</b><br><small>{escape(str(row['says']))}</small>", escape(str(row["against"]))]
    for kind in ("UE", "EE"):
        changes = row[f"{kind}_changes"]
        assert isinstance(changes, list), "a row holds its changes by seed"
        cells += [f"{row[f'{kind}_NDCG@10']:.4f}", _bar(changes)]
    cells += [escape(str(row["paper"])), escape(str(row["verdict"]))]
    return "<tr>" + "".join(f"<td>{cell}" for cell in cells) + "</tr>"


def _bar(changes: Sequence[float]) -> str:
    """From -100 % to +100 %, zero in the middle."""
    mean = float(np.clip(np.mean(changes), -1, 1))
    left, width = 60 + 60 * min(0.0, mean), 60 * abs(mean)
    dots = "".join(f'<circle cx="{60 + 60 * float(np.clip(change, -1, 1)):.1f}" cy="9" r="2"/>' for change in changes)
    return (
        f'<svg width=120 height=18 role=img aria-label="{mean:+.1%}"><rect x="{left:.1f}" y=3 width="{width:.1f}" height=12 '
        f'class="{"up" if mean > 0 else "down"}"/><path d="M60 0V18"/>{dots}</svg> {mean:+.1%}'
    )


_STYLE: Final = (
    "<style>body{font:15px system-ui;margin:2em;color:#222}table{border-collapse:collapse}td,th{padding:.3em .7em;text-align:left;"
    "border-bottom:1px solid #ddd}small{color:#666}.up{fill:#2a9d5c}.down{fill:#d1603d}path{stroke:#999}circle{fill:#222}</style>"
)
