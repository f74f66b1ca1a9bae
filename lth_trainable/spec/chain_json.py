"""Segments as JSON, for files that say what a trial has trained so far."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from lth_trainable.spec.segments import Segment


def chain_as_json(chain: Sequence[Segment]) -> list[dict[str, Any]]:
    """Segments as JSON; `chain_from_json` reads them."""
    return [
        {
            "kind": s.kind, "level": s.level, "start": s.start, "end": s.end, "sparsity": str(s.sparsity), "key": s.key,
            "output_sparsity": None if s.output_sparsity is None else str(s.output_sparsity), "line": s.line,
        }
        for s in chain
    ]  # fmt: skip


def chain_from_json(content: Any) -> tuple[Segment, ...]:
    """The segments that `chain_as_json` has written. Raises KeyError, TypeError or ValueError for anything else."""
    return tuple(
        Segment(
            kind=str(s["kind"]), level=int(s["level"]), start=int(s["start"]), end=int(s["end"]),
            sparsity=Fraction(s["sparsity"]), key=str(s["key"]), line=str(s["line"]),
            output_sparsity=None if s["output_sparsity"] is None else Fraction(s["output_sparsity"]),
        )
        for s in content
    )  # fmt: skip
