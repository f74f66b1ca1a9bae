"""The training step as one CUDA graph: forward, backward, optimiser and mask in one launch.

On a GPU, most of the time of a small network's step goes into launches: Python starts some hundreds of kernels, each of
which ends before the next one starts. A graph is captured from the learner's own step with its callbacks, so it starts
the same kernels on the same memory and gives the same bytes. It reads what changes from step to step (batch, learning
rate, random stream) from the device. Results are the same with and without graphs, so they are not in the fingerprint.
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
from lth_trainable.stopwatch import part
from lth_trainable.training.fastai_adapter import eager_step

WITHIN_A_STEP = (
    "after_pred", "after_loss", "before_backward", "after_backward", "after_cancel_backward", "before_step",
    "after_step", "after_cancel_step",
)  # fmt: skip

Shapes = tuple[torch.Size, ...]


class CapturedSteps(Callback):
    """Runs the training steps of its learner as CUDA graphs, one for each shape of a batch.

    The first step of each shape is eager: it creates the optimiser's state, libraries choose their kernels, and it
    shows whether anything waits for the device, which a graph cannot contain. The second step is captured. If tensors
    have been replaced since (a new mask, a restored optimiser), graphs are captured again. Steps stay eager if momentum
    changes (a graph would keep it constant), if callbacks other than that of the mask act within a step, or if the
    network cannot be captured; in the last case `refusal` says why.
    """

    order = 70  # after the callbacks that prune, rewind and mask at the start of an epoch
    broken: str | None = None  # why a capture failed in this process; its memory pools are then not reliable any more

    def __init__(self) -> None:
        self.refusal = self.broken
        self._usable = False
        self._graphs: dict[Shapes, _Graph] = {}
        self._seen: set[Shapes] = set()
        self._held: list[Tensor] = []  # what the graphs work on; kept, so that their memory is not reused
        self._pool: Any = None

    def before_train(self) -> None:
        held = self._tensors()
        if len(held) != len(self._held) or any(a is not b for a, b in zip(held, self._held, strict=True)):
            self._graphs, self._held, self._pool = (
                {},
                held,
                None,
            )  # a pool without its graphs cannot be reused
        if not self.learn.opt.opt.state:
            self._seen.clear()
        others = [cb for cb in self.learn.cbs if not isinstance(cb, KeepMask)]
        acting = [cb for cb in others if any(hasattr(type(cb), event) for event in WITHIN_A_STEP)]
        cycles = self.learn.clock.curve.rule.cycles_momentum
        self._usable = self.refusal is None and not acting and not cycles

    def take(self) -> bool:
        """Run the step of the learner's current batch; False if the learner must do it eagerly."""
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
        """Every tensor that a step reads or writes and that exists beyond the step."""
        learn = self.learn
        state = [
            value for values in learn.opt.opt.state.values() for value in values.values() if torch.is_tensor(value)
        ]
        masks = [factor for cb in learn.cbs if isinstance(cb, KeepMask) for factor in cb.pruner.factors()]
        return [*learn.model.parameters(), *learn.model.buffers(), *state, *masks]

    def _watch_step(self) -> None:
        """Run an eager step and detect whether it waits for the device."""
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

    @part("capture")
    def _capture(self, shapes: Shapes) -> bool:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        try:
            self._graphs[shapes] = _Graph(self.learn, self._pool)
        except RuntimeError as error:  # no part of the step has run
            self.learn.opt.zero_grad()
            self.refusal = CapturedSteps.broken = str(error).splitlines()[0]
            self._usable = False
        return self._usable


class _Graph:
    """The graph of one step. It reads its batch from fixed memory. pool: memory that graphs share."""

    def __init__(self, learn: Any, pool: Any) -> None:
        original = learn.xb, learn.yb
        learn.pred = learn.loss = learn.loss_grad = None  # those of the last step have autograd nodes on another stream
        learn.xb, learn.yb = (tuple(tensor.clone() for tensor in tensors) for tensors in original)
        self.batch = *learn.xb, *learn.yb
        self.graph = torch.cuda.CUDAGraph()
        try:
            with self._captured(pool):
                eager_step(learn)
            self.pred, self.loss = learn.pred.detach(), learn.loss.detach()
        finally:
            learn.xb, learn.yb = original

    def replay(self, learn: Any) -> None:
        for own, new in zip(self.batch, (*learn.xb, *learn.yb), strict=True):
            own.copy_(new)
        self.graph.replay()
        learn.pred, learn.loss, learn.loss_grad = self.pred, self.loss, self.loss

    @contextlib.contextmanager
    def _captured(self, pool: Any) -> Iterator[None]:
        here, side_stream = torch.cuda.current_stream(), _side_stream(torch.cuda.current_device())
        side_stream.wait_stream(here)
        with torch.cuda.stream(side_stream), _no_collection():
            try:
                self.graph.capture_begin(pool=pool, capture_error_mode="thread_local")
                yield
            except BaseException:  # Ctrl-C too: a capture that is not ended leaves the device unusable
                with contextlib.suppress(RuntimeError):  # it would only report the first error again
                    self.graph.capture_end()
                _free_random_stream(torch.cuda.current_device())
                raise
            self.graph.capture_end()
        here.wait_stream(side_stream)


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


class RateOnDevice(OptimWrapper):
    """fastai's wrapper of a PyTorch optimiser, with the learning rate in a GPU tensor that graphs can read.

    The rate is rounded to float32, with graphs and without, so that both give the same bytes.
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
        """Like fastai's, but a learning rate is copied to its tensor instead of replacing it in the optimiser."""
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
        """Load the optimiser's state, but keep the current learning rate."""
        self.opt.load_state_dict(state)
        self._hand_over()

    def _hand_over(self) -> None:
        for group, rate in zip(self.opt.param_groups, self.on_device, strict=True):
            group["lr"] = rate
