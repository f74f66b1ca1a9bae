"""A storage that has a file of every kind, made once, and its copies."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from analysis.__main__ import main as analysis
from lth_trainable.store.failures import Note
from lth_trainable.store.store import STATES, Damaged, Store, to_json
from sweeps.lth_grid import main as grid
from sweeps.lth_search import main as search
from sweeps.runs.damaged import write_damaged
from sweeps.runs.lock import DRIVER
from tests.support.fuzz.in_process import in_process

RUNS, TICKETS, OUTSIDE, OUT = "runs", "tickets", "outside", "out"
TICKET = "digits-lenet_300_100-imp-s64-r1-e2-seed0"
TINY = (
    "digits",
    "--epochs",
    "2",
    "--sparsity",
    "64",
    "--rewind-epoch",
    "1",
    "--controls",
    "none",
    "--baselines",
    "none",
)
SEARCH = (
    "digits_search", "--epochs", "2", "--sparsity", "40..80", "--schedule", "imp", "--rewind-epoch", "1",
    "--prune-rate", "40", "--criteria", "large_final", "--suggestions", "2", "--seeds", "1",
)  # fmt: skip
RECIPE = """
from sweeps.experiments.recipes import digits
from dataclasses import replace

def recipe():
    '''A recipe of a user.'''
    return replace(digits(), name="mine", seeds=(0, 1), axes={"target_sparsity_pct": (64.0,)}, base={"epochs": 2})
