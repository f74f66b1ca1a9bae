"""What a trial needs of other packages, imported by each worker of a local sweep as soon as it starts.

So workers import while the command still starts Ray Tune. Ray imports a module by name in a new worker, which does not
know yet where the command has its code from. Therefore this file is copied into a folder of its own; it imports nothing
of this project.
"""

from __future__ import annotations

import gc
import importlib
import os
import shutil
import sys
from pathlib import Path

NAME, FOLDER, BEFORE = "lottery_sweep_preload", "preload", "LOTTERY_SWEEP_PYTHONPATH"
MODULES = "RAY_preload_python_modules"  # a setting of Ray
KEPT = "RAY_idle_worker_killing_time_threshold_ms"  # one that waits would end when Tune has reserved all cores
PACKAGES = (
    "ray.tune", "torch", "fastai.callback.core", "fastai.data.core", "fastai.learner", "fastai.losses",
    "fastai.optimizer", "pyarrow.fs", "safetensors.torch",
)  # fmt: skip


def preloading(folder: Path) -> dict[str, str]:
    """Environment variables with which Ray's workers import `PACKAGES` when they start. folder: for a file."""
    (folder / FOLDER).mkdir(exist_ok=True)
    shutil.copyfile(__file__, folder / FOLDER / f"{NAME}.py")
    before = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join([str(folder / FOLDER), *filter(None, [before])])
    return {MODULES: NAME, KEPT: "600000", "PYTHONPATH": path, BEFORE: before}


def preload() -> None:
    """Import `PACKAGES`, without Python's garbage collector, which would take a quarter of the time."""
    gc.disable()
    try:
        for package in PACKAGES:
            importlib.import_module(package)
    except Exception as error:  # the trial imports it again, fails, and its record says why
        print(f"{NAME}: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        gc.enable()


def forget_folder() -> None:
    """Let what this worker starts have the PYTHONPATH of the command."""
    sys.path[:] = [path for path in sys.path if path != str(Path(__file__).parent)]
    os.environ.pop(MODULES, None)
    before = os.environ.pop(BEFORE, "")
    if before:
        os.environ["PYTHONPATH"] = before
    else:
        os.environ.pop("PYTHONPATH", None)


if __name__ == NAME:
    forget_folder()
    preload()
