"""The training of an epoch as CUDA graphs: forward, backward, optimiser and mask of a step in one launch.

On a GPU, most of the time of a small network's step goes into launches: Python starts some hundreds of kernels, each of
which ends before the next one starts. A graph is captured from the learner's own step with its callbacks, so it starts
the same kernels on the same memory and gives the same bytes. It reads from the device what changes from step to step:
which images come next, how they are augmented, learning rate and momentum, the random stream. Results are the same with
and without graphs, so they are not in the fingerprint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fastai.callback.core import Callback, TrainEvalCallback
from torch import Tensor

from lth_trainable.cuda_graphs import Graph, Waits
from lth_trainable.data.device_epoch import DeviceEpoch
from lth_trainable.data.loaders import ResidentLoader
from lth_trainable.pruning.keep_mask import KeepMask
from lth_trainable.silence import pulse
from lth_trainable.stopwatch import part
from lth_trainable.training.compiled import is_compiled
from lth_trainable.training.measure import evaluate
from lth_trainable.training.precision import Autocast

WITHIN_A_STEP = (
    "after_pred", "after_loss", "before_backward", "after_backward", "after_cancel_backward", "before_step",
    "after_step", "after_cancel_step",
)  # fmt: skip
AROUND_A_STEP = ("before_batch", "after_batch")

Shapes = tuple[torch.Size, ...]


class CapturedSteps(Callback):
    """Runs the training steps and the validation of its learner as CUDA graphs, one for each shape of a batch.

    The first step of each shape is eager: it creates the optimiser's state, libraries choose their kernels, and it
    shows whether anything waits for the device, which a graph cannot contain. The second step is captured. A network
    that is compiled has one eager step more, since the compiler waits. If tensors
    have been replaced since (a new mask, a restored optimiser), graphs are captured again.

    With data in memory, a whole epoch is replays: `train_epoch`. Callbacks that act at some batches of an epoch have a
    method `acts_at(event, n_iter)`, which returns the numbers of these batches (from 0); those whose work a graph does
    have a true `is_in_graphs`. If any other callback has events around a batch, batches come from the loader, one by
    one, and only their steps are graphs, so it finds the batch, the prediction and the loss. Steps are eager if
    callbacks other than that of the mask act within a step, or if the network cannot be captured; `refusal` says why.
    """

    order = 70  # after the callbacks that prune, rewind and mask at the start of an epoch
    broken: str | None = None  # why a capture failed in this process; its memory pools are then not reliable any more

    def __init__(self) -> None:
        self.refusal = self.broken
        self._usable = False
        self._steps: dict[Shapes, tuple[_Step, Graph]] = {}  # of batches that a loader makes
        self._replays: dict[int, Callable[[], None]] = {}  # of batches of the epoch on the device, by their size
        self._seen: set[Shapes] = set()
        self._compiled: set[Shapes] = set()  # of steps whose network has been compiled
        self._held: list[Tensor] = []  # what the graphs work on; kept, so that their memory is not reused
        self._pool: Any = None
        self._epoch: _Epoch | None = None
        self._validation: _Validation | None = None
        self._draws = False  # whether a step draws random numbers on the device

    # -- before an epoch ---------------------------------------------------------------------------------------------

    def before_train(self) -> None:
        held = self._tensors()
        if len(held) != len(self._held) or any(a is not b for a, b in zip(held, self._held, strict=True)):
            self._steps, self._replays, self._validation, self._held = {}, {}, None, held
            self._pool = None  # a pool without its graphs cannot be reused
        if not self.learn.opt.opt.state:
            self._seen.clear()
        others = acting_within(self.learn)
        if self.refusal is None and others:
            self.refusal = f"{type(others[0]).__name__} acts within it"
        self._usable = self.refusal is None

    def _tensors(self) -> list[Tensor]:
        """Every tensor that a step reads or writes and that exists beyond the step."""
        learn = self.learn
        state = [
            value for values in learn.opt.opt.state.values() for value in values.values() if torch.is_tensor(value)
        ]
        masks = [factor for cb in learn.cbs if isinstance(cb, KeepMask) for factor in cb.pruner.factors()]
        return [*learn.model.parameters(), *learn.model.buffers(), *state, *masks]

    # -- a whole epoch -----------------------------------------------------------------------------------------------

    def train_epoch(self) -> bool:
        """Train the learner's epoch; False if the learner must go through its batches itself."""
        loader = self.learn.dl
        if not (self._usable and isinstance(loader, ResidentLoader)):
            return False
        self.learn.n_iter = len(loader)
        if not say_when(self.learn):
            return False
        acts = {event: acting(self.learn, event) for event in AROUND_A_STEP}
        if self._epoch is None or self._epoch.data.loader is not loader:
            self._epoch, self._replays = _Epoch(self.learn, loader), {}
        epoch = self._epoch
        epoch.begin()
        try:
            for i, number in enumerate(range(loader.skip, loader.steps_per_epoch)):
                self._train_batch(epoch, i, epoch.data.size(number), acts)
        finally:
            epoch.leave()
        loader.end_pass()
        return True

    def _train_batch(self, epoch: _Epoch, i: int, size: int, acts: dict[str, dict[int, list[Callback]]]) -> None:
        learn = self.learn
        replay = self._replays.get(size) or self._captured_batch(epoch, size)
        if replay is None:
            epoch.leave()
            learn.one_batch(i, epoch.data.batch(size))
            epoch.data.number.add_(1)
            return
        epoch.enter()
        learn.iter = i
        for cb in acts["before_batch"].get(i, ()):
            cb("before_batch")
        if self._draws:
            learn.clock.seed()
        replay()
        epoch.n_replayed, epoch.last = epoch.n_replayed + size, learn.clock.number
        learn.train_iter, learn.pct_train = learn.train_iter + 1, learn.pct_train + 1 / (learn.n_iter * learn.n_epoch)
        pulse.step()
        for cb in acts["after_batch"].get(i, ()):
            cb("after_batch")

    def _captured_batch(self, epoch: _Epoch, size: int) -> Callable[[], None] | None:
        """The graph of a batch of this size; None if it is to be trained eagerly, at least this time."""
        shapes = torch.Size([size, *epoch.data.loader.x.shape[1:]]), torch.Size([size])
        if not self._usable or shapes not in self._seen:
            return None
        graph = self._capture(lambda: epoch.step(size))
        if graph is not None:
            self._replays[size] = graph.replay
        return self._replays.get(size)

    # -- validation --------------------------------------------------------------------------------------------------

    def validate_epoch(self) -> bool:
        """Validate the learner's epoch; False if the learner must go through its batches itself."""
        learn = self.learn
        if not (self.can_validate and learn.dl is learn.dls.valid):
            return False
        if not say_when(learn, "after_batch"):
            return False
        learn.n_iter = len(learn.dl)
        learn.epoch_log.take(*self.sums_on_validation(), learn.dl.n)
        return True

    @property
    def can_validate(self) -> bool:
        return self._usable and isinstance(self.learn.dls.valid, ResidentLoader)

    def sums_on_validation(self) -> tuple[float, float]:
        """The sum of the losses, and the number of right answers, on the validation split."""
        learn = self.learn
        if self._validation is None:
            self._validation = _Validation(learn)
            return self._validation.eager()
        validation = self._validation
        if self._usable and validation.replay is None:
            graph = self._capture(validation.record)
            validation.replay = graph.replay if graph is not None else None
        return validation.replayed() if validation.replay is not None else validation.eager()

    # -- a batch that a loader makes ---------------------------------------------------------------------------------

    def take(self) -> bool:
        """Run the step of the learner's current batch; False if the learner must do it eagerly."""
        if not self._usable:
            return False
        shapes = tuple(tensor.shape for tensor in (*self.learn.xb, *self.learn.yb))
        if is_compiled(self.learn.model) and shapes not in self._compiled:
            self._compiled.add(shapes)
            self._compile()
            return True
        if shapes not in self._seen:
            self._seen.add(shapes)
            self._watch_step()
            return True
        if shapes not in self._steps:
            step = _Step(self.learn)
            graph = self._capture(step.record)
            if graph is None:
                return False
            self._steps[shapes] = step, graph
        step, graph = self._steps[shapes]
        step.replay(graph)
        return True

    @part("capture")
    def _compile(self) -> None:
        """Run an eager step, in which the compiler may wait for the device as often as it likes."""
        self.learn.do_step()

    def _watch_step(self) -> None:
        """Run an eager step; find out whether it waits for the device, and whether it draws random numbers there."""
        waits, stream = Waits(), torch.cuda.default_generators[torch.cuda.current_device()]
        before = stream.get_offset()
        with waits.watched():
            self.learn.do_step()
        self._draws = self._draws or stream.get_offset() != before
        if waits.found:
            self.refusal, self._usable = "it waits for the device", False

    @part("capture")
    def _capture(self, record: Callable[[], None]) -> Graph | None:
        """The graph of what `record` does; None if that cannot be captured."""
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = Graph(self._pool)
        try:
            with graph.captured():
                record()
        except RuntimeError as error:  # no part of the step has run
            self.learn.opt.zero_grad()
            self.refusal = CapturedSteps.broken = str(error).splitlines()[0]
            self._usable = False
            self._steps, self._replays, self._validation = {}, {}, None  # they share the memory of the failed one
            return None
        self._held = self._tensors()  # the optimiser's are made in the first step
        return graph


