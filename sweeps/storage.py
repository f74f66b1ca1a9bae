"""Manage the states of a storage: show their sizes (du), delete unneeded ones (gc), check every byte (check).

    python -m sweeps.storage du|gc|check [STORAGE] [--dry-run] [--json]

Runs share states, so a state is deleted only if no run's plan and no trial's manifest refers to it. Exit code: 0; 1 if
`check` finds damage; 2 for bad input or a plan that cannot be read, and then nothing is deleted.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, which take seconds: a signal may come at any moment
    from lth_trainable import signals

    signals.install()

import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pyarrow import fs
from rich.console import Console

from analysis.text import console, human_bytes, print_line, table_of
from lth_trainable.errors import FAILED, OK, UserError, command_line
from lth_trainable.options import parsed
from lth_trainable.store.store import MANIFEST, PART, STATES, Store, map_in_threads
from lth_trainable.unfinished import WRITING_SECONDS
from sweeps.runs.damaged import write_damaged
from sweeps.runs.inventory import (
    Inventory,
    Run,
    damage_in,
    files_below,
    open_storage,
    read_manifest,
    read_runs,
    take_inventory,
)

SHOWN = 20  # paths that are listed; all of them with --json
_CONTENT = re.compile(r".+-[0-9a-f]{12}\.[^.]+")  # a file named with part of its SHA-256
USELESS = "no run needs it: python -m sweeps.storage gc deletes it"
UNNEEDED, UNSEALED, LEFTOVER = "states that nobody needs", "folders without a manifest", "leftover files"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Show the sizes of a storage (du), delete unneeded states (gc), or read and check every file (check)."""

    action: tyro.conf.Positional[Literal["du", "gc", "check"]]
    storage: Annotated[
        tyro.conf.Positional[str], tyro.conf.arg(help="folder or URI of all runs and their states", metavar="STORAGE")
    ] = "runs"
    dry_run: Annotated[bool, tyro.conf.arg(help="gc: show what would be deleted, without deleting it")] = False
    json: Annotated[bool, tyro.conf.arg(help="print one JSON object instead of tables")] = False


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """A file or folder to delete below states/. what: UNNEEDED, UNSEALED or LEFTOVER."""

    path: str
    what: str
    bytes: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return command_line(
        lambda: _run(
            parsed(Options, prog="python -m sweeps.storage", args=argv, config=(tyro.conf.FlagCreatePairsOff,))
        )
    )


def _run(options: Options) -> int:
    try:
        store = open_storage(options.storage)
        if options.action == "check":
            return _show_check(options, check(store))
        if options.action == "gc":
            return _show_gc(options, gc(store, dry_run=options.dry_run))
        return _show_du(options, du(store))
    except OSError as error:
        raise UserError(f"storage {options.storage}: cannot be read or written ({error})") from error


# -- du --------------------------------------------------------------------------------------------------------------


def du(store: Store) -> dict[str, Any]:
    """Bytes of each run, of unneeded states, and in total. A state of two runs counts in both."""
    inventory, runs = take_inventory(store), read_runs(store)
    sizes = {folder: _size(files.values()) for folder, files in inventory.states.items()}
    needed = {run.name: {folder for folder in sizes if run.needs(folder)} for run in runs}
    users = Counter(folder for folders in needed.values() for folder in folders)
    unneeded = [folder for folder in sizes if folder not in users]
    set_aside = inventory.bytes[STATES]["quarantine"]
    own = sum(sum(parts.values()) for parts in inventory.bytes.values())
    return {
        "storage": store.as_typed,
        "runs": [
            {
                "run": run.name, "planned": run.planned, "recorded": run.recorded, "states": len(needed[run.name]),
                "states_bytes": sum(sizes[folder] for folder in needed[run.name]),
                "shared_bytes": sum(sizes[folder] for folder in needed[run.name] if users[folder] > 1),
                **_own_bytes(inventory.bytes[run.name]), "problem": run.problem,
            }
            for run in runs
        ],
        "unneeded": {"states": len(unneeded), "bytes": sum(sizes[folder] for folder in unneeded)},
        "quarantine_bytes": set_aside,
        "total": {"states": len(sizes), "states_bytes": sum(sizes.values()), "bytes": sum(sizes.values()) + own},
    }  # fmt: skip


def _own_bytes(parts: Counter[str]) -> dict[str, int]:
    named = {f"{part}_bytes": parts[part] for part in ("trials", "analysis", "ray", "quarantine")}
    return {**named, "other_bytes": sum(parts.values()) - sum(named.values())}


def _size(files: Iterable[fs.FileInfo]) -> int:
    return sum(info.size for info in files)


