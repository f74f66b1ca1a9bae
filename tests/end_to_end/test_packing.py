"""A whole sweep whose trials share GPUs that are not there: real Ray, real workers, a stand-in for MPS."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.support.command import grid
from tests.support.fake_gpus import SEEN, command_with_gpus, notes
from tests.support.mps import StandIn

pytestmark = pytest.mark.slow


def test_trials_spread_over_the_gpus_and_are_tried_again_beside_fewer_if_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, stand_in = tmp_path / "seen", StandIn(tmp_path / "bin", monkeypatch)
    monkeypatch.setenv(SEEN, str(seen))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as base:
        monkeypatch.setenv("RAY_TMPDIR", base)
        code, summary, out, err = grid(
            tmp_path / "runs", "--epochs", "1", "--schedule", "omp", "--sparsity", "50", "--rewind-epoch", "0",
            "--seeds", "4", "--model", "tests.support.fake_gpus:network_without_room", "--trials-per-gpu", "2",
            "--max-concurrent", "2", "--controls", "none", command=command_with_gpus(2),
        )  # fmt: skip
        assert not list(Path(base).glob("lthm-*")), "the daemon ends with the command"
    assert code == 0 and (summary["planned"], summary["done"], summary["failed"]) == (8, 8, 0), out + err
    assert "MPS: trials that share a GPU compute at the same time" in out and stand_in.calls == ["-d", "quit"]
    assert out.count("found no memory left beside others: 1 instead of 2 trials share a GPU") == 1, out
    by_gpu = {place["gpu"] for place in notes(seen)}
    assert by_gpu == {"0", "1"} and all("/lthm-" in place["mps"] for place in notes(seen))
    assert len({(place["pid"], place["gpu"]) for place in notes(seen)}) == len({place["pid"] for place in notes(seen)})
    assert len(list((tmp_path / "runs" / "digits" / "ray").glob("*/*~1"))) == 1, "each attempt has a folder of its own"


def test_workers_wait_for_their_next_cohort_while_recorded_trials_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All cohorts of a level end at once. A worker that began anew would load its data and make its graphs again."""
    seen = tmp_path / "seen"
    monkeypatch.setenv(SEEN, str(seen))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    code, summary, out, err = grid(
        tmp_path / "runs", "--epochs", "2", "--sparsity", "64", "--seeds", "4", "--controls", "reinit",
        "--replicas", "4", "--model", "tests.support.fake_gpus:network", "--trials-per-gpu", "2", "--mps", "off",
        command=command_with_gpus(1),
    )  # fmt: skip
    assert code == 0 and summary["done"] == summary["planned"], out + err
    assert len({place["pid"] for place in notes(seen)}) == 2
