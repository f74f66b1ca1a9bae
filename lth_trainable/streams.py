"""The global random streams of Python, NumPy and torch, set from named seeds and put back.

A user's transforms draw from these streams. In a trial they are set anew for each image and each batch, so nothing
depends on the number of worker processes, on where an epoch starts, or on what was drawn before.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np


def seed_all(seed: int, device: Any = None) -> None:
    """Seed Python's, NumPy's and, if it is loaded, torch's global stream. device: a GPU whose stream is seeded too."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (what users' transforms draw from)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.default_generator.manual_seed(seed)
        if device is not None and device.type == "cuda":
            torch.cuda.manual_seed_all(seed)


@contextlib.contextmanager
def streams_put_back(device: Any = None) -> Iterator[None]:
    """Whatever is drawn or seeded inside, the streams are afterwards as they were before.

    device: a GPU whose stream is put back too; otherwise only those of the CPU are.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    torch = sys.modules.get("torch")
    state = None if torch is None else torch.get_rng_state()
    has_gpu = torch is not None and device is not None and device.type == "cuda"
    of_gpu = torch.cuda.get_rng_state(device) if torch is not None and has_gpu else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        if torch is not None:
            torch.set_rng_state(state)
        if of_gpu is not None and torch is not None:
            torch.cuda.set_rng_state(of_gpu, device)


@contextlib.contextmanager
def all_streams_put_back() -> Iterator[None]:
    """`streams_put_back` with the streams of all devices that torch has."""
    torch = sys.modules.get("torch")
    on_gpus = torch.cuda.get_rng_state_all() if torch is not None and torch.cuda.is_initialized() else None
    on_mps = torch.mps.get_rng_state() if torch is not None and torch.backends.mps.is_available() else None
    try:
        with streams_put_back():
            yield
    finally:
        if torch is not None and on_gpus is not None:
            torch.cuda.set_rng_state_all(on_gpus)
        if torch is not None and on_mps is not None:
            torch.mps.set_rng_state(on_mps)
