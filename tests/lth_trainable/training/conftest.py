"""What tests of training share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import lth_trainable.training.lifecycle
from lth_trainable.training import compiled, compiler


@pytest.fixture
def every_epoch_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lth_trainable.training.lifecycle, "RESUME_SECONDS", 0.0)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Grows by one with each function that is compiled, to what it is without a compiler."""
    made: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        made.append(graph)
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(compiled, "BACKEND", backend)
    monkeypatch.setattr(compiler, "_missing_on_cpu", lambda: None)
    yield made
    torch.compiler.reset()
