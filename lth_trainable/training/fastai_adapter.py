"""The one thing that this project uses of fastai without its being public: the step of a batch.

Seen to work with fastai 2.8.12; `pyproject.toml` keeps to fastai 2. `test_fastai_adapter.py` fails, and says why, where
a newer fastai has another step.
"""

from __future__ import annotations

from fastai.learner import Learner


def eager_step(learn: Learner) -> None:
    """fastai's step of the learner's present batch: forward, and in training also backward, optimiser and zero_grad.

    fastai's events fall within it, from `after_pred` to `after_step`.
    """
    Learner._do_one_batch(learn)
