from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import combined_cos
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper
from torch.utils.data import DataLoader, TensorDataset

from lth_trainable.errors import UserError
from lth_trainable.spec.learning_rate import LR_POLICIES, LrCurve, parse_drops


def curve(policy: str, total: int = 1000, **settings: Any) -> LrCurve:
    return LrCurve(**{"policy": policy, "lr": 0.1, "momentum": 0.9, "total_steps": total, **settings})


def rates(it: LrCurve) -> list[float]:
    return [it.lr_at(step) for step in range(it.total_steps)]


@pytest.mark.parametrize("total", [1, 2, 7, 100, 1437])
@pytest.mark.parametrize("momentum", [0.95, 0.9, 0.1])
def test_one_cycle_is_fastais_scheduler_at_every_step(total: int, momentum: float) -> None:
    it = curve("one_cycle", total, lr=3e-3, momentum=momentum)
    lr = combined_cos(0.25, 3e-3 / 25.0, 3e-3, 3e-3 / 1e5)
    mom = combined_cos(0.25, momentum, momentum - 0.1, momentum)
    for step in range(total + 1):
        assert it.lr_at(step) == lr(step / total)
        assert it.momentum_at(step) == mom(step / total)


class _Hypers(Callback):
    """Records the hyperparameters of the optimiser at each step."""

    def before_step(self) -> None:
        hyper = self.learn.opt.hypers[-1]
        self.seen.append((hyper["lr"], hyper["mom"]))

    def before_fit(self) -> None:
        self.seen: list[tuple[float, float]] = []


@pytest.mark.parametrize(("n_epochs", "n_batches"), [(1, 5), (7, 3), (6, 11)])
@pytest.mark.parametrize("optimizer", ["fastai", "torch"])
def test_one_cycle_is_what_a_fit_of_fastai_runs_through(n_epochs: int, n_batches: int, optimizer: str) -> None:
    """Through its `fit_one_cycle` and `ParamScheduler`, whose position is a running sum within an epoch."""
    data = TensorDataset(torch.zeros(n_batches, 2), torch.zeros(n_batches, 1))
    dls = DataLoaders(DataLoader(data, batch_size=1), DataLoader(data, batch_size=1))
    chosen: dict[str, Any] = {}
    if optimizer == "torch":
        chosen = {"opt_func": lambda params, lr: OptimWrapper(params, torch.optim.AdamW, lr=lr)}
    hypers = _Hypers()
    learn = Learner(dls, torch.nn.Linear(2, 1), loss_func=torch.nn.MSELoss(), cbs=[hypers], **chosen)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(n_epochs, 4e-3)
    it = curve("one_cycle", n_epochs * n_batches, lr=4e-3, momentum=0.95)
    ours = [(it.lr_at(step), it.momentum_at(step)) for step in range(n_epochs * n_batches)]
    np.testing.assert_allclose(ours, hypers.seen, rtol=1e-12, atol=0)


def test_one_cycle_peaks_at_a_quarter_where_momentum_is_lowest() -> None:
    it = curve("one_cycle", momentum=0.95)
    assert it.lr_at(0) == pytest.approx(0.1 / 25) and it.lr_at(250) == 0.1 and it.lr_at(1000) == pytest.approx(1e-6)
    assert [it.momentum_at(step) for step in (0, 250, 1000)] == pytest.approx([0.95, 0.85, 0.95])
    assert min(curve("one_cycle", momentum=0.0).momentum_at(step) for step in range(1000)) == 0


def test_constant_knows_no_total() -> None:
    assert set(rates(curve("constant"))) == {0.1}
    assert curve("constant", 1).lr_at(10_000) == 0.1
    assert [name for name, policy in LR_POLICIES.items() if not policy.knows_total] == ["constant"]


@pytest.mark.parametrize("policy", sorted(set(LR_POLICIES) - {"one_cycle"}))
def test_momentum_is_constant_but_for_one_cycle(policy: str) -> None:
    it = curve(policy)
    assert {it.momentum_at(step) for step in range(1000)} == {0.9}


