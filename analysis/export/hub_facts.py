"""What is known about a trial that goes to the Hub: record, network, and what its run says of trials like it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.gather import collect
from analysis.labels import claim_label
from analysis.report.terminal import is_other_claim
from analysis.tables.run_plan import read_plan, role_of
from analysis.tables.schema import Row
from analysis.verdicts.headlines import headlines
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import PLAN, Store

# Flags of a sweep that say where it runs: they name places of the author's machine, and do not change the result
PLACES = ("--storage", "--data-root", "--cluster", "--address")
LIMITS = ("--max-hours",)  # ends a command early; who repeats it to the end has another limit
_FOLDERS = re.compile(r"""(?:(?<![^\s='"(])|(?<=\[))(?:~|/|[A-Za-z]:\\|[A-Za-z][A-Za-z0-9+.-]*://)(?:[^\s'"]*[/\\])?""")


@dataclass(frozen=True, kw_only=True)
class Definition:
    """How a repository defines its network. made: the call that makes it; source: of the class, if it is a class.

    library: that the call needs beside torch, if it does. made is empty if the network cannot be defined.
    """

    made: str = ""
    source: str = ""
    library: str = ""

    @property
    def needs(self) -> str:
        return f"torch, {self.library} and safetensors" if self.library else "torch and safetensors"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What a run says of a trial and of those that differ from it in the seed only.

    role: "ticket", "dense", "control" or "baseline". parent: name of the ticket whose control or baseline it is.
    excluded: why it is left out of the verdicts, if it is. commands: of the run, without places. rows: a row for each
    dense network it is compared with, see `headlines`. claims: other claims in words, with their verdicts. n_done of
    n_trials: how far the run is.
    """

    role: str
    parent: str | None
    excluded: str | None
    commands: tuple[tuple[str, ...], ...]
    rows: Sequence[Row]
    claims: Sequence[tuple[str, str]]
    n_trials: int
    n_done: int


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """All that the files of a folder for the Hub are made from.

    about: provenance of the ticket. images: normalisation ("pixels") and "classes", None where not known. starts: the
    weights of the start that are in the folder. standing: None if the trial belongs to no run with a plan.
    """

    name: str
    spec: TrialSpec
    about: Mapping[str, Any]
    images: Mapping[str, Any]
    definition: Definition
    starts: tuple[str, ...]
    pruned: bool
    license: str | None
    standing: Standing | None

    @property
    def start(self) -> str:
        """The weights from which the last level was trained; empty if they are not in the folder."""
        return self.starts[-1] if self.starts else ""

    @property
    def role(self) -> str:
        return self.standing.role if self.standing is not None else role_of(self.about["spec"])


def standing_of(store: Store, run: str, name: str) -> Standing | None:
    """Gather the results of the run, without writing anything; None if it has no plan, or if it lacks this trial."""
    if not store.exists(f"{run}/{PLAN}"):
        return None
    plan = read_plan(store, run)
    tables = collect(store, run, plan).tables
    trials = {row["trial"]: row for row in tables["trials"].to_pylist()}
    if name not in trials:
        return None
    row, verdicts = trials[name], tables["verdicts"].to_pylist()
    ours = [judged for judged in verdicts if judged["group"] == row["group"]]
    return Standing(
        role=row["role"] or role_of(row), parent=row["parent"],
        excluded=(row["reason"] or "no reason given") if row["status"] == "excluded" else None,
        commands=tuple(without_places(command) for command in plan.commands),
        rows=headlines(ours),
        claims=[(claim_label(judged), judged["verdict"]) for judged in ours if is_other_claim(judged)],
        n_trials=len(trials), n_done=sum(one["status"] in ("done", "diverged") for one in trials.values()),
    )  # fmt: skip


def without_places(command: Sequence[str]) -> tuple[str, ...]:
    """A command without the flags of `PLACES` and `LIMITS` and their values; of other full paths and URIs only the last
    part."""
    kept, skip = [], False
    for word in command:
        if not skip and word.partition("=")[0] not in (*PLACES, *LIMITS):
            kept.append(_FOLDERS.sub("", word.rstrip("/")))
        skip = not skip and word in (*PLACES, *LIMITS)
    return tuple(kept)
