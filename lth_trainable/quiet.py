"""No warnings that a user of a command cannot do anything about."""

from __future__ import annotations

import warnings


def ignore_torch_warnings() -> None:
    """PyTorch warns, when fastai and torchvision are imported, that they use what it will drop. Call it before that."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
