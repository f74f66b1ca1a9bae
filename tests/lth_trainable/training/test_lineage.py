"""Where a row comes from: role, parent, code, machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import analysis
from lth_trainable.errors import UserError
from lth_trainable.store.store import to_json
from lth_trainable.training.execution import driver_version, versions
from tests.support.records import dense, drops, ladder, make_run, plan, record, seal

ACCURACY = drops({None: 0.96, 64: 0.955})
SPECS = [*dense(2), *ladder(64, seeds=2)]
MODULE = (
    "NVRM version: NVIDIA UNIX {} 580.159.04  Release Build  (builder@)  \nGCC version:  gcc version 15.3.0 (GCC) \n"
)


@pytest.mark.parametrize("kind", ["Open Kernel Module for x86_64 ", "x86_64 Kernel Module "])
def test_the_driver_is_what_its_module_says(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    path.write_text(MODULE.format(kind))
    assert driver_version(path) == "580.159.04"
    (tmp_path / "other").write_text("nothing of the kind\n")
    assert driver_version(tmp_path / "other") is None
    assert driver_version(tmp_path / "nowhere") is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu_no_versions_of_one() -> None:
    assert not {"cuda", "cudnn", "driver"} & set(versions())


def test_versions_of_the_machine_are_columns(tmp_path: Path) -> None:
    run = make_run(tmp_path, SPECS, ACCURACY, skip=[SPECS[0].name])
    content = record(SPECS[0], 0.9)
    content["versions"] |= {"cuda": "13.0", "cudnn": "91900", "driver": "580.159.04", "source": "f" * 64}
    seal(tmp_path, SPECS[0], content)
    with_gpu, without, *_ = analysis.as_rows(analysis.gather(run).trials)
    names = ("cuda_version", "cudnn_version", "driver_version", "code_sha256")
    assert [with_gpu[name] for name in names] == ["13.0", "91900", "580.159.04", "f" * 64]
    assert [without[name] for name in names] == [None] * 4


def test_role_and_parent_are_the_plans(tmp_path: Path) -> None:
    run = make_run(tmp_path, SPECS, ACCURACY)
    first = analysis.as_rows(analysis.gather(run).trials)
    assert [(row["role"], row["parent"]) for row in first] == [("dense", None)] * 2 + [("ticket", None)] * 2
    content = plan(SPECS)
    content["trials"][0] |= {"role": "baseline", "parent": SPECS[2].name}
    content["trials"][2] |= {"role": "ticket", "parent": None}
    (run / "plan.json").write_bytes(to_json(content))
    rows = analysis.as_rows(analysis.gather(run).trials)
    assert [(row["role"], row["parent"]) for row in rows] == [
        ("baseline", SPECS[2].name), ("dense", None), ("ticket", None), ("ticket", None),
    ]  # fmt: skip
    content["trials"][1]["role"] = "spectator"
    (run / "plan.json").write_bytes(to_json(content))
    with pytest.raises(UserError, match=r"role: found 'spectator'; expected one of ticket, dense, control, baseline"):
        analysis.gather(run)
