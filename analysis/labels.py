"""Short labels of ladders, groups, baselines and claims, for people."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any


def short_labels(names: Sequence[str]) -> dict[str, str]:
    """Names of ladders or groups -> the shortest words that tell them apart, such as "rewind epoch 1".

    Parts that all the names share are left out (of a single name: data set and model).
    """
    split = {name: name.split("-") for name in dict.fromkeys(names)}
    if len(split) == 1:
        return {name: pretty(parts[2:] or parts) for name, parts in split.items()}
    common = set.intersection(*(set(parts) for parts in split.values())) if split else set()
    return {name: pretty([part for part in parts if part not in common] or parts[2:3]) for name, parts in split.items()}


def common_label(names: Sequence[str]) -> str:
    """What the names share, in words: data set, model and whatever else none of them differs in."""
    split = [name.split("-") for name in dict.fromkeys(names)]
    if not split:
        return ""
    if len(split) == 1:
        return pretty(split[0][:2])
    return pretty([part for part in split[0] if all(part in other for other in split)])


def dense_label(baseline: str) -> str:
    """`dense-e20` -> "dense, 20 epochs"; `dense_restarts` -> "dense with restarts"."""
    if baseline.startswith("dense-e"):
        return f"dense, {baseline.removeprefix('dense-e')} epochs"
    return control_label(baseline)


def control_label(baseline: str) -> str:
    """A baseline in running words: `dense-e20` -> "dense", `random_mask` -> "random mask", `reinit` -> itself."""
    if baseline.startswith("dense-e"):
        return "dense"
    return _CONTROLS.get(baseline, baseline.replace("_", " "))


def claim_label(row: Mapping[str, Any]) -> str:
    """What a row claims, in words: "beats random mask", "faster than dense", "winning", "secondary prize"."""
    if row["claim"] in ("matches", "beats"):
        return f"{row['claim']} {dense_label(row['baseline'])}"
    return {"faster": "faster than dense", "supermask": "a supermask"}.get(row["claim"], row["claim"].replace("_", " "))


_CONTROLS = {
    "dense_restarts": "dense with restarts", "small_dense": "small dense", "layerwise_shuffle": "shuffled mask",
    "random_sparse": "random sparse network", "sign_shuffle": "shuffled signs", "reinit": "reinitialisation",
    "omp": "OMP", "lr_rewinding": "LR rewinding", "fine_tuning": "fine-tuning",
}  # fmt: skip
_PRETTY = {
    "ticket": "imported",
    "imp": "IMP", "omp": "OMP", "one_shot": "one shot", "agp": "AGP", "dsd": "DSD",
    "supermask_True": "supermask", "retrain_none": "no rewinding", "retrain_lr_rewinding": "LR rewinding",
    "retrain_fine_tuning": "fine-tuning", "lenet_300_100": "LeNet-300-100",
}  # fmt: skip
_PATTERNS = (
    (re.compile(r"r(\d+)"), "rewind epoch {}"),
    (re.compile(r"t([0-9a-f]{8}(\.e\d+)?)"), "{}"),
    (re.compile(r"r(\d+)it"), "rewind iteration {}"),
    (re.compile(r"s([\d.]+)"), "{} %"),
    (re.compile(r"e(\d+)"), "{} epochs"),
    (re.compile(r"p([\d.]+)"), "{} % a level"),
    (re.compile(r"lr([\d.e]+)"), "learning rate {}"),
    (re.compile(r"bs(\d+)"), "batch {}"),
    (re.compile(r"val(\d+)"), "validated every {}"),
    (re.compile(r"steps(\d+)"), "{} steps"),
    (re.compile(r"start([\d.]+)"), "start {}"),
    (re.compile(r"end([\d.]+)"), "end {}"),
)


def pretty(parts: Sequence[str]) -> str:
    """Parts of a trial's name in words."""
    return ", ".join(_pretty_part(part) for part in parts)


def _pretty_part(part: str) -> str:
    if part in _PRETTY:
        return _PRETTY[part]
    for pattern, text in _PATTERNS:
        if found := pattern.fullmatch(part):
            return text.format(found[1])
    return part.replace("_", " ")
