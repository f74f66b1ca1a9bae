"""Random numbers as a function of (seed, purpose, epoch or step, level).

No random stream is ever continued, so a trial that is resumed, or that starts from the state of another trial, draws
exactly the numbers that the uninterrupted trial would have drawn.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, purpose: str, *where: int) -> int:
    """A 63-bit seed for a purpose ("init", "order", "forward", "criterion") at a place in training (epoch, level, ...).

    It is taken from the SHA-256 of the decimal text, so that neighbouring seeds and epochs give unrelated streams.
    """
    text = ":".join([str(seed), purpose, *map(str, where)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, *where: int) -> np.random.Generator:
    """A numpy generator (PCG64) seeded with `derive_seed`."""
    return np.random.Generator(np.random.PCG64(derive_seed(seed, purpose, *where)))
