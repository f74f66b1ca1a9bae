"""Why a network is not trained in a stack."""

from __future__ import annotations


class NotStackable(Exception):
    """The reason, in words that go on after "it is not stacked: "."""
