"""Which trials, in which order, on which machines. From Python: `Sweep`, `run_trials` and `Search`."""

from __future__ import annotations

from lth_trainable.registry import lazy

_HOME = {"from_python": ("Sweep", "run_trials"), "search_from_python": ("Search",)}
__all__, __getattr__ = lazy(__name__, _HOME)
