"""The public address of the loaders, which live in `lth_trainable.data.loaders`."""

from lth_trainable.data.loaders import (
    EVALUATION_BATCH,
    ResidentLoader,
    _Resident,  # noqa: F401 (learners exported with 0.4 name it)
    resident,
    resident_loaders,
)

__all__ = ["EVALUATION_BATCH", "ResidentLoader", "resident", "resident_loaders"]
