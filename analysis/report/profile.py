"""Where the time of a run's trials went, for the report: a bar, a table and two sentences. Only with `--profile`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.tables.profile_schema import PART_WORDS
from analysis.tables.schema import Row
from analysis.text import plural

_COLUMNS = ("wall", "idle", "floor", *PART_WORDS)  # those that are sums of seconds


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the time of all trials. seconds: of all together. share: percent of their wall time."""

    name: str
    words: str
    seconds: float
    share: float


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The parts, the longest first, and what there is to say."""

    parts: Sequence[Part]
    sentences: Sequence[str]


def profile_view(trials: Sequence[Row]) -> Profile | None:
    """Sums over the trials that were profiled; None if none was."""
    found = [row for row in trials if row.get("profile_wall_seconds")]
    if not found:
        return None
    sums = {name: sum(row[f"profile_{name}_seconds"] or 0.0 for row in found) for name in _COLUMNS}
    parts = [
        Part(name=name, words=words, seconds=sums[name], share=100 * sums[name] / sums["wall"])
        for name, words in PART_WORDS.items()
        if sums[name] > 0
    ]
    parts.sort(key=lambda part: -part.seconds)
    return Profile(parts=parts, sentences=[s for s in (_wall(found, sums), _kernels(found), _floor(found, sums)) if s])


def _wall(found: Sequence[Row], sums: dict[str, float]) -> str:
    return (
        f"{plural(len(found), 'profiled trial')} took {sums['wall']:,.1f} s together; before them their workers were "
        f"starting or without a trial for {sums['idle']:,.1f} s."
    )


def _kernels(found: Sequence[Row]) -> str | None:
    shares: list[Any] = [row["profile_kernel_share"] for row in found if row["profile_kernel_share"] is not None]
    if not shares:
        return None
    mean = 100 * sum(shares) / len(shares)
    return f"While a trial was training, the GPU worked for it {mean:.0f} % of the time (mean of {len(shares)})."


def _floor(found: Sequence[Row], sums: dict[str, float]) -> str | None:
    peaks = [row["profile_peak_multiply_adds"] for row in found if row["profile_peak_multiply_adds"]]
    if not peaks or not sums["training"]:
        return None
    share = 100 * sums["floor"] / sums["training"]
    return (
        f"The multiply-adds of their training take at least {sums['floor']:,.2f} s at the measured peak of a matrix "
        f"product ({max(peaks):.2g} a second): {share:.2g} % of the time of training."
    )
