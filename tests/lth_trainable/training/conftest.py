"""What tests of training share."""

from __future__ import annotations

import pytest

import lth_trainable.training.lifecycle


@pytest.fixture
def every_epoch_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lth_trainable.training.lifecycle, "RESUME_SECONDS", 0.0)
