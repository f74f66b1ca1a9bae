"""Report on one trial of a run: its chain and which trials trained it, its result, failures and damage."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from analysis.text import print_line, table_of
from lth_trainable.errors import UserError, bad_value
from lth_trainable.spec.segments import Segment, segments
from lth_trainable.spec.trial_spec import spec_from_dict
from lth_trainable.store.store import HISTORY, STATES, Damaged, Store
from lth_trainable.store.trials import read_failure, read_record
from sweeps.planning.plan import Facts
from sweeps.runs.inventory import damage_in, read_manifest
from sweeps.runs.survey import Survey

TRACEBACK = 12  # number of last lines that are shown
_SHOWN = "sparsity_pct", "test_accuracy", "valid_accuracy", "best_valid_accuracy", "test_loss", "valid_loss"


def find_trial(survey: Survey, part: str) -> str:
    """The trial with this name, or the only one whose name contains it. Raises `UserError` with similar names."""
    found = [name for name in survey.statuses if part in name]
    if part in found or len(found) == 1:
        return part if part in found else found[0]
    if found:
        some = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
        raise bad_value("TRIAL", part, "a part of one trial's name", f"{len(found)} have it: {some}")
    near = difflib.get_close_matches(part, list(survey.statuses), n=3, cutoff=0.0)
    raise bad_value("TRIAL", part, "the name of a planned trial, or a part of it", f"the nearest: {', '.join(near)}")


def about_trial(survey: Survey, name: str) -> dict[str, Any]:
    """The report on one trial as a JSON object; all of its files are read."""
    store, path = survey.store, survey.store.trial(survey.run, name)
    entry = next(entry for entry in survey.content["trials"] if entry["name"] == name)
    record = _record(store, path) or {}
    chain = _chain(survey, entry, record)
    rows = record["epochs"] if record else _rows(survey, chain)
    manifest = read_manifest(store, path) or {}
    folders = [path, *sorted(set(manifest.get("states", {}).values()))]
    failure = read_failure(store, path)
    return {
        **asdict(survey.statuses[name]), "key": entry["key"], "why": record.get("reason"),
        "spec": {field: value for field, value in entry["spec"].items() if value is not None},
        "chain": [_about_segment(survey, segment, rows) for segment in chain], "result": record.get("result") or {},
        "epochs_trained": record.get("epochs_trained"), "train_seconds": record.get("train_seconds"),
        "failure": asdict(failure) if failure is not None else None,
        "damaged": [f"{folder}: {reason}" for folder in folders for reason in damage_in(store, folder)],
        "set_aside": _set_aside(store, survey.run, name),
    }  # fmt: skip


def _record(store: Store, path: str) -> dict[str, Any] | None:
    try:
        folder = store.find(path)
        return read_record(store, folder) if folder else None
    except (Damaged, UserError):
        return None


def _chain(survey: Survey, entry: Mapping[str, Any], record: Mapping[str, Any]) -> Sequence[Segment]:
    """The trial's segments; none if neither the plan nor a record says what its data are."""
    data = entry.get("data") or record.get("data")
    if not data:
        return ()
    spec, facts = spec_from_dict(entry["spec"]), Facts(digest=data["digest"], n_train=data["n_train"])
    return segments(spec, facts.digest, facts.steps_of(spec))


def _states(store: Store, key: str) -> list[str]:
    return [f"{STATES}/{key}/{fingerprint_id}" for fingerprint_id in store.folders(f"{STATES}/{key}")]


def _rows(survey: Survey, chain: Sequence[Segment]) -> list[dict[str, Any]]:
    """Rows of the epochs up to the deepest stored state; the trial may have been killed after it."""
    for segment in (segment for segment in reversed(chain) if segment.kind == "train"):
        for epoch in range(segment.end, segment.start, -1):
            key = segment.key_at(epoch)
            for path in _states(survey.store, key) if key in survey.stored else ():
                with contextlib.suppress(Damaged, UserError, KeyError, ValueError):
                    folder = survey.store.find(path)
                    if folder is not None:
                        return list(survey.store.json_of(folder, HISTORY)["rows"])
    return []


