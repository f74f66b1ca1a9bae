"""The base of the callbacks that a trial's learner has of its own."""

from __future__ import annotations

from typing import Any

from fastai.callback.core import Callback


class OwnCallback(Callback):
    """A callback whose attributes are set as those of any object.

    fastai looks for the name in learner, network and data first, to warn. In a cohort of small networks, where Python's
    time counts, that was a tenth of it.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
