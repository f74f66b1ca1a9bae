"""Damage one file, run commands, and look at what must hold whatever the damage is.

* A command ends by itself, with an exit code that is documented, and never with an exception.
* Its error is one printable line.
* Nothing changes outside the storage and the folder that the command was told to write to, and no pickle is read.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from tests.support.fuzz.commands import ALL, Command
from tests.support.fuzz.damage import WAYS, damage
from tests.support.fuzz.hostile import rewrite
from tests.support.fuzz.storage import OUTSIDE, PLACES, RUNS, TICKETS, copy_of, places, traces

HOSTILE = "rewritten"
SECONDS = 120  # for one command; the longest takes about ten
REWRITTEN = (".json", ".safetensors", ".parquet", ".db")


class Hung(BaseException):
    """Raised in a command that does not end."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One damage: of which kind of file, which of its files, in which way, and the seed of the rest."""

    kind: str
    way: str
    seed: int

    def __str__(self) -> str:
        return f"{self.kind}, {self.way}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What a command did that it must not do."""

    case: Case
    path: str
    command: str
    what: str
    where: str = ""
    output: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.command} after: {self.path} {self.case.way} (seed {self.case.seed}): {self.what} {self.where}"


def cases(rng: Random, kinds: Sequence[str] = tuple(PLACES)) -> Iterator[Case]:
    """Cases without end: each kind as often as another, and half of them written by a hostile author."""
    while True:
        for kind in kinds:
            is_hostile = kind != "folder" and rng.random() < float(os.environ.get("HOSTILE", "0.5"))
            yield Case(kind=kind, way=HOSTILE if is_hostile else rng.choice(list(WAYS)), seed=rng.randrange(1 << 32))


def run_case(case: Case, made: Path, root: Path, names: Sequence[str]) -> list[Fault]:
    """Damage a copy of the storage `made` at `root`, run the commands one after the other, and return their faults."""
    copy_of(made, root)
    try:
        rng = Random(case.seed)
        found = places(root / RUNS, case.kind)
        path = rng.choice(found)
        if case.way == HOSTILE:
            rewrite(path, rng)
        else:
            damage(path, case.way, rng, root / OUTSIDE)
        return list(_faults(case, path, root, names))
    finally:
        shutil.rmtree(root)


def run_verdict_case(case: Case, made: Path, root: Path) -> str | None:
    """What is wrong if a damage, not made by a hostile author, changes the verdict of a run without being told."""
    whole, found = _verdict(made, root, None), _verdict(made, root, case)
    assert whole is not None
    is_told = found is None or found["trials"] != whole["trials"]  # numbers of trials by status
    return None if is_told or found["verdicts"] == whole["verdicts"] else f"{case}: another verdict, and not a word"


@functools.cache
def _verdict(made: Path, root: Path, case: Case | None) -> dict[str, Any] | None:
    """What the gather of a damaged copy says; None if it ends with an error."""
    copy_of(made, root)
    try:
        if case is not None:
            rng = Random(case.seed)
            damage(rng.choice(places(root / RUNS, case.kind)), case.way, rng, root / OUTSIDE)
        code, output, error = run_command(ALL["gather as JSON"], root)
        assert error is None, f"{case}: {type(error).__name__}: {error}"
        return json.loads(output.splitlines()[-1]) if code == 0 else None
    finally:
        shutil.rmtree(root)


def _faults(case: Case, path: Path, root: Path, names: Sequence[str]) -> Iterator[Fault]:
    shown = os.path.relpath(path, root)
    untouched = [root / OUTSIDE, root / TICKETS, root / "cwd"]
    before = traces(*untouched)
    for name in names:
        watched = untouched if name != "export again" else [root / OUTSIDE, root / "cwd"]
        if name == "export again":
            before = traces(*watched)
        code, output, error = run_command(ALL[name], root)
        where = "" if error is None else _where(error)
        if error is not None:
            what = f"{type(error).__name__}: {str(error)[:200]!r}"
            yield Fault(case=case, path=shown, command=name, what=what, where=where, output=output)
        elif code not in ALL[name].codes and "error: storage" not in output:
            yield Fault(case=case, path=shown, command=name, what=f"exit code {code}", output=output)
        elif (wrong := _wrong_message(code, output)) is not None:
            yield Fault(case=case, path=shown, command=name, what=wrong, output=output)
        if _PICKLES:
            yield Fault(case=case, path=shown, command=name, what=f"a pickle was read: {_PICKLES[-1]}")
            _PICKLES.clear()
        after = traces(*watched)
        if after != before:
            changed = sorted(p for p in before.keys() | after.keys() if before.get(p) != after.get(p))
            yield Fault(case=case, path=shown, command=name, what=f"changed outside: {changed[:3]}")
        before, untouched = after, watched


def _wrong_message(code: int, output: str) -> str | None:
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    if code == 2 and len(lines) != 1:
        return f"{len(lines)} lines of error"
    if "Traceback (most recent call last)" in output and "a test" not in output:
        return "a traceback in its output"
    bad = next((c for c in output if not c.isprintable() and c not in "\n\t"), None)
    if bad is not None:
        return f"prints {bad!r}"
    return None


def _where(error: BaseException) -> str:
    """The last places of the project in a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if any(f"/{p}/" in f.filename for p in ("lth_trainable", "sweeps", "analysis"))]
    return " < ".join(f"{Path(f.filename).name}:{f.lineno}:{f.name}" for f in reversed(ours[-4:]))


# -- one command -------------------------------------------------------------------------------------------------------

_PICKLES: list[str] = []
_IS_WATCHING = False


def _watch_pickles(event: str, arguments: tuple[object, ...]) -> None:
    if event == "pickle.find_class" and _IS_WATCHING and arguments[0] != "my_plug_in":
        _PICKLES.append(".".join(map(str, arguments[:2])))


sys.addaudithook(_watch_pickles)


def run_command(command: Command, root: Path) -> tuple[int, str, BaseException | None]:
    """Run a command with its output captured, and with a limit on its time: exit code, output, what it raised."""
    global _IS_WATCHING
    out = io.StringIO()
    with (
        contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.chdir(root / "cwd"),
        _limit(SECONDS),
    ):  # fmt: skip
        _IS_WATCHING = True
        sys.path.insert(0, os.getcwd())
        try:
            return command.run(root), out.getvalue(), None
        except SystemExit as error:  # of the parser
            return (error.code if isinstance(error.code, int) else -1), out.getvalue(), None
        except (Exception, Hung) as error:
            return -1, out.getvalue(), error
        finally:
            _IS_WATCHING = False
            sys.path.remove(os.getcwd())
            for name in ("my_recipe", "my_plug_in"):
                sys.modules.pop(name, None)


@contextlib.contextmanager
def _limit(seconds: int) -> Iterator[None]:
    def hang(_: int, __: FrameType | None) -> None:
        raise Hung(f"it did not end within {seconds} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
