"""Groups, ladders, baselines and claims in words, for tables and figures.

Tables hold the names of groups and ladders, not their fields, so labels are read from these names. The words are those
of `lth_trainable.spec.words`, the one table of how a field is written in a name and for people.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lth_trainable.spec.naming import IMPORTED
from lth_trainable.spec.values import OF_CONTROLS
from lth_trainable.spec.words import FIELD_WORDS, name_part

SEEDS = ("seed", "order_seed")  # fields that make a replicate
_PLAIN_DENSE = "dense-e"  # how the baseline of a dense network begins, before its number of epochs
_FIRST = ("dataset", "model", "schedule")  # fields that a name begins with
_EXPONENT = re.compile(r"(?<=\d)e\.(?=\d)")  # 1e-05 is written 1e.05 in a name, whose parts hyphens divide
_NUMBER, _WORD, _TICKET = r"[\d.e+]+", r".+", r"[0-9a-f]{8}(?:\.e\d+)?"


@dataclass(frozen=True, kw_only=True)
class NamePart:
    """A part of a name between two hyphens. field: of the spec; None where several fields could be written so."""

    text: str
    field: str | None
    words: str


def name_parts(name: str) -> list[NamePart]:
    """The parts of the name of a trial, group or ladder, in order."""
    return [
        _part(text, _FIRST[i] if i < len(_FIRST) and text != "dense" else _field_of(text))
        for i, text in enumerate(name.split("-"))
    ]


def replicate_fields(trials: Iterable[str]) -> tuple[str, ...]:
    """The fields that make the replicates of a run, from the names of all its trials: also the split, if it is their
    seed's own (`--split-seed seed`), so that the split seed of each trial is its seed."""
    found = {_seed_and_split(trial) for trial in trials} - {None}
    return (*SEEDS, "split_seed") if is_own_split(pair for pair in found if pair is not None) else SEEDS


def is_own_split(seeds: Iterable[tuple[int, int]]) -> bool:
    """Whether each seed has a split of its own, from the pairs (seed, split seed) of all trials of a run."""
    pairs = set(seeds)
    return len(pairs) > 1 and all(seed == split for seed, split in pairs)


def group_name(trial: str, replicate: Collection[str] = SEEDS) -> str:
    """A trial's name without its seeds: `digits-lenet-imp-s64-r0-seed3` -> `digits-lenet-imp-s64-r0`.

    replicate: see `replicate_fields`.
    """
    return without_fields(trial, replicate)


def ladder_name(trial: str, replicate: Collection[str] = SEEDS) -> str:
    """The same without its target sparsity, for a trial or a group: `digits-lenet-imp-r0`."""
    return without_fields(trial, (*replicate, "target_sparsity_pct"))


def _seed_and_split(trial: str) -> tuple[int, int] | None:
    """The seed and the split seed in a trial's name; None if it has no seed. A split seed of 0 is not written."""
    seed, split = (re.search(rf"-{name}(\d+)(?=-|$)", trial) for name in ("seed", "split"))
    return None if seed is None else (int(seed[1]), int(split[1]) if split else 0)


def without_fields(name: str, fields: Collection[str]) -> str:
    """A name without the parts of these spec fields.

    Names are made of fields, but not again: that would need the defaults of every schedule, those of plug-ins too,
    which a machine that only reads results may not have.
    """
    return "-".join(part.text for part in name_parts(name) if part.field not in fields)


def short_labels(names: Sequence[str]) -> dict[str, str]:
    """Names of ladders or groups -> the shortest words that tell them apart, such as "rewind epoch 1".

    Parts that all names share are left out. A single name is labelled by everything but its data set and model.
    """
    found = {name: name_parts(name) for name in dict.fromkeys(names)}
    if len(found) == 1:
        return {name: in_words(parts[2:] or parts) for name, parts in found.items()}
    common = _common(list(found.values()))
    return {
        name: in_words([part for part in parts if part.text not in common] or parts[2:3])
        for name, parts in found.items()
    }


