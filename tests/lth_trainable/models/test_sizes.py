"""Sizes of states that are computed from shapes are those of states that training makes."""

from __future__ import annotations

import pytest

from lth_trainable.models.networks import MODELS, build
from lth_trainable.models.sizes import SIZES, tensors_of
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.training.execution import Execution
from lth_trainable.training.probe import probe


@pytest.mark.parametrize("width_pct", [None, 3.0, 37.5, 100.0])
@pytest.mark.parametrize("model", MODELS)
def test_parameters_and_buffers_of_each_network_are_counted(model: str, width_pct: float | None) -> None:
    network = build(model, (3, 32, 32), 7, width_pct)
    found = tensors_of(model, (3, 32, 32), 7, width_pct)
    buffers = list(network.buffers())
    assert found is not None
    assert sorted(found.parameters) == sorted(tensor.numel() for tensor in network.parameters())
    assert found.floats == sum(tensor.numel() for tensor in buffers if tensor.is_floating_point())
    assert found.counters == sum(not tensor.is_floating_point() for tensor in buffers)


def test_every_network_of_the_project_is_counted_and_no_plug_in() -> None:
    assert SIZES.keys() == MODELS.keys()
    assert tensors_of("tests.plugins:tiny_cnn", (1, 8, 8), 10) is None


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_state_has_the_computed_bytes(optimizer: str) -> None:
    spec = TrialSpec(control="dense", optimizer=optimizer)
    tensors = tensors_of(spec.model, (1, 8, 8), 10, spec.width_pct)
    assert tensors is not None
    assert tensors.state_bytes(optimizer) == probe(spec, Execution(), budget=0.0)[1]
