"""A sweep with `--replicas auto` on a GPU that is not there: real Ray and real workers, made-up times of stacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import analysis
from lth_trainable.store.json_files import unseal_json
from sweeps.runs.replica_files import CHOICE
from tests.support.command import grid
from tests.support.fake_gpus import command_with_gpus

pytestmark = pytest.mark.slow
ARGUMENTS = (
    "--epochs", "3", "--sparsity", "40", "--rewind-epoch", "0", "--seeds", "3", "--trials-per-gpu", "1", "--mps", "off",
    "--replicas", "auto",
)  # fmt: skip
PLACE = '{"place": {"device": "cuda: Test"}}'
TIMES = [json.dumps({"k": k, "step_s": 0.001, "validation_s": 0.001}) for k in (1, 2, 3)]


def test_what_is_chosen_is_what_all_trials_are_trained_with_also_after_a_stop(tmp_path: Path) -> None:
    measured = command_with_gpus(1, [PLACE, *TIMES, '{"ended": ""}', "0"])
    code, summary, out, err = grid(tmp_path, *ARGUMENTS, "--max-epochs", "4", command=measured)
    assert code == 3 and 0 < summary["epochs_trained"] < summary["epochs_distinct"], out + err
    assert "--replicas auto: 3, because a step of 3 networks takes 1 ms, one of 1 1 ms" in out
    first = summary["epochs_trained"]
    code, summary, out, err = grid(tmp_path, *ARGUMENTS, command=command_with_gpus(1, ["1"]))
    assert code == 0 and summary["done"] == summary["planned"] == 6, out + err
    assert "--replicas auto: 3, as when this run began" in out and "fingerprints" not in out
    assert first + summary["epochs_trained"] == summary["epochs_distinct"], "what was stored is continued"
    records = [json.loads(path.read_text()) for path in tmp_path.glob("digits/trials/*/record.json")]
    assert len(records) == 6 and {record["fingerprint"]["replicas"] for record in records} == {3}
    assert unseal_json((tmp_path / "digits" / CHOICE).read_bytes())["replicas"] == 3
    assert set(analysis.load(str(tmp_path / "digits")).trials.replicas) == {3}