"""
PLUG_IN = "def criterion(weights):\n    return weights.abs()\n"
PLACES: Mapping[str, tuple[str, ...]] = {
    "plan": ("*/plan.json",), "terms": ("*/terms.json",), "exclusions": ("*/exclusions.json",),
    "index": ("*/analysis/index.json",), "heartbeat": (f"*/{DRIVER}",), "note of damage": ("states/damaged.json",),
    "manifest of a trial": ("*/trials/*/manifest.json",), "record": ("*/trials/*/record.json",),
    "masks of a trial": ("*/trials/*/masks.safetensors",), "failure": ("*/trials/*/failure.json",),
    "manifest of a state": ("states/*/*/manifest.json",), "weights": ("states/*/*/weights-*",),
    "training": ("states/*/*/training-*",), "masks of a state": ("states/*/*/masks-*",),
    "history": ("states/*/*/history-*",), "stored ticket": ("states/*/*/ticket-*",),
    "table": ("*/analysis/*.parquet",), "report": ("*/report.html",), "figure": ("*/analysis/*.svg",),
    "study": ("*/study.db",), "Ray's file": ("*/ray/*/*",), "reason": ("*/quarantine/*/reason.txt",),
    "leftover": ("*/trials/*/*.part", "states/*/*/*.part", "*/*.part"), "barriers": ("*/barriers/**/*.*",),
    "folder": ("*", "*/*", "states/*/*", "*/trials/*", "*/barriers/*", "*/quarantine/*", "*/ray/*"),
    f"../{TICKETS}": (f"../{TICKETS}/*/*", f"../{TICKETS}/*/dense/*", f"../{TICKETS}/*", f"../{TICKETS}/*/dense"),
    "../cluster": ("../cluster.yaml",), "../plug-in": ("../cwd/my_*.py",),
}  # fmt: skip


class Broken(RuntimeError):
    """The undamaged storage could not be made."""


def make_runs(root: Path) -> None:
    """Two runs that share states, and around them what nobody may change."""
    runs = root / RUNS
    for folder in (runs, root / TICKETS, root / OUT, root / "cwd"):
        folder.mkdir(parents=True)
    with in_process(page=lambda *_: "<html></html>"):
        _run(grid, *TINY, "--seeds", "2", "--name", "a", "--storage", str(runs))
        _run(grid, *TINY, "--seeds", "3", "--name", "other", "--storage", str(runs))
        _run(analysis, str(runs / "other"), "--exclude", TICKET, "--reason", "a test")
    _add_rare_files(Store(runs))
    (root / "cwd" / "my_recipe.py").write_text(RECIPE)
    (root / "cwd" / "my_plug_in.py").write_text(PLUG_IN)
    (root / "cluster.yaml").write_bytes((Path(__file__).parents[3] / "cluster.yaml").read_bytes())
    _make_outside(root / OUTSIDE)


def make_storage(root: Path) -> None:
    """The same with a search, barriers and tickets, so that there is at least one file of every kind."""
    make_runs(root)
    runs, tickets = root / RUNS, root / TICKETS
    a = str(runs / "a")
    with in_process():
        _run(search, *SEARCH, "--storage", str(runs), "--name", "search")
        _run(analysis, "barrier", a, "--points", "3", "--seeds", "1")
        _run(analysis, "export", a, TICKET, "--out", str(tickets))
        _run(grid, *TINY[:3], "--baselines", "none", "--controls", "none", "--seeds", "1", "--name", "imported",
             "--storage", str(runs), "--import-ticket", str(tickets / TICKET))  # fmt: skip


def _run(main: object, *argv: str) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(list(argv))  # type: ignore[operator]
    if code != 0:
        raise Broken(f"{argv} ended with {code}: {out.getvalue()}")


def _add_rare_files(store: Store) -> None:
    """A failed trial, a heartbeat of a dead driver, a note of damage, files of Ray's, what a kill leaves behind."""
    lost = store.trial("other", TICKET.replace("seed0", "seed2"))
    store.delete_folder(lost)
    note = Note(storage=store.uri, path=lost, launch="then")
    note.leave("ValueError: a test", "Traceback (most recent call last):\n  a test\n", is_last=True)
    heart = {"host": "elsewhere", "pid": 1, "born": "1", "token": "t", "started": 1e9, "beat": 1e9 + 5}
    store.write(f"a/{DRIVER}", to_json({**heart, "running": {TICKET: {"epochs": 1, "level": 0}}}))
    key = store.folders(STATES)[0]
    write_damaged(store, [f"{STATES}/{key}/{store.folders(f'{STATES}/{key}')[0]}"])
    for name in ("tuner.pkl", "trainable.pkl", "experiment_state.json"):
        store.write(f"a/ray/then/{name}", b"\x80\x04K\x01.")
    for path in (f"a/trials/{TICKET}/record.json", f"{STATES}/{key}/{'0' * 12}/weights.safetensors", "a/plan.json"):
        store.write(f"{path}.0123abcd.part", b"half")
    store.write("a/trials/gone/record.json", b"{}")
    store.quarantine(Damaged("a/trials/gone", "a test"), "a")


def _make_outside(folder: Path) -> None:
    (folder / "folder" / "deep").mkdir(parents=True)
    for name in ("canary", "manifest.json", "folder/canary", "folder/deep/manifest.json", "folder/record.json"):
        (folder / name).write_text("{}")


def copy_of(made: Path, root: Path) -> Path:
    """A copy with hard links, since every file is written anew and moved; but for the study, changed in place."""
    shutil.copytree(made, root, copy_function=_link, symlinks=True)
    return root


def _link(source: str, target: str) -> None:
    if source.endswith(".db"):
        shutil.copy2(source, target)
    else:
        os.link(source, target)


def places(runs: Path, kind: str) -> list[Path]:
    """The files of a kind, in a fixed order."""
    found = (path for pattern in PLACES[kind] for path in runs.glob(pattern) if os.path.lexists(path))
    return sorted({path for path in found if kind != "folder" or path.is_dir()})


def traces(*folders: Path) -> dict[str, object]:
    """Everything in folders: type, permissions, time of change, and bytes or target."""
    found: dict[str, object] = {}
    for top in folders:
        for path in (top, *sorted(top.rglob("*"))):
            stat = path.lstat()
            what: object = os.readlink(path) if path.is_symlink() else None
            if path.is_file() and not path.is_symlink():
                what = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path)] = (stat.st_mode, stat.st_mtime_ns if path.is_file() else 0, what)
    return found
