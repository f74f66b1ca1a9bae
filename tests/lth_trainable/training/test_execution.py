"""Devices as trials meet them: one copy of the data, none there, too small. Runs without a GPU."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from lth_trainable.data.datasets import Dataset, Split, digits
from lth_trainable.data.loaders import _copies, resident_loaders
from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.training.execution import Execution, check_device, fingerprint, is_no_room, prepared, release
from lth_trainable.training.run import run_trial
from tests.plugins import tiny_cnn

SMALL = {"epochs": 1, "target_sparsity_pct": 40.0}
held: list[Any] = []  # weak references to networks that did not fit


def too_large(shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    network = tiny_cnn(shape, n_classes)
    held.append(weakref.ref(network))
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


# -- data on the device ----------------------------------------------------------------------------------------------


def on_meta(data: Dataset) -> list[torch.Tensor]:
    dls = resident_loaders(data, batch_size=60, order_seed=0, device="meta")
    return [tensor for loader in (dls.train, dls.valid, dls[2]) for tensor in (loader.x, loader.y)]


def test_trials_share_one_copy_of_the_data_on_a_device() -> None:
    data = digits(None, 0)
    first, second = on_meta(data), on_meta(data)
    assert all(a is b for a, b in zip(first, second, strict=True))
    assert first[0].device.type == "meta" and first[0].shape == data.train.x.shape


def test_other_data_have_a_copy_of_their_own_and_it_goes_with_them() -> None:
    before = len(_copies)
    one, other = digits(None, 0), digits(None, 1)
    assert on_meta(one)[0] is not on_meta(other)[0] and len(_copies) == before + 6
    del other
    gc.collect()
    assert len(_copies) == before + 3
    del one
    gc.collect()
    assert len(_copies) == before


def test_on_the_cpu_the_data_are_not_copied() -> None:
    data = digits(None, 0)
    dls = resident_loaders(data, batch_size=60, order_seed=0)
    splits: list[Split] = [data.train, data.valid, data.test]
    for loader, split in zip((dls.train, dls.valid, dls[2]), splits, strict=True):
        assert loader.x.data_ptr() == split.x.ctypes.data


# -- a device that is not there, or too small ------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_settings_of_a_gpu_are_put_back_and_no_kernel_fills_new_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("check_device", "check_precision"):
        monkeypatch.setattr(f"lth_trainable.training.execution.{name}", lambda *_: None)
    cudnn, own = torch.backends.cudnn, torch.utils.deterministic

    def settings() -> tuple[bool, ...]:
        are_deterministic = torch.are_deterministic_algorithms_enabled()
        return are_deterministic, cudnn.deterministic, cudnn.benchmark, own.fill_uninitialized_memory

    before = settings()
    with prepared(Execution(device="cuda", deterministic=True), "fp32"):
        assert settings() == (True, True, False, False)
    assert settings() == before and own.fill_uninitialized_memory


def test_a_gpu_that_is_not_there_is_one_line(store: Store) -> None:
    for act in (check_device, fingerprint, lambda e: run_trial(TrialSpec(**SMALL), store, execution=e)):
        with pytest.raises(UserError, match=r"found no GPU that PyTorch .* --gpus-per-trial 0") as caught:
            act(Execution(device="cuda"))
        assert "\n" not in str(caught.value)
    release(Execution(device="cuda"))


def test_a_trial_that_does_not_fit_is_one_line_and_lets_go_of_its_network(store: Store) -> None:
    with pytest.raises(UserError, match=r"no memory left .*device cpu.*--max-concurrent.*--batch-size") as caught:
        run_trial(TrialSpec(model=f"{__name__}:too_large", **SMALL), store)
    gc.collect()
    assert "\n" not in str(caught.value) and held.pop()() is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: "),
            True,
        ),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError("out of memory"), False),
    ],
)
def test_the_ways_of_saying_that_there_is_no_room(error: Exception, expected: bool) -> None:
    assert is_no_room(error) is expected