class _Step:
    """A step that reads its batch from fixed memory."""

    def __init__(self, learn: Any) -> None:
        self.learn = learn
        self.batch = [tensor.clone() for tensor in (*learn.xb, *learn.yb)]

    def record(self) -> None:
        learn = self.learn
        original = learn.xb, learn.yb
        n_inputs = len(learn.xb)
        learn.xb, learn.yb = tuple(self.batch[:n_inputs]), tuple(self.batch[n_inputs:])
        try:
            _step_anew(learn)
            self.pred, self.loss = learn.pred.detach(), learn.loss.detach()
        finally:
            learn.xb, learn.yb = original

    def replay(self, graph: Graph) -> None:
        learn = self.learn
        for own, new in zip(self.batch, (*learn.xb, *learn.yb), strict=True):
            own.copy_(new)
        graph.replay()
        learn.pred, learn.loss, learn.loss_grad = self.pred, self.loss, self.loss


class _Epoch:
    """The steps of an epoch whose data, learning rates, momenta and sum of losses lie on the device.

    Between `enter` and `leave`, losses are summed on the device; otherwise by the learner's log.
    """

    def __init__(self, learn: Any, loader: ResidentLoader) -> None:
        self.learn, self.data = learn, DeviceEpoch(loader)
        self.loss = torch.zeros((), device=loader.device)
        n_steps, clock = loader.steps_per_epoch, learn.clock
        self.rates = torch.zeros(n_steps, device=loader.device) if clock.rate_moves else None
        momenta = torch.zeros(n_steps, dtype=torch.float64, device=loader.device)
        self.momenta = momenta if clock.momentum_moves else None
        self.n_replayed, self.last, self._inside = 0, 0, False  # last: number of the last batch that was replayed

    def begin(self) -> None:
        """Before the first batch of an epoch."""
        self.data.begin()
        clock = self.learn.clock
        for values, of in ((self.rates, clock.rate_of), (self.momenta, clock.momentum_of)):
            if values is not None:
                values.copy_(torch.tensor([of(number) for number in range(len(values))], dtype=values.dtype))

    def enter(self) -> None:
        if not self._inside:
            self.n_replayed, self._inside = 0, True
            self.loss.copy_(torch.as_tensor(self.learn.epoch_log.sums.loss))

    def leave(self) -> None:
        """Hand over to the log, and let the optimiser know its present rate and momentum."""
        if self._inside:
            self._inside = False
            log, clock = self.learn.epoch_log, self.learn.clock
            log.sums.loss, log.sums.seen = self.loss.clone(), log.sums.seen + self.n_replayed
            if self.rates is not None and self.n_replayed:
                momentum = clock.momentum_of(self.last) if self.momenta is not None else None
                self.learn.opt.follow(clock.rate_of(self.last), momentum)

    def step(self, size: int) -> None:
        """Train the next batch, which has this many images."""
        learn = self.learn
        x, y = self.data.batch(size)
        learn.xb, learn.yb = (x,), (y,)
        if self.rates is not None:
            now = self.data.number
            momentum = self.momenta.index_select(0, now) if self.momenta is not None else None
            learn.opt.read(self.rates.index_select(0, now), momentum)
        _step_anew(learn)
        self.loss.add_(learn.loss.detach() * size)
        self.data.number.add_(1)
        learn.xb = learn.yb = ()
        learn.pred = learn.loss = learn.loss_grad = None


