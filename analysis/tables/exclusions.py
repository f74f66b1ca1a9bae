"""`RUN/exclusions.json`: trials that the user has excluded from the verdict, each with a reason. Their records stay.

{"format": "2", "excluded": {TRIAL: {"reason": "...", "when": "2026-11-23T10:00:00+00:00"}}, "sha256": "..."}

The file is sealed, because another name in it would give another verdict. Version 0.4.0 wrote format "1", which has no
checksum; it is still read.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from analysis.tables.records import list_trials, trial_names
from analysis.tables.run_plan import find_run, read_plan
from lth_trainable.errors import UserError, bad_value
from lth_trainable.store.json_files import seal_json, unseal_json
from lth_trainable.store.store import Store

EXCLUSIONS = "exclusions.json"
FORMAT = "2"
UNSEALED = "1"  # the format of version 0.4.0
NEAR = 5  # similar names listed for an unknown one

Exclusions = Mapping[str, Mapping[str, str]]


def read_exclusions(store: Store, run: str) -> dict[str, Any]:
    """Reason and time of each exclusion, by trial. Raises `UserError` for an unreadable file, rather than ignore it."""
    path = f"{run}/{EXCLUSIONS}"
    if not store.exists(path):
        return {}
    try:
        content = store.read_as(path, lambda raw: unseal_json(raw, UNSEALED))
        if content["format"] not in (FORMAT, UNSEALED):
            where = f"{path}, format"
            raise bad_value(where, content["format"], FORMAT, "read the run with the version that wrote it")
        return {trial: {"reason": str(e["reason"]), "when": str(e["when"])} for trial, e in content["excluded"].items()}
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"no entry {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}: not readable as exclusions ({problem}); restore or remove it") from error


def change_exclusions(
    path: str | os.PathLike[str],
    *,
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
    reason: str | None = None,
) -> None:
    """Exclude trials of the run at `path` for a reason, include others again, and write the file.

    A trial that is excluded already gets the new reason and time. Raises `UserError` for an unknown trial, for one to
    be included that is not excluded, for a missing reason, and for a reason without a trial; then nothing is written.
    """
    store, run = find_run(path)
    text = " ".join((reason or "").split())
    if bool(exclude) != bool(text):
        advice = "say why they are excluded" if exclude else "name the trials with --exclude"
        raise bad_value("--reason", reason, "a text beside --exclude", advice)
    both = sorted({*exclude} & {*include})
    if both:
        raise bad_value("--include", both[0], "a trial that --exclude does not name")
    excluded = read_exclusions(store, run)
    for name in include:
        if name not in excluded:
            raise unknown_trial("--include", name, excluded, "an excluded trial")
    check_trials("--exclude", exclude, trial_names(read_plan(store, run), list_trials(store, run)))
    when = datetime.now(UTC).isoformat(timespec="seconds")
    kept = {name: entry for name, entry in excluded.items() if name not in include}
    content = kept | {name: {"reason": text, "when": when} for name in exclude}
    write_exclusions(store, run, content)


def write_exclusions(store: Store, run: str, excluded: Exclusions) -> None:
    """Write the file, sealed."""
    content = {name: dict(entry) for name, entry in excluded.items()}
    store.write(f"{run}/{EXCLUSIONS}", seal_json({"format": FORMAT, "excluded": content}))


def check_trials(where: str, names: Iterable[str], known: Collection[str]) -> None:
    """Raise `UserError` for the first name that is no trial of the run, with similar names."""
    for name in names:
        if name not in known:
            raise unknown_trial(where, name, known, "a trial of the run")


def unknown_trial(where: str, name: str, known: Collection[str], expected: str) -> UserError:
    """The error for an unknown trial. It lists a few similar names, or if there are none some of the known ones."""
    near = difflib.get_close_matches(name, sorted(known), n=NEAR, cutoff=0.5)
    names, word = (near, "near it") if near else (sorted(known)[:NEAR], "such as")
    return bad_value(where, name, expected, f"{word}: {', '.join(names)}" if names else "there is none")