def _show_du(options: Options, found: Mapping[str, Any]) -> int:
    if options.json:
        print(json.dumps(found))
        return OK
    parts = ("states_bytes", "shared_bytes", "trials_bytes", "analysis_bytes", "ray_bytes", "quarantine_bytes")
    words = ("run", "recorded", "states", "bytes", "of them shared", "trials", "analysis", "ray", "set aside")
    table = table_of(*words)
    for run in found["runs"]:
        trials = f"{run['recorded']:,} of {run['planned']:,}" if run["planned"] else f"{run['recorded']:,}"
        table.add_row(run["run"], trials, f"{run['states']:,}", *(human_bytes(run[part]) for part in parts))
    to = console()
    to.print(table)
    total, unneeded = found["total"], found["unneeded"]
    problems = [run["problem"] for run in found["runs"] if run["problem"]]
    advice = "python -m sweeps.storage gc deletes them" if unneeded["states"] else ""
    if problems:
        advice = "this may be too many: a plan could not be read"
    print_line(to, f"states that nobody needs: {unneeded['states']:,}, {human_bytes(unneeded['bytes'])}", advice)
    print_line(to, f"set aside as damaged: {human_bytes(found['quarantine_bytes'])} in {STATES}/quarantine")
    states = f"states in all: {total['states']:,}, {human_bytes(total['states_bytes'])}"
    print_line(to, states, f"{human_bytes(total['bytes'])} with the runs")
    for problem in problems:
        print_line(to, f"note: {problem}")
    return OK


# -- gc --------------------------------------------------------------------------------------------------------------


def gc(store: Store, dry_run: bool = False) -> list[Garbage]:
    """Delete what is unneeded below states/; returns what was, or would be, deleted.

    If a plan cannot be read, its states would look unneeded: then it raises `UserError` and deletes nothing.
    """
    inventory = take_inventory(store)
    runs = _known_runs(store)

    def found(folder: str) -> list[Garbage]:
        return _garbage(store, folder, inventory.states[folder], runs)

    listed = zip(inventory.states, map_in_threads(found, inventory.states), strict=True)
    garbage = {folder: items for folder, items in listed if items}
    full = {folder.rpartition("/")[0] for folder in inventory.states}
    empty = [key for key, info in inventory.keys.items() if key not in full and _is_old(info)]
    if not dry_run:
        runs = _known_runs(store)  # again: a driver may have started in the meantime
        garbage = dict(zip(garbage, map_in_threads(lambda folder: _sweep(store, folder, runs), garbage), strict=True))
        for key in {folder.rpartition("/")[0] for folder in garbage} | set(empty):
            _drop_if_empty(store, key)
    gone = [item for items in garbage.values() for item in items]
    strange = [path for path in inventory.strange if not _is_needed(path, runs) and path not in inventory.states]
    for path in strange if not dry_run else ():
        store.delete(path)
    gone += [Garbage(path=path, what=UNNEEDED, bytes=0) for path in strange]
    gone += _delete_unfinished(store, inventory, runs, dry_run)
    return sorted(gone, key=lambda item: item.path) + [Garbage(path=key, what=UNSEALED, bytes=0) for key in empty]


def _delete_unfinished(store: Store, inventory: Inventory, runs: Sequence[Run], dry_run: bool) -> list[Garbage]:
    """Delete files of runs that killed processes have begun to write."""
    names = {STATES, *(run.name for run in runs)}
    old = [
        Garbage(path=path, what=LEFTOVER, bytes=info.size)
        for path, info in inventory.unfinished.items()
        if path.partition("/")[0] in names and _is_old(info)
    ]
    for item in old if not dry_run else ():
        store.delete(item.path)
    return old


def _known_runs(store: Store) -> list[Run]:
    runs = read_runs(store)
    problem = next((run.problem for run in runs if run.problem), None)
    if problem is not None:
        raise UserError(f"{problem}; nothing was deleted")
    return runs


def _garbage(store: Store, folder: str, files: Mapping[str, fs.FileInfo], runs: Sequence[Run]) -> list[Garbage]:
    """What can be deleted of a state's folder. Young files stay: their manifest may not be written yet."""
    if MANIFEST not in files:
        whole = [Garbage(path=folder, what=UNSEALED, bytes=_size(files.values()))]
        at = [*files.values()] or store.fs.get_file_info([f"{store.root}/{folder}"])
        return whole if all(map(_is_old, at)) else []
    if not any(run.needs(folder) for run in runs):
        return [Garbage(path=folder, what=UNNEEDED, bytes=_size(files.values()))]
    strays = [name for name in files if name.endswith(PART) or _CONTENT.fullmatch(name)]
    entries = (read_manifest(store, folder) or {}).get("files")
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        return []  # deleted just now, or damaged, which `check` reports
    named = {entry.get("file", name) for name, entry in entries.items()}
    return [
        Garbage(path=f"{folder}/{name}", what=LEFTOVER, bytes=files[name].size)
        for name in strays
        if name not in named and _is_old(files[name])
    ]


