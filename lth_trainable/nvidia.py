"""The GPUs that PyTorch can use on this machine, asked of NVIDIA's driver: PyTorch takes seconds to import.

    python -I -S nvidia.py

prints what the driver says, as JSON. A process of its own asks, because whoever has asked may not fork, and cannot
change CUDA_VISIBLE_DEVICES any more. Asking makes no CUDA context. Only the standard library is imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from glob import glob
from pathlib import Path
from typing import Any

LIBRARY = "libcuda.so.1"
SUCCESS, NO_DEVICE = 0, 100  # CUDA_SUCCESS, CUDA_ERROR_NO_DEVICE: none, or none in CUDA_VISIBLE_DEVICES
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
# of NVIDIA's drivers, AMD's, and that of Windows for the Linux within it
DEVICE_FILES = ("/dev/nvidia*", "/dev/nvmap", "/dev/kfd", "/dev/dxg")
READ_BY_DRIVER = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
ANSWER_SECONDS = 60.0

Capabilities = list[tuple[int, int]]


def capabilities(torch: Path | None = None) -> Capabilities | None:
    """Compute capability (major, minor) of each GPU, in PyTorch's order; None if only PyTorch itself knows.

    torch: folder of the package, found if None.
    """
    cuda = _cuda_of_torch(torch)
    if cuda is None:
        return None
    if cuda == 0:
        return []
    version, gpus = _asked(_read_by_driver())
    return list(gpus) if version >= cuda else None  # an older driver may do or not


def about_torch(folder: Path | None = None) -> str | None:
    """The text of the file in which PyTorch says its version and what it is built for; None if it is not found.

    folder: of the package, found if None.
    """
    if folder is None:
        spec = importlib.util.find_spec("torch")
        folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    file = None if folder is None else folder / "version.py"
    return file.read_text(encoding="utf-8") if file is not None and file.is_file() else None


def _cuda_of_torch(folder: Path | None) -> int | None:
    """The major version of CUDA that PyTorch is built for; 0: for none; None: not known, or for other GPUs."""
    text = about_torch(folder)
    if text is None:
        return None
    built = dict(re.findall(r"^(\w+)(?:: [^=]*)? = '?([^'\n]*)'?$", text, re.MULTILINE))
    if built.get("hip", "None") != "None" or "cuda" not in built:
        return None
    found = re.match(r"\d+", built["cuda"])
    return int(found[0]) if found else 0


_ahead: dict[tuple[str | None, ...], subprocess.Popen[bytes]] = {}  # by what the driver reads


def ask_ahead() -> None:
    """Have the driver asked while a command imports; the answer takes a moment. Not where there is no GPU."""
    if sys.platform == "linux" and has_device_file():
        with contextlib.suppress(OSError):  # no memory for another process: it is asked later
            _ahead[_read_by_driver()] = _asking()


def has_device_file() -> bool:
    """Whether there is a file of any GPU, on Linux."""
    return any(map(glob, DEVICE_FILES))


def _read_by_driver() -> tuple[str | None, ...]:
    return tuple(os.environ.get(name) for name in READ_BY_DRIVER)


def _asking() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-S", __file__]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


@functools.lru_cache
def _asked(environment: tuple[str | None, ...]) -> tuple[int, tuple[tuple[int, int], ...]]:
    """What a new process hears: the major version of CUDA that the driver has, and capabilities. (-1, ()): nothing."""
    try:
        with _ahead.pop(environment, None) or _asking() as process:
            try:
                answer = json.loads(process.communicate(timeout=ANSWER_SECONDS)[0])
            except (subprocess.TimeoutExpired, ValueError):
                process.kill()
                answer = None
    except OSError:
        answer = None
    if answer is None:
        return -1, ()
    return answer["version"], tuple((major, minor) for major, minor in answer["gpus"])


def said_by_driver(load: Callable[[str], Any] = ctypes.CDLL) -> dict[str, Any] | None:
    """Its version of CUDA and the capability of each GPU; None if there is no driver, or if it answers an error."""
    try:
        driver = load(LIBRARY)
    except OSError:
        return None
    version, count = ctypes.c_int(), ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) != SUCCESS:
        return None
    found: dict[str, Any] = {"version": version.value // 1000, "gpus": []}
    status = driver.cuInit(0)
    if status == NO_DEVICE:
        return found
    if status != SUCCESS or driver.cuDeviceGetCount(ctypes.byref(count)) != SUCCESS:
        return None
    for index in range(count.value):
        device, numbers = ctypes.c_int(), (ctypes.c_int(), ctypes.c_int())
        statuses = [driver.cuDeviceGet(ctypes.byref(device), index)]
        for number, attribute in zip(numbers, (MAJOR, MINOR), strict=True):
            statuses.append(driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device))
        if any(status != SUCCESS for status in statuses):
            return None
        found["gpus"].append([number.value for number in numbers])
    return found


if __name__ == "__main__":
    print(json.dumps(said_by_driver()))