@pytest.mark.parametrize("policy", ["warmup", "steps", "cosine"])
@pytest.mark.parametrize(("pct", "total", "n_warm"), [(0.05, 1000, 50), (0.1, 13, 1), (0.29, 100, 29), (0.0, 40, 0)])
def test_warm_up_is_a_ramp_to_the_base_rate(policy: str, pct: float, total: int, n_warm: int) -> None:
    found = rates(curve(policy, total, warmup_pct=pct))
    np.testing.assert_allclose(found[:n_warm], [0.1 * (step + 1) / n_warm for step in range(n_warm)], rtol=1e-15)
    assert found[n_warm] == 0.1
    if policy == "warmup":
        assert set(found[n_warm:]) == {0.1}


def test_steps_are_those_of_renda_et_al() -> None:
    """Epochs 91 and 136 of 182, tenfold (arXiv 2003.02389)."""
    it = curve("steps", 182)
    assert it.first_steps == (91, 136)
    np.testing.assert_allclose(rates(it), [0.1] * 91 + [0.01] * 45 + [0.001] * 46, rtol=1e-15)
    fine = curve("steps", 182 * 391)
    assert fine.first_steps == (91 * 391, round(136.5 * 391))


def test_steps_take_other_drops_and_a_ramp_before_them() -> None:
    it = curve("steps", 100, warmup_pct=0.1, drops=(0.29, 0.6, 0.9), drop_factor=0.5)
    expected = [0.1 * (step + 1) / 10 for step in range(10)] + [0.1] * 19 + [0.05] * 31 + [0.025] * 30 + [0.0125] * 10
    np.testing.assert_allclose(rates(it), expected, rtol=1e-15)


@pytest.mark.parametrize("pct", [0.0, 0.1])
def test_cosine_goes_from_the_base_rate_to_nothing(pct: float) -> None:
    it = curve("cosine", 1000, warmup_pct=pct)
    found = rates(it)[it.n_warm :]
    assert found[0] == 0.1 and found == sorted(found, reverse=True)
    assert it.lr_at(it.n_warm + (1000 - it.n_warm) // 2) == pytest.approx(0.05)
    assert 0 < it.lr_at(999) < 1e-6 and it.lr_at(1000) == 0


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("policy", LR_POLICIES)
def test_the_shortest_fits_have_a_rate_at_every_step(policy: str, total: int) -> None:
    for pct in (None, 0.5, 0.0):
        found = rates(curve(policy, total, warmup_pct=pct))
        assert all(0 < rate <= 0.1 for rate in found)
    assert 0 <= curve("cosine", total, warmup_pct=0.99).lr_at(total) <= 0.1


@pytest.mark.parametrize("policy", LR_POLICIES)
def test_a_rate_has_no_history(policy: str) -> None:
    whole = rates(curve(policy))
    it = curve(policy)
    order = np.random.default_rng(0).permutation(1000).tolist()
    assert [it.lr_at(step) for step in order] == [whole[step] for step in order]


def test_settings_that_do_not_act_are_none_and_those_left_out_the_policys() -> None:
    assert curve("constant", warmup_pct=0.5, drops=(0.5,), drop_factor=0.1) == curve("constant")
    assert curve("steps") == curve("steps", warmup_pct=0.0, drops=(0.5, 0.75), drop_factor=0.1)
    assert curve("warmup").warmup_pct == 0.05 and curve("cosine").drops is None


@pytest.mark.parametrize(
    ("policy", "settings", "message"),
    [
        ("cosin", {}, "did you mean cosine"),
        ("cosine", {"total_steps": 0}, "total_steps"),
        ("warmup", {"warmup_pct": 1.0}, "warmup_pct"),
        ("steps", {"warmup_pct": 0.6}, "first drop"),
        ("steps", {"drop_factor": 0.0}, "drop_factor"),
    ],
)
def test_bad_settings_are_refused(policy: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        curve(policy, **settings)


@pytest.mark.parametrize("step", [-1, 1001])
def test_steps_outside_the_fit_are_refused(step: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        curve("cosine").lr_at(step)


def test_drops_are_read() -> None:
    assert parse_drops("0.5,0.75") == (0.5, 0.75)
    assert parse_drops(" 0.3 , .6,0.9") == (0.3, 0.6, 0.9)
    assert parse_drops("0.5") == (0.5,)


@pytest.mark.parametrize(
    "text", ["", "half", "0.5,", "0.75,0.5", "0.5,0.5", "0,0.5", "0.5,1", "-0.1,0.5", "nan", "0.5;1"]
)
def test_bad_drops_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"lr_drops: found .*; expected increasing fractions"):
        parse_drops(text)
