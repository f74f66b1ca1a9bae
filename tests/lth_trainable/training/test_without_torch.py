"""The fingerprint that a plan is shown with is that of the trials on this machine, and None where it is not known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lth_trainable.training import compiler
from lth_trainable.training.execution import Execution, fingerprint
from lth_trainable.training.without_torch import fingerprint_without_torch, torch_version

ALL = "fpu avx2 fma avx512vl avx512bw avx512dq"


def test_on_this_machine_it_is_torchs_own_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch_version() == torch.__version__
    for threads in (1, 2):
        found = fingerprint_without_torch("cpu", threads)
        assert found in (None, fingerprint(Execution(threads=threads)))
    found = fingerprint_without_torch("cpu", 1, replicas=4)
    assert found in (None, fingerprint(Execution(replicas=4)))
    monkeypatch.setattr(compiler, "_missing_on_cpu", lambda: None)
    found = fingerprint_without_torch("cpu", 1, replicas=4, compiled=True)
    assert found in (None, fingerprint(Execution(replicas=4, compile=True)))


@pytest.mark.parametrize(
    ("flags", "capability"), [(ALL, "AVX512"), (ALL.replace("avx512dq", ""), "AVX2"), ("fpu avx2", "DEFAULT")]
)
def test_the_instruction_sets_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, capability: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"model name\t: a processor\nflags\t\t: {flags}\n\nflags\t\t: fpu\n")
    found = fingerprint_without_torch("cpu", 1, cpuinfo)
    assert found is not None and found["device"] == f"cpu: x86_64 {capability}"


def test_it_is_unknown_where_only_torch_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fingerprint_without_torch("cuda", 1) is None
    assert fingerprint_without_torch("cpu", 1, tmp_path / "no list") is None
    assert fingerprint_without_torch("cpu", 1, torch=tmp_path) is None
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert fingerprint_without_torch("cpu", 1) is None
    monkeypatch.delenv("ATEN_CPU_CAPABILITY")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert fingerprint_without_torch("cpu", 1) is None
