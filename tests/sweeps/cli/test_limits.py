"""Numbers of the command line and of recipe files that no table or memory can hold are refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.lth_grid import main as grid
from sweeps.lth_search import main as search

TOO_LARGE = str(2**63)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--seed", TOO_LARGE], "seed: found 9223372036854775808"),
        (["--seed", "-1"], "seed: found -1; expected a whole number of at least 0"),
        (["--order-seed", TOO_LARGE], "order_seed: found"),
        (["--split-seed", TOO_LARGE], "split_seed: found"),
        (["--batch-size", TOO_LARGE], "batch_size: found"),
        (["--seeds", "1000000000000"], "seeds: found 1000000000000; expected a whole number of at most 100,000"),
        (["--until-decided", "--max-seeds", "1000000000000"], "max-seeds: found"),
    ],
)
def test_flags_of_a_sweep(flags: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert grid(["digits", *flags, "--dry-run", "--storage", str(tmp_path / "runs")]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {says}") and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--order-seed", f"0..{TOO_LARGE}"],
        ["--seed", TOO_LARGE, "--sparsity", "50..95"],
        ["--order-seed", f"0..{10**400}"],
    ],
)
def test_flags_of_a_search(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search(["digits", *flags, "--storage", str(tmp_path / "runs")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and "seed: found" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"seeds: [0, {TOO_LARGE}]", "seed: found"),
        ("seeds: 1000000", "seeds: found"),
        (f"base: {{split_seed: {TOO_LARGE}}}", "split_seed: found"),
        (f"base: {{lr: {10**400}}}", "lr: found"),
    ],
)
def test_recipe_files(line: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text(f"from: digits\n{line}\n")
    assert grid([str(tmp_path / "mine.yaml"), "--dry-run", "--storage", str(tmp_path / "runs")]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1 and len(err) < 700
