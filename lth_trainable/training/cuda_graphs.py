"""The training step as one CUDA graph: forward, backward, optimiser and mask in one launch.

On a GPU a step of a small network is launches, not arithmetic: Python starts some hundreds of kernels, each of which is
over before the next one comes. A graph is captured from the learner's own step, callbacks included, so it starts the
same kernels on the same memory and gives the same bytes; what changes from step to step (batch, learning rate, random
stream) it reads from the device. So it is a matter of execution, and no fingerprint knows of it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from fastai.callback.core import Callback
from fastai.optimizer import OptimWrapper
from torch import Tensor

from lth_trainable.pruning.keep_mask import KeepMask
from lth_trainable.training.fastai_adapter import eager_step

WITHIN_A_STEP = (
    "after_pred", "after_loss", "before_backward", "after_backward", "after_cancel_backward", "before_step",
    "after_step", "after_cancel_step",
)  # fmt: skip

Shapes = tuple[torch.Size, ...]


class CapturedSteps(Callback):
    """Makes the training steps of its learner by graphs, one for each shape of a batch.

    The first step of a shape is eager: it creates the optimiser's state, libraries choose their kernels, and it shows
    whether anything in it waits for the device, which no graph can hold. The second is captured. Graphs whose tensors
    were replaced since (a new mask, an optimiser that returned to another state) are captured anew. Steps go on eagerly
    where momentum moves, which a graph would hold fast, where callbacks other than the mask's act within them, and
    where the network cannot be captured; then `refusal` says why.
    """

    order = 70  # after all that prunes, rewinds and masks as an epoch begins
    broken: str | None = None  # why a capture failed in this process: its memory pools are not to be trusted with more

    def __init__(self) -> None:
        self.refusal = self.broken
        self._usable = False
        self._graphs: dict[Shapes, _Graph] = {}
        self._seen: set[Shapes] = set()
        self._held: list[Tensor] = []  # what the graphs work on; kept, so that no other tensor takes its place
        self._pool: Any = None

    def before_train(self) -> None:
        held = self._tensors()
        if len(held) != len(self._held) or any(a is not b for a, b in zip(held, self._held, strict=True)):
            self._graphs, self._held, self._pool = {}, held, None  # PyTorch takes no pool again that lost its graphs
        if not self.learn.opt.opt.state:
            self._seen.clear()
        others = [cb for cb in self.learn.cbs if not isinstance(cb, KeepMask)]
        acting = [cb for cb in others if any(hasattr(type(cb), event) for event in WITHIN_A_STEP)]
        cycles = self.learn.clock.curve.rule.cycles_momentum
        self._usable = self.refusal is None and not acting and not cycles

    def take(self) -> bool:
        """Make the step of the learner's present batch; False where that is left to the learner."""
        if not self._usable:
            return False
        shapes = tuple(tensor.shape for tensor in (*self.learn.xb, *self.learn.yb))
        if shapes not in self._seen:
            self._seen.add(shapes)
            self._watch_step()
            return True
        if shapes not in self._graphs and not self._capture(shapes):
            return False
        self._graphs[shapes].replay(self.learn)
        return True

    def _tensors(self) -> list[Tensor]:
        """Every tensor that a step reads or writes and that outlives it."""
        learn = self.learn
        state = [
            value for values in learn.opt.opt.state.values() for value in values.values() if torch.is_tensor(value)
        ]
        masks = [factor for cb in learn.cbs if isinstance(cb, KeepMask) for factor in cb.pruner.factors()]
        return [*learn.model.parameters(), *learn.model.buffers(), *state, *masks]

    def _watch_step(self) -> None:
        """An eager step, and whether it waits for the device."""
        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                eager_step(self.learn)
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        for warning in caught:
            if "synchronizing CUDA operation" in str(warning.message):
                self.refusal, self._usable = "it waits for the device", False
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)

    def _capture(self, shapes: Shapes) -> bool:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        try:
            self._graphs[shapes] = _Graph(self.learn, self._pool)
        except RuntimeError as error:  # nothing of the step has run
            self.learn.opt.zero_grad()
            self.refusal = CapturedSteps.broken = str(error).splitlines()[0]
            self._usable = False
        return self._usable


