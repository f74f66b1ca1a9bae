"""The margin in proportion: the images that it stands for, and what another order of the data changes. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.tables.schema import Row
from analysis.text import signed
from analysis.verdicts.answer import setting


def margin(rows: Sequence[Row]) -> str:
    """The margin in images of the test split: "margin 1 pp = 3.6 of 360 images". rows: headlines."""
    said = f"margin {rows[0]['margin_pp']:g} pp"
    coarsest = max((row["resolution"] for row in rows if row["resolution"] is not None), default=None)
    if not coarsest:
        return said
    images = rows[0]["margin_pp"] / coarsest
    return f"{said} = {images:.{1 if images < 99.95 else 0}f} of {100 / coarsest:,.0f} images"


def again(rows: Sequence[Row]) -> list[str]:
    """What dense networks differ by in another order of the data, a sentence for each setting that has them."""
    found = {setting(row): row for row in reversed(rows) if row["primary"] and row.get("again_n_pairs")}
    named = len({setting(row) for row in rows if row["primary"]}) > 1
    return [
        f"dense against dense in another order of the data{f' ({name})' if named else ''}: {_difference(row)}"
        for name, row in reversed(found.items())
    ]


def _difference(row: Row) -> str:
    if row["again_ci_low_pp"] is None:
        return f"{signed(row['again_effect_pp'])} pp, 1 seed"
    interval = f"[{signed(row['again_ci_low_pp'])}, {signed(row['again_ci_high_pp'])}]"
    return f"{signed(row['again_effect_pp'])} {interval} pp, sd {row['again_sd_pp']:.2f}, {row['again_n_pairs']} seeds"
