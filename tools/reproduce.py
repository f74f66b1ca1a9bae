"""Run a recipe, keep its results in build/results, and compare them with those in results/ (`make reproduce`).

    .venv/bin/python tools/reproduce.py RECIPE [--out DIR] [arguments of sweeps.lth_grid]

The exit code is that of the first command that fails, else 0; results may differ from those that are there.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = Path("build") / "results"


def main(arguments: Sequence[str]) -> int:
    """Run the commands one after the other."""
    if not arguments or arguments[0].startswith("-"):
        print("reproduce: found no recipe; expected its name, such as make reproduce RECIPE=digits", file=sys.stderr)
        return 2
    recipe, rest = arguments[0], list(arguments[1:])
    out = Path(_taken(rest, "--out") or OUT)
    run = f"{_value(rest, '--storage') or 'runs'}/{_value(rest, '--name') or recipe}"
    is_new = not Path(run, "plan.json").exists()
    started = time.monotonic()
    code = _run("sweeps.lth_grid", recipe, *rest)
    seconds = time.monotonic() - started
    if code:
        return code
    if recipe.endswith("_supermask"):
        root = _value(rest, "--data-root")
        code = _run("analysis", "supermasks", run, *(["--data-root", root] if root else []))
        code = code or _run("analysis", run)  # its report and its published figures, with the supermasks
    took = ["--seconds", f"{seconds:.1f}"] if is_new else []  # a resumed run took longer than this command
    code = code or _run("analysis", "results", run, *took, "--out", str(out))
    kept = ROOT / "results" / Path(run).name
    if code or not (kept / "plan.json").exists() or kept.resolve() == (out / Path(run).name).resolve():
        return code
    return _run("analysis", "compare", str(kept), str(out / Path(run).name))


def _run(*words: str) -> int:
    print(f"$ python -m {' '.join(words)}", flush=True)
    return subprocess.run([sys.executable, "-m", *words], check=False).returncode


def _value(arguments: Sequence[str], flag: str) -> str | None:
    """The value of a flag among the arguments, as `--flag value` or `--flag=value`; None without it."""
    for word, after in zip(arguments, [*arguments[1:], None], strict=False):
        if word == flag:
            return after
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def _taken(arguments: list[str], flag: str) -> str | None:
    """The value of a flag, which is removed from the arguments."""
    value = _value(arguments, flag)
    if flag in arguments:
        del arguments[arguments.index(flag) : arguments.index(flag) + 2]
    else:
        arguments[:] = [word for word in arguments if not word.startswith(f"{flag}=")]
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
