"""A search whose data go wrong in the middle of training ends, and names the trials with the reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.command import ROOT

SEARCH = """
import sys
from sweeps import lth_search
from sweeps.running import launch
launch.RETRIES = 0
sys.exit(lth_search.main(sys.argv[1:]))
"""
REASONS = {
    "corrupt": "image file is truncated (7 bytes not processed)",
    "hanging": "no step for 5 s at level 0, epoch ",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REASONS)
def test_a_search_ends_with_the_reason(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, "-c", SEARCH, "--dataset", f"tests.support.bad_data:{name}", "--sparsity", "40..64",
            "--rewind-epoch", "0", "--suggestions", "1", "--seeds", "1", "--epochs", "12", "--max-concurrent", "1",
            "--trial-silence", "5", "--storage", str(tmp_path),
        ],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=600,
    )  # fmt: skip
    said = [line for line in done.stdout.splitlines() if line.startswith("failed: ")]
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    assert said and all(f"tests.support.bad_data.{name}-" in line and REASONS[name] in line for line in said)
    [row] = pq.read_table(tmp_path / "digits_search" / "analysis" / "suggestions.parquet").to_pylist()
    assert row["status"] == "failed"


@pytest.mark.parametrize(("flags", "reason"), [
    (("--dataset", "tests.support.bad_plugins:not_a_number"), "NaN or infinity among the pixels"),
    (("--model", "tests.support.bad_plugins:one_seed"), "with another seed it has the same weights"),
], ids=["data", "network"])  # fmt: skip
def test_data_and_networks_of_a_search_are_tried_before_ray_starts(
    flags: tuple[str, ...], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sweeps.lth_search import main

    assert main(["--sparsity", "40..64", *flags, "--storage", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert reason in told and told.count("\n") == 1 and not list(tmp_path.iterdir())