class _Graph:
    """One step of a learner, on a batch that is copied to where the graph reads it. pool: memory that graphs share."""

    def __init__(self, learn: Any, pool: Any) -> None:
        given = learn.xb, learn.yb
        learn.pred = learn.loss = learn.loss_grad = None  # the last step's, whose autograd nodes are of another stream
        learn.xb, learn.yb = (tuple(tensor.clone() for tensor in part) for part in given)
        self.batch = *learn.xb, *learn.yb
        self.graph = torch.cuda.CUDAGraph()
        try:
            with self._captured(pool):
                eager_step(learn)
            self.pred, self.loss = learn.pred.detach(), learn.loss.detach()
        finally:
            learn.xb, learn.yb = given

    def replay(self, learn: Any) -> None:
        for mine, given in zip(self.batch, (*learn.xb, *learn.yb), strict=True):
            mine.copy_(given)
        self.graph.replay()
        learn.pred, learn.loss, learn.loss_grad = self.pred, self.loss, self.loss

    @contextlib.contextmanager
    def _captured(self, pool: Any) -> Iterator[None]:
        here, apart = torch.cuda.current_stream(), _stream_apart(torch.cuda.current_device())
        apart.wait_stream(here)
        with torch.cuda.stream(apart), _no_collection():
            try:
                self.graph.capture_begin(pool=pool, capture_error_mode="thread_local")
                yield
            except BaseException:
                with contextlib.suppress(RuntimeError):  # which only says that there was another error
                    self.graph.capture_end()
                _free_random_stream(torch.cuda.current_device())
                raise
            self.graph.capture_end()
        here.wait_stream(apart)


@functools.cache
def _stream_apart(device: int) -> torch.cuda.Stream:
    """For captures, which the default stream cannot make. One a process: cuBLAS keeps a workspace for each."""
    return torch.cuda.Stream(device)


def _free_random_stream(device: int) -> None:
    """Put torch's stream of a GPU, as it was seeded, in place of one that a broken capture has left unusable."""
    generator = torch.cuda.default_generators[device]
    fresh = torch.Generator(f"cuda:{device}").manual_seed(generator.initial_seed())
    generator.graphsafe_set_state(fresh.graphsafe_get_state())


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """A tensor of the GPU that is collected in the middle of a capture would break it."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class RateOnDevice(OptimWrapper):
    """fastai's wrapper of a PyTorch optimiser on a GPU, with the learning rate in a tensor, where a graph reads it.

    There it is rounded to float32, with graphs and without, so that both give the same bytes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rates = [float(group["lr"]) for group in self.opt.param_groups]
        self.on_device = [
            torch.tensor(rate, dtype=torch.float32, device=group["params"][0].device)
            for rate, group in zip(self.rates, self.opt.param_groups, strict=True)
        ]
        self._hand_over()

    def set_hyper(self, k: str, v: Any) -> None:
        """As fastai's, which leaves plain numbers in the optimiser's groups: a learning rate goes to its tensor."""
        super().set_hyper(k, v)
        if k != "lr":
            return
        for index, group in enumerate(self.opt.param_groups):
            if group["lr"] != self.rates[index]:
                self.rates[index] = float(group["lr"])
                self.on_device[index].fill_(self.rates[index])
        self._hand_over()

    @property
    def hypers(self) -> list[dict[str, Any]]:
        return [{**hyper, "lr": rate} for hyper, rate in zip(super().hypers, self.rates, strict=True)]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the optimiser's; the learning rate stays as it was set last."""
        self.opt.load_state_dict(state)
        self._hand_over()

    def _hand_over(self) -> None:
        for group, rate in zip(self.opt.param_groups, self.on_device, strict=True):
            group["lr"] = rate
