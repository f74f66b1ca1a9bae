"""`torchvision.models`, imported without PyTorch's compiler.

torchvision imports the compiler, and SymPy with it, for one question of its RoI align: whether it can be compiled for a
device. No network for whole images asks that, and the import takes one to four seconds. Seen to work with the
torchvision of PyTorch 2.11 and of 2.14; `test_torchvision_networks.py` fails where another version imports the compiler
in another way.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

ASKED = "torch._dynamo.utils"  # the module with the question


class _Later(ModuleType):
    """In place of the module until something else of it is asked for."""

    @staticmethod
    def is_compile_supported(device_type: Any) -> Any:
        """As the compiler's own, which is imported now."""
        return importlib.import_module(ASKED).is_compile_supported(device_type)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # `inspect` asks all modules for their files
            raise AttributeError(name)
        _withdraw()
        return getattr(importlib.import_module(ASKED), name)


def _withdraw() -> None:
    if isinstance(sys.modules.get(ASKED), _Later):
        del sys.modules[ASKED]


@contextlib.contextmanager
def _compiler_left_out() -> Iterator[None]:
    """Within this block the question alone does not import the compiler."""
    sys.modules.setdefault(ASKED, _Later(ASKED))
    try:
        yield
    finally:
        _withdraw()


with _compiler_left_out():
    from torchvision import models

__all__ = ["models"]
