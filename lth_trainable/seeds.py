"""Randomness as a function: every random stream is named by (seed, purpose, epoch or step, level).

No stream's position ever matters, so a trial that is resumed, or started from another trial's state, draws exactly
what the uninterrupted trial would have drawn.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, purpose: str, *where: int) -> int:
    """A 63-bit seed for `purpose` ("init", "order", "forward", "criterion") at `where` (epoch, level, ...).

    SHA-256 of the decimal text, so that neighbouring seeds and epochs give unrelated streams.
    """
    text = ":".join([str(seed), purpose, *map(str, where)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, *where: int) -> np.random.Generator:
    """A numpy generator (PCG64) on the stream of `derive_seed`."""
    return np.random.Generator(np.random.PCG64(derive_seed(seed, purpose, *where)))
