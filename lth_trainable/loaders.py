"""The public address of the loaders, which live in `lth_trainable.data.loaders`."""

from lth_trainable.data.loaders import (
    ResidentLoader,
    _Resident,  # noqa: F401 (learners exported with 0.4 name it)
    resident,
    resident_loaders,
)
from lth_trainable.data.splits import EVALUATION_BATCH

__all__ = ["EVALUATION_BATCH", "ResidentLoader", "resident", "resident_loaders"]
