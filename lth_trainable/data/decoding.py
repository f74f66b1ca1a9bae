"""Decodes many images in several processes at once, one for each core. No torch.

Each is a new Python, which decodes a range of the images and writes their bytes to its standard output. An image that
it cannot decode ends it; then this process decodes what is missing, and raises what there is to raise.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from lth_trainable.silence import pulse

Bytes = npt.NDArray[np.uint8]
Decode = Callable[[int], Bytes]

LEAST = 250  # images for which a process is started
MOST_PROCESSES = 16
WORK = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); pickle.load(sys.stdin.buffer)()"


def decode_into(pixels: Bytes, decode: Decode) -> None:
    """Fill pixels (n, ...) with the image of each index. decode: can be pickled; raises what is wrong with an image."""
    n = len(pixels)
    processes = min(n // LEAST, cores(), MOST_PROCESSES)
    if processes < 2:
        _fill(pixels, 0, n, decode)
        return
    ends = [n * part // processes for part in range(processes + 1)]
    ranges = list(itertools.pairwise(ends))
    for (start, end), done in zip(ranges, _by_processes(pixels, ranges, decode), strict=True):
        _fill(pixels, start + done, end, decode)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fill(pixels: Bytes, start: int, end: int, decode: Decode) -> None:
    for index in range(start, end):
        pixels[index] = decode(index)
        pulse.beat()


def _by_processes(pixels: Bytes, ranges: list[tuple[int, int]], decode: Decode) -> list[int]:
    """How many images of each range a process has decoded, from its first on."""
    works = [_Work(decode, start, end) for start, end in ranges]
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(_started()) for _ in ranges]
        pool = stack.enter_context(ThreadPoolExecutor(len(ranges)))
        try:
            return list(pool.map(_received, processes, works, [pixels[start:end] for start, end in ranges]))
        except BaseException:  # a signal: the threads, which are waited for next, end with their processes
            for process in processes:
                process.kill()
            raise


@contextlib.contextmanager
def _started() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", WORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


class _Work:
    """What a process does: decode these images, and write them."""

    def __init__(self, decode: Decode, start: int, end: int) -> None:
        self.decode, self.start, self.end = decode, start, end

    def __call__(self) -> None:
        for index in range(self.start, self.end):
            sys.stdout.buffer.write(np.ascontiguousarray(self.decode(index)).data)
        sys.stdout.buffer.flush()


def _received(process: subprocess.Popen[bytes], work: _Work, pixels: Bytes) -> int:
    """Have a process do its work; returns how many whole images have come."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(OSError):  # it has ended, so nothing will come
        process.stdin.write(pickle.dumps(sys.path) + pickle.dumps(work))
    with contextlib.suppress(OSError):
        process.stdin.close()
    room, read = pixels.reshape(-1).data, 0
    while read < len(room) and (more := process.stdout.readinto(room[read:])):  # type: ignore[attr-defined]
        read += more
        pulse.beat()
    return read // pixels[0].size
