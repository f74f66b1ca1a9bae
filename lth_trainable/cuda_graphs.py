"""CUDA graphs: kernels that are started once by Python and afterwards all at once, on the same memory."""

from __future__ import annotations

import contextlib
import functools
import gc
import warnings
from collections.abc import Iterator
from typing import Any

import torch


class Graph:
    """What a block has started on a GPU, to be started again. pool: memory that graphs share.

        graph = Graph(pool)
        with graph.captured():
            ...                # nothing runs yet
        graph.replay()

    The block must not wait for the device. Raises RuntimeError if it cannot be captured; then nothing has run.
    """

    def __init__(self, pool: Any) -> None:
        self._graph, self._pool = torch.cuda.CUDAGraph(), pool
        self.replay = self._graph.replay

    @contextlib.contextmanager
    def captured(self) -> Iterator[None]:
        here, side_stream = torch.cuda.current_stream(), _side_stream(torch.cuda.current_device())
        side_stream.wait_stream(here)
        with torch.cuda.stream(side_stream), _no_collection():
            try:
                self._graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                yield
            except BaseException:  # Ctrl-C too: a capture that is not ended leaves the device unusable
                with contextlib.suppress(RuntimeError):  # it would only report the first error again
                    self._graph.capture_end()
                _free_random_stream(torch.cuda.current_device())
                raise
            self._graph.capture_end()
        here.wait_stream(side_stream)


class Waits:
    """Whether a block waits for the device, which a graph cannot contain."""

    found = False

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        for warning in caught:
            if "synchronizing CUDA operation" in str(warning.message):
                self.found = True
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


@functools.cache
def _side_stream(device: int) -> torch.cuda.Stream:
    """A stream for captures, which the default stream cannot do. One for all, as cuBLAS has a workspace for each."""
    return torch.cuda.Stream(device)


def _free_random_stream(device: int) -> None:
    """Replace torch's random stream of a GPU, which a failed capture leaves unusable, by a new one of the same seed."""
    generator = torch.cuda.default_generators[device]
    fresh = torch.Generator(f"cuda:{device}").manual_seed(generator.initial_seed())
    generator.graphsafe_set_state(fresh.graphsafe_get_state())


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection inside the context: collecting a GPU tensor during a capture would break it."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
