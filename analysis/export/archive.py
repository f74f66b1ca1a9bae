"""Pack a run into one file for a colleague: `python -m analysis pack RUN` writes RUN.tar.gz, or RUN.tar.xz.

All paths in it are relative, so it can be unpacked anywhere: `analysis.load` and `analysis.gather` work on the folder,
and `load_ticket.py` beside the tickets loads them. The same run gives the same bytes: files are sorted by name and have
neither times nor owners.
"""

from __future__ import annotations

import glob
import gzip
import lzma
import os
import tarfile
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import IO, cast

from jinja2 import Environment, StrictUndefined

from analysis.export.choice import BEST, Choice, choose
from analysis.export.tickets import read_ticket, write_loader, write_ticket
from analysis.figures.gallery import read_suggestions
from analysis.gather import collect
from analysis.report.html import report_html
from analysis.tables.exclusions import EXCLUSIONS
from analysis.tables.index import write_index
from analysis.tables.parquet import OPTIONAL, Frames, write_table
from analysis.tables.records import Found, read_trials
from analysis.tables.run_plan import KEPT, TERMS, RunPlan, find_run, read_plan
from analysis.verdicts.answer import answer_sentence
from lth_trainable.errors import UserError, bad_value
from lth_trainable.store.store import FAILURE, PART, PLAN, RECORD, Damaged, Store, to_json
from lth_trainable.unfinished import remove_abandoned

README = "archive_readme.txt.jinja"
ENDING, XZ = ".tar.gz", ".tar.xz"
COMPRESSION = 6  # of gzip; weights are noise, so a higher level gains nothing
# Of xz. Records of the levels of a chain repeat their epochs, megabytes apart: gzip, which looks back 32 kB, makes ten
# times as much of them, and higher presets hardly less.
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 1 << 25}]


@dataclass(frozen=True, kw_only=True)
class Packed:
    """The archive that was written, its size in bytes, and the tickets in it."""

    path: Path
    bytes: int
    tickets: Choice


def pack(path: str | os.PathLike[str], out: str | Path | None = None, tickets: Sequence[str] = (BEST,)) -> Packed:
    """Write the archive of the run at `path` to `out`, by default the run's name and .tar.gz in the working folder.

    A name that ends in .tar.xz makes it much smaller where records are most of it. tickets: "best", "all", "none", or
    names of trials and groups. Raises `UserError` if there is no run, if a ticket is unknown or its weights are
    missing, or if the archive cannot be written.
    """
    store, run = find_run(path)
    if store.exists(f"{run}/{KEPT}"):
        raise UserError(
            f"{path}: found kept results, whose records are in their archive, {run}{XZ}; expected the folder of a run; "
            "pass that archive on, or the folder itself"
        )
    target = _target(run, out)
    plan = read_plan(store, run)
    planned = {trial.name: trial for trial in plan.trials}
    gathered = collect(store, run, plan)
    frames = Frames(tables=gathered.tables)
    choice = choose(frames.rows("trials"), frames.rows("verdicts"), tickets)
    try:
        for pattern in (".pack-????????", f"{glob.escape(target.name)}.????????{PART}"):
            remove_abandoned(target.parent, pattern)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".pack-") as folder:
            staged = Store(folder)
            stored = {name: t for name, t in gathered.tables.items() if name not in OPTIONAL or t.num_rows}
            sums = {name: write_table(staged, run, name, table) for name, table in stored.items()}
            write_index(staged, run, sums, {}, gathered.geometry)  # without masks, nothing to compare again
            for name in (PLAN, TERMS, EXCLUSIONS):
                if store.exists(f"{run}/{name}"):
                    staged.write(f"{run}/{name}", store.read(f"{run}/{name}"))
            page = report_html(frames, plan, run, read_suggestions(store, run))
            staged.write(f"{run}/report.html", page.encode())
            for name, trial in read_trials(store, run, frames.trials["trial"].tolist(), planned):
                stage_record(staged, store.trial(run, name), trial)
            for name in choice.trials:
                _stage_ticket(store, run, name, Path(folder, run, "tickets"))
            if choice.trials:
                write_loader(Path(folder, run, "tickets"))
            staged.write(f"{run}/README.txt", readme(plan, frames, run, choice).encode())
            size = write_archive(Path(folder, run), target)
    except OSError as error:
        raise UserError(f"--out {target}: cannot be written ({error}); choose another place") from error
    return Packed(path=target, bytes=size, tickets=choice)


