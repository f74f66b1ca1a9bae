"""Keep the results of a finished run in the project's folder `results`: `python -m analysis results RUN`.

    results/NAME/plan.json, terms.json, exclusions.json    what was planned; commands without places
    results/NAME/analysis/*.parquet, index.json            all tables; of inherited epochs only one copy
    results/NAME/report.html                               the report
    results/NAME/NAME.tar.xz                               the plan and all records, without masks and weights, if small
    results/NAME/machine.json                              trials, epochs, GPU-hours, card, versions

`analysis.load("results/NAME")` reads it as a run. It is not gathered again: its records are only in the archive. That
unpacks as a run, which can be gathered and merged: verdicts need no more than records. The same run gives the same
bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from analysis.export.archive import PART, XZ, stage_record, write_archive
from analysis.export.hub_facts import without_places
from analysis.figures.gallery import read_suggestions
from analysis.merging.pieces import MERGED
from analysis.report.html import report_html, savings
from analysis.tables.exclusions import EXCLUSIONS
from analysis.tables.index import read_previous, write_index
from analysis.tables.parquet import OPTIONAL, Frames, load, write_table
from analysis.tables.records import read_trials
from analysis.tables.run_plan import KEPT, RunPlan, find_run, read_content, read_plan, write_content
from analysis.text import human_bytes
from lth_trainable.errors import UserError
from lth_trainable.store.store import Store

MOST_BYTES = 5_000_000  # of an archive; a larger one is left out
OF_WEIGHTS = ("overlaps", "signs")  # tables that are made of masks and weights; a gather keeps their rows by trial
VERSIONS = ("code", "python", "torch", "fastai", "ray", "cuda", "cudnn", "driver")


@dataclass(frozen=True, kw_only=True)
class Time:
    """How long a run took. seconds: of its command on the wall; None if not known. gpus: that it had."""

    seconds: float | None = None
    gpus: int | None = None


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What was written. machine: the content of machine.json."""

    path: Path
    bytes: int
    machine: Mapping[str, Any]


def keep(path: str, out: Path, time: Time = Time(), most_bytes: int = MOST_BYTES, notes: Sequence[str] = ()) -> Kept:
    """Write the results of the run at `path` to `out/NAME`, in place of earlier ones.

    notes: what a reader should know beside the recipe, such as that the images are other ones. Raises `UserError` if
    there is no run, if it has not been gathered, if a trial of its plan is not done, or if `out/NAME` is something else
    than earlier results, such as the run itself: then nothing there is changed.
    """
    store, run = find_run(path)
    if store.exists(f"{run}/{KEPT}"):
        raise UserError(f"{path}: found results that are kept already; expected the folder of a run: runs/{run}")
    target = out / run
    _check_target(target)
    frames, plan = load(path), read_plan(store, run)
    _check_finished(path, frames)
    with tempfile.TemporaryDirectory() as folder:
        staged = Store(folder)
        content = _without_places(read_content(store, run))
        commands = content["commands"]
        _write_plan(store, staged, run, content)
        tables = {**frames.tables, "epochs": _own_epochs(frames.tables["epochs"])}
        wanted = {name: table for name, table in tables.items() if name not in OPTIONAL or table.num_rows}
        sums = {name: write_table(staged, run, name, table) for name, table in wanted.items()}
        write_index(staged, run, sums, {}, None)
        cleaned = replace(plan, commands=tuple(map(tuple, commands)))
        page = report_html(frames, cleaned, run, read_suggestions(store, run))
        staged.write(f"{run}/report.html", page.encode())
        archive = Path(folder, run, f"{run}{XZ}")
        size = _archive(store, frames, plan, run, content, archive)
        if size > most_bytes:
            archive.unlink()
        machine = _machine(frames, time, commands) | {
            "archive": archive.name if size <= most_bytes else f"left out: {human_bytes(size)}",
            "notes": list(notes),
        }
        staged.write(f"{run}/{KEPT}", (json.dumps(machine, indent=2, ensure_ascii=False) + "\n").encode())
        _replace(target, Path(folder, run))
    total = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    return Kept(path=target, bytes=total, machine=machine)


def _check_target(target: Path) -> None:
    if target.exists() and not (target / KEPT).is_file() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(
            f"--out {target.parent}: found {target}, which has no {KEPT} and is nothing that this command has kept; "
            "expected kept results, which are replaced, or nothing of that name; choose another folder"
        )


