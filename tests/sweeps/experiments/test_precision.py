"""`--precision auto` becomes a precision before trials are planned; precisions of GPUs are refused without one."""

from __future__ import annotations

import pytest
import torch

from lth_trainable.errors import UserError
from sweeps.experiments.expand import expand
from sweeps.experiments.precision import with_precision
from sweeps.experiments.recipes import Sweep, pets_tutorial

TWO = Sweep(name="two", claim="?", base={"precision": "auto"}, axes={"target_sparsity_pct": (64.0,)}, seeds=(0,))
AXIS = Sweep(name="axis", claim="?", axes={"precision": ("auto", "fp32", "bf16")}, seeds=(0,))


def precisions(sweep: Sweep) -> list[str]:
    return sorted({spec.precision for spec in expand(sweep).trials})


def test_auto_is_fp32_on_a_cpu_and_bf16_on_gpus_elsewhere() -> None:
    assert precisions(with_precision(TWO, on_gpus=False, here=True)) == ["fp32"]
    assert precisions(with_precision(TWO, on_gpus=True, here=False)) == ["bf16"]
    assert precisions(with_precision(AXIS, on_gpus=False, here=True)) == ["bf16", "fp32"]
    assert with_precision(AXIS, on_gpus=True, here=False).axes["precision"] == ("bf16", "fp32")


@pytest.mark.parametrize(("capability", "best"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_here_the_gpu_is_asked(capability: tuple[int, int], best: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert precisions(with_precision(TWO, on_gpus=True, here=True)) == [best]


def test_the_tutorial_is_planned_in_the_best_precision_of_its_hardware() -> None:
    assert precisions(pets_tutorial()) == ["fp32"], "where no hardware is known"
    assert precisions(with_precision(pets_tutorial(), on_gpus=True, here=False)) == ["bf16"]


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_a_precision_of_gpus_is_refused_before_anything_is_planned(precision: str) -> None:
    sweep = Sweep(name="s", claim="?", axes={"precision": (precision, "fp32")}, seeds=(0,))
    with pytest.raises(UserError, match=f"precision: found {precision} and trials without a GPU"):
        with_precision(sweep, on_gpus=False, here=True)
    assert with_precision(sweep, on_gpus=True, here=False) is sweep
