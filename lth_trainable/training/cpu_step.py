"""The training step of a trial on a CPU, with little but arithmetic in it.

A step of a small network takes less than a millisecond, of which fastai's events and PyTorch's bookkeeping take a good
part. This step leaves both out, if nothing would see the difference: the same calls of PyTorch's kernels in the same
order, on the same numbers, so the same bytes. If a callback acts within a step, fastai's own step is made.
"""

from __future__ import annotations

from typing import Any

from fastai.optimizer import OptimWrapper

from lth_trainable.pruning.keep_mask import KeepMask
from lth_trainable.training.captured import WITHIN_A_STEP
from lth_trainable.training.compiled import compiled
from lth_trainable.training.torch_adapter import direct_step, is_plain


class PlainSteps:
    """Makes the training steps of a learner on a CPU. The mask is kept; no other callback acts within a step."""

    def __init__(self) -> None:
        self._seen: tuple[Any, Any] = (None, None)  # callbacks and optimiser for which the rest was found out
        self._keepers: list[KeepMask] = []
        self._usable = False

    def __reduce__(self) -> Any:
        """In a pickle of the learner there is nothing of what was found out."""
        return PlainSteps, ()

    def take(self, learn: Any) -> bool:
        """Make the step of the current batch of a `TrialLearner`; False, with nothing done: fastai has to make it."""
        seen = learn.known_listeners, learn.opt
        if seen[0] is not self._seen[0] or seen[1] is not self._seen[1]:
            self._seen = seen
            self._look(learn)
        if not self._usable or not learn.yb or not all(keeper.run and keeper.run_train for keeper in self._keepers):
            return False
        with compiled(learn.model):
            learn.pred = learn.model(*learn.xb)
        loss = learn.loss_func(learn.pred, *learn.yb)
        learn.loss_grad, learn.loss = loss, loss.detach()
        loss.backward()
        for keeper in self._keepers:
            keeper.after_backward()
        if not direct_step(learn.opt.opt):
            learn.opt.step()
        for keeper in self._keepers:
            keeper.after_step()
        for group in learn.opt.opt.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        return True

    def _look(self, learn: Any) -> None:
        """Find out whether steps can be plain with these callbacks and this optimiser."""
        acting = {id(cb): cb for event in WITHIN_A_STEP for cb in learn.listeners(event)}.values()
        self._keepers = [cb for cb in acting if type(cb) is KeepMask]
        self._usable = len(self._keepers) == len(acting) and type(learn.opt) is OptimWrapper and is_plain(learn.opt.opt)
