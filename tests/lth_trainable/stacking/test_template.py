"""The network that a stack is made from is that of no member, and has nothing that differs between members."""

from __future__ import annotations

import random

import pytest
import torch

from lth_trainable.data.datasets import load_dataset
from lth_trainable.data.loaders import ResidentLoader, resident_loaders
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.stacking.run import NotStackable
from lth_trainable.stacking.template import template_of


@pytest.fixture
def loader() -> ResidentLoader:
    found: ResidentLoader = resident_loaders(load_dataset("digits"), batch_size=60, order_seed=0).train
    return found


def test_it_is_the_same_for_all_seeds_and_draws_nothing(loader: ResidentLoader) -> None:
    before = torch.get_rng_state(), random.getstate()
    one, other = (template_of(TrialSpec(control="dense", seed=seed), loader) for seed in range(2))
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("what", ["tensor", "array", "number", "numbers", "width"])
def test_networks_whose_constants_are_drawn_are_refused(what: str, loader: ResidentLoader) -> None:
    """A stack has such a constant once, so members would get that of another seed."""
    spec = TrialSpec(control="dense", model=f"tests.support.drawn_constants:with_{what}")
    with pytest.raises(NotStackable, match="networks of different seeds differ in "):
        template_of(spec, loader)


def test_equal_constants_are_no_reason(loader: ResidentLoader) -> None:
    template_of(TrialSpec(control="dense", model="tests.support.drawn_constants:with_nothing"), loader)