# -- what is in it ---------------------------------------------------------------------------------------------------


def stage_record(staged: Store, path: str, trial: Found) -> None:
    """Stage the record of a trial, sealed again without its masks and states, or the reason of its failure."""
    if trial.record:
        about = {part: trial.record[part] for part in ("trial", "key", "status", "fingerprint")}
        staged.seal(path, {RECORD: to_json(dict(trial.record))}, {"kind": "trial", **about, "states": {}})
    elif trial.reason is not None:
        staged.write(f"{path}/{FAILURE}", to_json({"reason": trial.reason}))


def _stage_ticket(store: Store, run: str, name: str, folder: Path) -> None:
    try:
        write_ticket(read_ticket(store, run, name), folder / name, formats=("pt",))
    except Damaged as damage:
        raise UserError(
            f"ticket {name}: its weights cannot be read ({damage}); rerun the sweep's command, or use --tickets none"
        ) from damage


def readme(plan: RunPlan, frames: Frames, run: str, choice: Choice) -> str:
    """README.txt of the archive: what is where, which tickets and why, how to read it, versions."""
    trials = frames.rows("trials")
    parts = [f"{part}_version" for part in ("code", "python", "torch", "fastai", "ray")]
    trained = {f"{part.removesuffix('_version')} {row[part]}" for part in parts for row in trials if row[part]}
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    template = environment.from_string(files("analysis.export").joinpath(README).read_text(encoding="utf-8"))
    return template.render(
        run=run, plan=plan, choice=choice, answer=answer_sentence(frames.rows("verdicts")), n_trials=len(trials),
        n_done=sum(row["status"] == "done" for row in trials), trained_with=", ".join(sorted(trained)) or "nothing",
        planned_with=", ".join(f"{name} {value}" for name, value in sorted(plan.versions.items())),
        devices="; ".join(sorted({row["device"] for row in trials if row["device"]})) or "nothing",
    )  # fmt: skip


# -- the file --------------------------------------------------------------------------------------------------------


def _target(run: str, out: str | Path | None) -> Path:
    target = Path(f"{run}{ENDING}" if out is None else out).expanduser().absolute()
    if not target.name.endswith((ENDING, ".tgz", XZ)):
        raise bad_value("--out", str(out), f"a file name that ends in {ENDING}, .tgz or {XZ}")
    if target.is_dir() or not target.parent.is_dir():
        found = "a folder with that name" if target.is_dir() else "a folder that does not exist"
        raise bad_value(f"--out {target}", found, "a file in an existing folder")
    return target


def write_archive(folder: Path, target: Path) -> int:
    """Write the folder as an archive, completely or not at all; returns its size in bytes.

    The same files give the same bytes, whatever their times and owners. The name of `target` says how it is compressed.
    """
    unfinished = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}{PART}")
    try:
        with unfinished.open("wb") as stream, _compressed(stream, target.name) as packed:
            _write_tar(folder, packed)
        size = unfinished.stat().st_size
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
    return size


def _compressed(stream: IO[bytes], name: str) -> IO[bytes]:
    if name.endswith(XZ):
        return cast(IO[bytes], lzma.LZMAFile(stream, "w", format=lzma.FORMAT_XZ, filters=FILTERS))
    return cast(IO[bytes], gzip.GzipFile(filename="", mode="wb", compresslevel=COMPRESSION, fileobj=stream, mtime=0))


def _write_tar(folder: Path, stream: IO[bytes]) -> None:
    paths = sorted(path.relative_to(folder.parent).as_posix() for path in folder.rglob("*") if path.is_file())
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in paths:
            entry, file = tarfile.TarInfo(name), folder.parent / name
            entry.size, entry.mode, entry.mtime = file.stat().st_size, 0o644, 0
            with file.open("rb") as content:
                archive.addfile(entry, content)