def _about_segment(survey: Survey, segment: Segment, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    own = (row for row in rows if row["level"] == segment.level and segment.start <= row["epoch"] < segment.end)
    return {
        "kind": segment.kind, "level": segment.level, "start": segment.start, "end": segment.end,
        "sparsity_pct": 100 * float(segment.sparsity), "key": segment.key, "stored": _how_stored(survey, segment),
        "trained_by": list(dict.fromkeys(row["trained_by"] for row in own)),
    }  # fmt: skip


def _how_stored(survey: Survey, segment: Segment) -> str | None:
    """How much of a segment's state is stored: "whole", "weights", "damaged" or "to epoch 7"; None if nothing is."""
    found = {_state_at(survey.store, path) for path in _states(survey.store, segment.key)}
    for word in ("whole", "weights", "damaged"):
        if word in found:
            return word
    inner = range(segment.end - 1, segment.start, -1) if segment.line else ()
    epoch = next((epoch for epoch in inner if segment.key_at(epoch) in survey.stored), None)
    return None if epoch is None else f"to epoch {epoch}"


def _state_at(store: Store, path: str) -> str | None:
    try:
        folder = store.find(path)
    except (Damaged, UserError):
        return "damaged"
    if folder is None:
        return None
    return "whole" if folder.manifest.get("complete") else "weights"


def _set_aside(store: Store, run: str, name: str) -> list[str]:
    """The reasons why folders of this trial were set aside."""
    folders = [folder for folder in store.folders(f"{run}/quarantine") if folder.rpartition("-")[0] == name]
    paths = [f"{run}/quarantine/{folder}/reason.txt" for folder in folders]
    found = [content for path in paths if (content := store.read_if_file(path)) is not None]
    return [content.decode(errors="replace").strip() for content in found]


def show_trial(to: Console, report: Mapping[str, Any]) -> None:
    reason = report["why"] or report["reason"]
    print_line(to, f"{report['trial']}: {report['status']}" + (f": {reason}" if reason else ""))
    print_line(to, ", ".join(f"{field} {value}" for field, value in report["spec"].items()))
    if report["status"] == "running":
        print_line(to, f"at level {report['level']}, epochs trained by it: {report['epochs']:,}")
    if report["epochs_left"]:
        print_line(to, f"epochs to train: {report['epochs_left']:,}")
    _show_chain(to, report)
    for name in (name for name in _SHOWN if report["result"].get(name) is not None):
        print_line(to, f"{name} {report['result'][name]:.4f}")
    for name in report["waits_for"]:
        print_line(to, f"waits for {name}")
    if report["failure"]:
        print_line(to, f"last failure: {report['failure']['reason']}")
        for line in report["failure"]["traceback"].rstrip().splitlines()[-TRACEBACK:]:
            print_line(to, f"  {line}")
    for damage in report["damaged"]:
        print_line(to, f"damaged: {damage}; rerun the sweep's command to repair")
    for reason in report["set_aside"]:
        print_line(to, f"set aside: {reason}")


def _show_chain(to: Console, report: Mapping[str, Any]) -> None:
    words = ("state", "stored", "trained by")
    table = table_of("segment", "level", "epochs", "sparsity", *words, left=words)
    for part in report["chain"]:
        epochs = f"{part['start']} to {part['end']}" if part["kind"] == "train" else f"at {part['end']}"
        by = ", ".join("itself" if name == report["trial"] else name for name in part["trained_by"])
        table.add_row(
            part["kind"], str(part["level"]), epochs, f"{part['sparsity_pct']:.2f} %", part["key"][:12],
            part["stored"] or "–", by or "–",
        )  # fmt: skip
    to.print(table)
    if not report["chain"]:
        print_line(to, "planned by an earlier version, which did not note its data: rerun the command to see its chain")