class _Validation:
    """The sums on the validation split, computed eagerly or by a graph."""

    def __init__(self, learn: Any) -> None:
        self.learn = learn
        self.replay: Callable[[], None] | None = None
        self.sums: Tensor | None = None

    def record(self) -> None:
        learn = self.learn
        found = evaluate(learn.model, learn.dls.valid, learn.loss_func, learn.autocast)
        self.sums = torch.stack([found.loss.double(), found.correct.double()])

    def eager(self) -> tuple[float, float]:
        self.record()
        return self._read()

    def replayed(self) -> tuple[float, float]:
        assert self.replay is not None
        self.replay()
        return self._read()

    def _read(self) -> tuple[float, float]:
        assert self.sums is not None
        loss, correct = self.sums.tolist()
        return loss, correct


def acting_within(learn: Any) -> list[Callback]:
    """The callbacks that act within a step, without those of masks and precision, which every way to train has."""
    found = [cb for event in WITHIN_A_STEP for cb in learn.listeners(event)]
    return [cb for cb in found if not isinstance(cb, KeepMask | Autocast)]


def say_when(learn: Any, *events: str) -> bool:
    """Whether the callbacks around a batch all say at which batches they act, or need no events.

    The work of these is done beside the steps. events: all of `AROUND_A_STEP` by default.
    """
    return all(
        hasattr(type(cb), "acts_at") or getattr(type(cb), "is_in_graphs", False) or type(cb) is TrainEvalCallback
        for event in events or AROUND_A_STEP
        for cb in learn.listeners(event)
    )


def acting(learn: Any, event: str) -> dict[int, list[Callback]]:
    """The callbacks that act at batches of the epoch, by the number of the batch."""
    found: dict[int, list[Callback]] = {}
    for cb in learn.listeners(event):
        for number in cb.acts_at(event, learn.n_iter) if hasattr(type(cb), "acts_at") else ():
            found.setdefault(number, []).append(cb)
    return found


def _step_anew(learn: Any) -> None:
    """The learner's step, without what is left of the last one, whose autograd nodes are on another stream."""
    learn.pred = learn.loss = learn.loss_grad = None
    learn.do_step()