def _sweep(store: Store, folder: str, runs: Sequence[Run]) -> list[Garbage]:
    """Delete the garbage of a folder as it is now: another driver may have sealed it since the listing."""
    garbage = _garbage(store, folder, files_below(store, folder), runs)
    for item in garbage:
        if item.what == LEFTOVER:
            store.delete(item.path)
        else:
            store.delete(f"{folder}/{MANIFEST}")  # first, so that no reader takes an incomplete folder for a state
            store.delete_folder(folder)
    return garbage


def _is_old(info: fs.FileInfo) -> bool:
    """Whether no driver can still be sealing with this file; a file of unknown age counts as young."""
    return info.mtime is not None and time.time() - info.mtime.timestamp() > WRITING_SECONDS


def _drop_if_empty(store: Store, key: str) -> None:
    if isinstance(store.fs, fs.LocalFileSystem):
        with contextlib.suppress(OSError):  # another driver has stored a state in it
            Path(store.root, key).rmdir()
    elif not store.folders(key) and not store.sizes(key):  # a marker that object stores leave behind
        store.delete_folder(key)


def _show_gc(options: Options, garbage: Sequence[Garbage]) -> int:
    total = sum(item.bytes for item in garbage)
    if options.json:
        gone = [asdict(item) for item in garbage]
        print(json.dumps({"storage": options.storage, "dry_run": options.dry_run, "gone": gone, "bytes": total}))
        return OK
    to = console()
    if options.dry_run:
        _list_paths(to, garbage)
    table = table_of("what", "number", "bytes")
    for what in (UNNEEDED, UNSEALED, LEFTOVER):
        sizes = [item.bytes for item in garbage if item.what == what]
        table.add_row(what, f"{len(sizes):,}", human_bytes(sum(sizes)))
    to.print(table)
    print_line(to, f"{human_bytes(total)} {'would be deleted; this was a dry run' if options.dry_run else 'deleted'}")
    return OK


def _list_paths(to: Console, garbage: Sequence[Garbage]) -> None:
    for item in garbage[:SHOWN]:
        print_line(to, f"{item.path}  {human_bytes(item.bytes)}  {item.what}")
    if len(garbage) > SHOWN:
        print_line(to, f"and {len(garbage) - SHOWN:,} more (all of them with --json)")


# -- check -----------------------------------------------------------------------------------------------------------


def check(store: Store) -> dict[str, Any]:
    """Read and check every file of states and trials; returns their numbers, and path and reason of each damage."""
    inventory, runs = take_inventory(store), read_runs(store)
    sealed = [folder for folder, files in inventory.states.items() if MANIFEST in files]
    strange = [path for path in inventory.strange if _is_ours(path, runs)]
    folders = sorted({*sealed, *inventory.trials, *strange})
    reasons = dict(zip(folders, map_in_threads(lambda folder: damage_in(store, folder), folders), strict=True))
    write_damaged(store, (folder for folder in folders if reasons[folder]))
    plans = [{"path": run.name, "reason": run.problem} for run in runs if run.problem]
    damaged = [
        {"path": folder, "reason": reason if plans or _is_needed(folder, runs) else f"{reason}; {USELESS}"}
        for folder in folders
        for reason in reasons[folder]
    ]
    return {
        "storage": store.as_typed,
        "states": len(sealed),
        "trials": len(inventory.trials),
        "damaged": plans + damaged,
    }


def _is_ours(path: str, runs: Sequence[Run]) -> bool:
    """Whether this is in the place of a state or of a planned trial, and not something that the user has put there."""
    run, folder, *rest = path.split("/")
    return run == STATES or (folder == "trials" and any(run == r.name and rest[0] in r.trials for r in runs))


def _is_needed(path: str, runs: Sequence[Run]) -> bool:
    return not path.startswith(f"{STATES}/") or any(run.needs(path) for run in runs)


def _show_check(options: Options, found: Mapping[str, Any]) -> int:
    damaged = found["damaged"]
    if options.json:
        print(json.dumps(found))
        return FAILED if damaged else OK
    to = console()
    for entry in damaged:
        print_line(to, f"damaged: {entry['path']}: {entry['reason']}")
    if damaged:
        print_line(
            to, f"{len(damaged):,} damaged: rerun the sweep's command to repair them; it retrains only what it must"
        )
    else:
        print_line(to, f"{found['states']:,} states and {found['trials']:,} trials are as they were written")
    return FAILED if damaged else OK


if __name__ == "__main__":
    signals.run(main)
