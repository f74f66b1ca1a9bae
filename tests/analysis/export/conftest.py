"""The run whose trials the tests export."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.trained import train_ticket_and_dense


@pytest.fixture(scope="package")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a ticket and its dense network, really trained; no test changes it."""
    return train_ticket_and_dense(tmp_path_factory.mktemp("trained"))