def _replace(target: Path, made: Path) -> None:
    """Put a copy of the folder `made` at `target`. What is there stays until the copy is complete."""
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}{PART}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(made, fresh)
        if target.exists():
            shutil.rmtree(target)
        os.replace(fresh, target)
    except OSError as error:
        raise UserError(f"--out {target.parent}: cannot be written ({error}); choose another place") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _without_places(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a plan with commands without places and time limits, each once.

    Of merged pieces only the names of the runs are left.
    """
    merged = [{**piece, "run": piece["run"].rstrip("/").rpartition("/")[2]} for piece in content.get(MERGED, ())]
    typed = dict.fromkeys(without_places(command) for command in content["commands"])
    commands = [_told_apart(command) for command in typed]
    return {**content, "commands": commands, **({MERGED: merged} if merged else {})}


def _told_apart(command: Sequence[str]) -> list[str]:
    """The command that merged pieces with a number for each piece, if without their places they have the same name."""
    words = list(command)
    if words[2:4] != ["analysis", "merge"] or "--into" not in words:
        return words
    pieces = words[4 : words.index("--into")]
    if len(set(pieces)) == len(pieces):
        return words
    return [*words[:4], *(f"{i}/{piece}" for i, piece in enumerate(pieces, 1)), *words[words.index("--into") :]]


def _write_plan(store: Store, staged: Store, run: str, content: Mapping[str, Any]) -> None:
    write_content(staged, run, content)
    if store.exists(f"{run}/{EXCLUSIONS}"):
        staged.write(f"{run}/{EXCLUSIONS}", store.read(f"{run}/{EXCLUSIONS}"))


def _archive(store: Store, frames: Frames, plan: RunPlan, run: str, content: Mapping[str, Any], target: Path) -> int:
    """Write plan, records, and the tables that do not follow from these; returns the size of the archive in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        staged = Store(folder)
        _write_plan(store, staged, run, content)
        compared = [name for name in OF_WEIGHTS if frames.tables[name].num_rows]
        wanted = [*OPTIONAL, *compared, *(["trials"] if compared else [])]
        tables = {name: table for name in wanted if (table := frames.tables[name]).num_rows}
        sums = {name: write_table(staged, run, name, table) for name, table in tables.items()}
        write_index(staged, run, sums, {}, read_previous(store, run).geometry)
        planned = {trial.name: trial for trial in plan.trials}
        for name, trial in read_trials(store, run, frames.trials["trial"].tolist(), planned):
            stage_record(staged, store.trial(run, name), trial)
        return write_archive(Path(folder, run), target)


def _check_finished(path: str, frames: Frames) -> None:
    open_ones = [row["trial"] for row in frames.rows("trials") if row["status"] in ("missing", "failed", "damaged")]
    if open_ones:
        raise UserError(
            f"{path}: found {len(open_ones)} trials that are not done, such as {open_ones[0]}; expected a finished "
            "run; rerun its command first"
        )


def _own_epochs(epochs: pa.Table) -> pa.Table:
    """The epochs without those that a trial has inherited from another one of the run: most rows of a large sweep."""
    of_others = pc.invert(pc.is_in(epochs["trained_by"], pc.unique(epochs["trial"])))
    return epochs.filter(pc.or_(pc.equal(epochs["trial"], epochs["trained_by"]), of_others))


def _machine(frames: Frames, time: Time, commands: list[list[str]]) -> dict[str, Any]:
    """What it took: trials, epochs asked for and trained, time, devices, versions."""
    rows, work = frames.rows("trials"), savings(frames)
    devices = sorted({str(row["device"]) for row in rows if row["device"]})
    on_gpu = any(not device.startswith("cpu") for device in devices)
    gpus = (time.gpus or 1) if on_gpu else 0
    return {
        "commands": [" ".join(command) for command in commands],
        "trials": len(rows),
        "trials_done": sum(row["status"] == "done" for row in rows),
        "trials_diverged": sum(row["status"] == "diverged" for row in rows),
        "epochs_asked_for": work.epochs_alone,
        "epochs_trained": work.epochs_own,
        "seconds_of_training": round(work.seconds_own, 1),  # added up over trials, also over those side by side
        "seconds": None if time.seconds is None else round(time.seconds, 1),
        "gpus": gpus,
        "gpu_hours": None if time.seconds is None else round(time.seconds * gpus / 3600, 4),
        "devices": devices,
        "versions": {
            name: sorted({str(row[f"{name}_version"]) for row in rows if row[f"{name}_version"]}) for name in VERSIONS
        },
    }
