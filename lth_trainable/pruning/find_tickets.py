"""Iterative magnitude pruning in a notebook, level by level, as a sweep's trials do it.

for level in find_tickets(learn, prune_rate=20, rewind_epoch=1, levels=5):
    print(level.sparsity, level.metrics)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lth_trainable.errors import UserError, bad_value, check_whole
from lth_trainable.pruning.criteria import Criterion, is_same
from lth_trainable.pruning.layers import LayerType, Selection
from lth_trainable.pruning.levels import Levels, rungs
from lth_trainable.pruning.on_learner import SparsifyCallback, how_to_release, mask_in_force
from lth_trainable.pruning.ticket import Ticket
from lth_trainable.scalars import plain

Fit = Callable[..., Any]
IDENTITY = ("granularity", "context", "criterion", "rewind_epoch", "layer_type", "select", "seed")


@dataclass(frozen=True, kw_only=True)
class TrainedLevel:
    """A level after its training.

    level: number of prunes before it; 0 is the dense network. sparsity: percent of the prunable weights, measured.
    ticket: its masks, with initial, rewind and trained weights. metrics: the last row of fastai's table, by column;
    empty if the learner has no recorder.
    """

    level: int
    sparsity: float
    ticket: Ticket
    metrics: Mapping[str, float | None]

    def __repr__(self) -> str:
        found = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items() if value is not None)
        return f"TrainedLevel {self.level}: {self.sparsity:.2f} % sparse" + (f", {found}" if found else "")


def find_tickets(
    learn: Any,
    *,
    prune_rate: float = 20.0,
    rewind_epoch: int = 0,
    levels: int = 5,
    epochs: int = 20,
    lr: float | None = None,
    fit: Fit | None = None,
    granularity: str = "weight",
    context: str = "local",
    criteria: Criterion | str = "large_final",
    layer_type: LayerType = None,
    layers: Selection = None,
    seed: int = 0,
    verbose: bool = False,
) -> Iterator[TrainedLevel]:
    """Train the dense network, then prune, rewind and train `levels` times; yields each level once it is trained.

    prune_rate: percent of the weights left that each prune removes. rewind_epoch: the epoch at whose start everything
    is saved that later returns: weights, buffers, the optimiser, and the order of resident data. epochs, lr: of
    `learn.fit` in each level; a rewound one trains the epochs from `rewind_epoch` on. fit: trains a level in its place,
    called as fit(epochs, start_epoch=...), for example partial(learn.fit_one_cycle, lr_max=1e-2). The other arguments
    are those of `SparsifyCallback`.

    Whenever the loop is left, the learner is the sparse network of its last level, and `learn.sparsify_callback` keeps
    the zeros. The same call then goes on with the next level; a level whose training was interrupted is trained again
    from its start. After `learn.sparsify_callback.release()` it starts anew, from the weights as they are. Raises
    `UserError` before anything is trained.
    """
    prune_rate, rewind_epoch, levels, epochs, seed = map(plain, (prune_rate, rewind_epoch, levels, epochs, seed))
    check_whole("levels", levels, 1)
    check_whole("epochs", epochs, 1)
    check_whole("rewind_epoch", rewind_epoch, 0)
    if fit is not None and lr is not None:
        raise bad_value("lr", lr, "None beside fit", "give it to fit: partial(learn.fit_one_cycle, lr_max=1e-2)")
    schedule = Levels(prune_rate=prune_rate, n_levels=levels)
    callback = SparsifyCallback(
        float(100 * rungs(prune_rate, levels)[-1]), granularity, context, criteria, schedule,
        rewind_epoch=rewind_epoch, layer_type=layer_type, layers=layers, verbose=verbose, seed=seed,
    )  # fmt: skip
    if not rewind_epoch < epochs:
        raise bad_value(
            "rewind_epoch", rewind_epoch, f"less than epochs ({epochs})", "no epoch would be left to retrain"
        )
    callback = _on_learner(learn, callback)
    if callback.levels_trained > levels:
        raise UserError(
            f"levels: found {levels}, all trained already; ask for more, or start anew from the present weights after"
            " learn.sparsify_callback.release()"
        )
    return _levels(learn, callback, functools.partial(fit or functools.partial(learn.fit, lr=lr), epochs))


def _levels(learn: Any, callback: SparsifyCallback, fit: Fit) -> Iterator[TrainedLevel]:
    while True:
        if callback.levels_trained <= callback.level:
            fit(start_epoch=callback.start_level())
            if callback.levels_trained <= callback.level:
                raise UserError(
                    "find_tickets: fit: found one that trained nothing (no fit of this learner, no epochs, or a dry run"
                    " with ShortEpochCallback); expected one that trains, such as learn.fit"
                )
            yield TrainedLevel(
                level=callback.level, sparsity=learn.sparsity, ticket=callback.ticket(), metrics=_metrics(learn)
            )
        if callback.learn is not learn:
            raise UserError("find_tickets: its callback is not with the learner any more; call find_tickets again")
        if not callback.next_level():
            return


def _on_learner(learn: Any, wanted: SparsifyCallback) -> SparsifyCallback:
    """The callback that the learner has from an earlier loop, with the new number of levels; else the wanted one."""
    if not learn.opt:
        learn.create_opt()
    for present in (cb for cb in learn.cbs if isinstance(cb, SparsifyCallback)):
        if isinstance(present.schedule, Levels) and (present.resumes or present.goes_on):
            _check_equal(present, wanted)
            present.schedule, present.verbose = wanted.schedule, wanted.verbose
            # not `present.sparsity = ...`: fastai would warn, because the learner has a `sparsity` too
            object.__setattr__(present, "sparsity", wanted.sparsity)
            if present.resumes:
                present.begin()
            return present
    masked = mask_in_force(learn)
    if masked is not None:
        raise bad_value(
            "find_tickets: network", f"{masked.sparsity_pct:.2f} % masked", "a dense one",
            f"release the mask first: {how_to_release(learn)}",
        )  # fmt: skip
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, SparsifyCallback)])
    learn.add_cb(wanted)
    wanted.begin()
    return wanted


def _check_equal(present: SparsifyCallback, wanted: SparsifyCallback) -> None:
    """Raise `UserError` if a loop with other settings has left its level with the learner."""
    settings = [(name, getattr(present, name), getattr(wanted, name)) for name in IDENTITY]
    assert isinstance(present.schedule, Levels) and isinstance(wanted.schedule, Levels)
    settings.append(("prune_rate", present.schedule.prune_rate, wanted.schedule.prune_rate))
    for name, there, asked in settings:
        if not (is_same(there, asked) if name == "criterion" else there == asked):
            raise bad_value(
                f"find_tickets: {name}", asked, f"{there!r}, as in the levels that this learner has trained",
                "to start anew from the present weights, call learn.sparsify_callback.release() first",
            )  # fmt: skip


def _metrics(learn: Any) -> dict[str, float | None]:
    recorder = getattr(learn, "recorder", None)
    if recorder is None or not recorder.values:
        return {}
    return dict(zip(recorder.metric_names[1:], recorder.values[-1], strict=False))  # the last name is that of the time
