"""The steps and the evaluation of a stack as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch

from lth_trainable.cuda_graphs import Graph, Waits
from lth_trainable.stopwatch import part

KEPT = 16  # graphs; more are needed only while members have ever new combinations of learning rates


class Replays:
    """Runs work eagerly the first time, captures it the second time, and then replays it.

    The first time libraries choose their kernels, and it shows whether the work waits for the device, which a graph
    cannot contain. Then, or if a capture fails, everything stays eager; `refusal` says why. On a CPU everything is.
    waits_at_first: the first time of each kind of work a compiler waits for the device, so it shows the second time.
    """

    def __init__(self, device: torch.device, *, waits_at_first: bool = False) -> None:
        self.refusal: str | None = None if device.type == "cuda" else "only GPUs have graphs"
        self._waits_at_first = waits_at_first
        self._compiled: set[Hashable] = set()  # kinds of work for which the compiler has waited
        self._seen: set[Hashable] = set()
        self._graphs: dict[Hashable, tuple[Graph, Any, Any]] = {}
        self._pool: Any = None

    def run(self, kind: Hashable, work: Callable[[], Any], variant: Hashable = None, reads: Any = None) -> Any:
        """Do some work, and return what it returns: tensors, which the next run of the same work changes.

        kind: what the work is; the first time is eager. variant: further differences, each with a graph of its own.
        reads: what must exist as long as the graph, beside what the caller keeps.
        """
        if self.refusal is None and (kind, variant) in self._graphs:
            graph, found, _ = self._graphs[kind, variant] = self._graphs.pop((kind, variant))  # now the last one used
            graph.replay()
            return found
        if self.refusal is not None:
            return work()
        if self._waits_at_first and kind not in self._compiled:
            self._compiled.add(kind)
            return work()
        if kind not in self._seen:
            self._seen.add(kind)
            waits = Waits()
            with waits.watched():
                found = work()
            if waits.found:
                self.refusal = "it waits for the device"
            return found
        return self._captured((kind, variant), work, reads)

    @part("capture")
    def _captured(self, key: Hashable, work: Callable[[], Any], reads: Any) -> Any:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = Graph(self._pool)
        try:
            with graph.captured():
                found = work()
        except RuntimeError as error:  # none of the work has been done
            self.refusal = str(error).splitlines()[0]
            self._graphs.clear()  # they share the memory of the failed one
            return work()
        if len(self._graphs) >= KEPT:
            del self._graphs[next(iter(self._graphs))]  # the one that was not used for longest
        self._graphs[key] = graph, found, reads
        graph.replay()
        return found