def common_label(names: Sequence[str]) -> str:
    """What all names share, in words: data set, model and whatever else none of them differs in."""
    found = [name_parts(name) for name in dict.fromkeys(names)]
    if len(found) == 1:
        return in_words(found[0][:2])
    common = _common(found)
    return in_words([part for part in found[0] if part.text in common]) if found else ""


def in_words(parts: Sequence[NamePart]) -> str:
    """Parts of a name for people: "digits, LeNet-300-100, IMP"."""
    return ", ".join(part.words for part in parts)


def both(labels: Sequence[str]) -> str:
    """Two labels in one, without repeating the words they begin with: "IMP, rewind epoch 0 and 1"."""
    if len(labels) == 1:
        return labels[0]
    one, other = (label.split(" ") for label in labels)
    n = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
    return f"{labels[0]} and {' '.join(other[n:])}"


def dense_label(baseline: str) -> str:
    """`dense-e20` -> "dense, 20 epochs"; `dense_restarts` -> "dense with restarts"."""
    if baseline.startswith(_PLAIN_DENSE):
        return f"dense, {baseline.removeprefix(_PLAIN_DENSE)} epochs"
    return control_label(baseline)


def control_label(baseline: str) -> str:
    """A baseline or control in words: `dense-e20` -> "dense", `random_mask` -> "random mask", `omp` -> "OMP"."""
    if baseline.startswith(_PLAIN_DENSE):
        return "dense"
    name, *settings = baseline.split("-")
    for field in ("control", "schedule", "retrain"):
        if name in FIELD_WORDS[field].values:
            return ", ".join([FIELD_WORDS[field].values[name], *(_setting(text).words for text in settings)])
    return baseline.replace("_", " ")


def control_name(row: Mapping[str, Any]) -> str:
    """What a control is called, with the settings that only controls have: "reinit", "sign_flip-flip5"."""
    settings = [name_part(field, row[field]) for field in OF_CONTROLS if row.get(field) is not None]
    return "-".join([row["control"], *settings])


def _setting(text: str) -> NamePart:
    return _part(text, _field_of(text))


def claim_label(row: Mapping[str, Any]) -> str:
    """What a row of verdicts claims: "beats random mask", "faster than dense", "winning", "secondary prize"."""
    if row["claim"] in ("matches", "beats"):
        return f"{row['claim']} {dense_label(row['baseline'])}"
    return {"faster": "faster than dense", "supermask": "a supermask"}.get(row["claim"], row["claim"].replace("_", " "))


def _common(names: Sequence[Sequence[NamePart]]) -> set[str]:
    """The parts that are in every name."""
    return set.intersection(*({part.text for part in parts} for parts in names)) if names else set()


@functools.cache
def _part(text: str, field: str | None) -> NamePart:
    if field == "schedule" and text == IMPORTED:
        return NamePart(text=text, field=field, words="imported")
    value = re.fullmatch(_pattern(field), text) if field else None
    words = _value_in_words(field, value[1]) if field and value else text.replace("_", " ")
    return NamePart(text=text, field=field, words=words)


def _value_in_words(field: str, value: str) -> str:
    if field == "ticket":
        return value  # after the word "imported"
    value = _EXPONENT.sub("e-", value)
    known = {str(key): words for key, words in FIELD_WORDS[field].values.items()}
    return known.get(value) or FIELD_WORDS[field].for_people.format(value.replace("_", " "))


@functools.cache
def _field_of(text: str) -> str | None:
    """The field whose values are written so in a name; None where only its value stands there."""
    marked = (name for name, words in FIELD_WORDS.items() if words.in_name != "{}")
    return next((name for name in marked if re.fullmatch(_pattern(name), text)), None)


def _pattern(field: str) -> str:
    before, after = FIELD_WORDS[field].in_name.split("{}")
    value = _TICKET if field == "ticket" else _WORD if before.endswith("_") or not before else _NUMBER
    return f"{re.escape(before)}({value}){re.escape(after)}"
