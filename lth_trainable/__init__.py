"""Lottery tickets in fastai, one trial at a time. Works in a notebook, without Ray.

`from lth_trainable import *` imports the callback, its schedules and its criteria. Each name is loaded when it is first
used, so that `lth_trainable.spec` and other light modules do not import torch.
"""

from __future__ import annotations

from lth_trainable import former_paths
from lth_trainable.registry import lazy

_HOME = {
    "pruning.on_learner": ("SparsifyCallback", "KeepTicket"),
    "pruning.find_tickets": ("find_tickets", "TrainedLevel"),
    "pruning.levels": ("Levels",),
    "pruning.schedules": (
        "Schedule", "sched_one_shot", "sched_iterative", "sched_agp", "sched_linear", "sched_cosine", "sched_one_cycle",
        "sched_dsd", "one_shot", "iterative", "agp", "one_cycle", "cos", "lin", "dsd",
    ),
    "pruning.criteria": (
        "large_final", "squared_final", "small_final", "random_scores", "large_init", "small_init",
        "large_init_large_final", "small_init_small_final", "magnitude_increase", "movement",
        "updating_magnitude_increase", "updating_movement", "updating_movmag", "wanda", "large_final_same_sign",
        "large_final_diff_sign", "magnitude_increase_same_sign", "magnitude_increase_diff_sign",
    ),
    "spec.trial_spec": ("TrialSpec",),
    "pruning.ticket": ("Ticket", "save_ticket", "load_ticket"),
    "store.store": ("Store",),
    "store.trials": ("load_trial",),
    "training.run": ("run_trial",),
    "trainable": ("ticket_trainable",),
    "errors": ("UserError",),
}  # fmt: skip
__all__, __getattr__ = lazy(__name__, _HOME)
former_paths.install()
