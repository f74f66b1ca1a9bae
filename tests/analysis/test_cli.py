"""`python -m analysis RUN` in a process of its own, and what importing the package costs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow import parquet

import analysis
from analysis.__main__ import main
from analysis.tables.index import write_noted
from lth_trainable.store.store import Store
from tests.support.command import ROOT
from tests.support.records import digits_like, drops, make_run

ACCURACY = drops({None: 0.965, 64: 0.964, 87.04: 0.966, 92.22: 0.948})


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_it_gathers_and_prints_table_answer_and_paths(tmp_path: Path) -> None:
    run = make_run(tmp_path, digits_like(), ACCURACY)
    done = python("-m", "analysis", str(run))
    assert (done.returncode, done.stderr) == (0, "")
    assert "  matches" in done.stdout
    assert "match the dense network down to 13 % of the weights" in done.stdout
    assert f"{run}/report.html" in done.stdout
    tables = ["epochs", "layers", "levels", "overlaps", "published", "signs", "trials", "variances", "verdicts"]
    assert sorted(path.stem for path in run.glob("analysis/*.parquet")) == tables
    assert (run / "report.html").exists()


def test_json_is_one_object_and_nothing_else(tmp_path: Path) -> None:
    run = make_run(tmp_path, digits_like(), ACCURACY, skip=[digits_like()[-1].name])
    done = python("-m", "analysis", f"{run}/", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    content = json.loads(done.stdout)
    assert content["run"] == str(run)
    assert content["trials"] == {"done": 34, "diverged": 0, "failed": 0, "missing": 1, "damaged": 0, "excluded": 0,
                                 "restored": 0}  # fmt: skip
    matching = [row for row in content["verdicts"] if row["claim"] == "matches"]
    assert content["verdicts"][:6] == matching, "the headline comes first"
    assert matching[-1]["why"] == "needs at least 5 seeds, has 4; 1 planned seed lacks a finished pair"
    assert matching[0]["rewind_epoch"] == 0
    assert Path(content["files"]["report"]).exists()


@pytest.mark.parametrize("name", ["nowhere", "file", "nowhere/deep"])
def test_what_is_no_run_is_one_line_and_exit_2(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    done = python("-m", "analysis", str(tmp_path / name))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: RUN: found ")


@pytest.mark.parametrize("arguments", [[], ["run", "--jason"]])
def test_bad_arguments_exit_2(arguments: list[str]) -> None:
    done = python("-m", "analysis", *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_help_explains() -> None:
    done = python("-m", "analysis", "--help")
    assert done.returncode == 0
    for part in ("RUN", "--json", "runs/digits", "report.html", "Nothing is trained"):
        assert part in done.stdout


def test_importing_is_light() -> None:
    heavy = "{'torch', 'ray', 'fastai', 'matplotlib', 'jinja2', 'sklearn'}"
    done = python("-c", f"import sys, analysis; print(sorted({heavy} & set(sys.modules)))")
    assert done.stdout.strip() == "[]", done.stderr


def test_gathering_needs_neither_torch_nor_ray(tmp_path: Path) -> None:
    run = make_run(tmp_path, digits_like(), ACCURACY)
    done = python(
        "-c", f"import sys, analysis; analysis.gather({str(run)!r}); print({{'torch', 'ray'}} & set(sys.modules))"
    )
    assert done.stdout.strip() == "set()", done.stderr


def test_a_table_that_cannot_be_read_is_one_line_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables that are damaged or from another version; gathering again repairs them."""
    run = make_run(tmp_path, digits_like(), ACCURACY)
    assert main([str(run)]) == 0
    path = run / "analysis" / "verdicts.parquet"
    whole = path.read_bytes()
    older = parquet.read_table(path).drop_columns(["role"])
    capsys.readouterr()
    for damage, message in (
        (lambda: path.write_bytes(b"junk"), "verdicts.parquet is not the one that index.json names"),
        (lambda: path.write_bytes(whole[:-20]), "verdicts.parquet is not the one that index.json names"),
        (
            lambda: write_noted(Store(run.parent), run.name, "verdicts", older),
            "has other columns than those of this version; gather again",
        ),
    ):
        damage()
        assert main(["figures", str(run), "--out", str(tmp_path / "figures")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1
        assert f"python -m analysis {run}" in error
    assert main([str(run)]) == 0 and path.read_bytes() == whole
    write_noted(Store(run.parent), run.name, "verdicts", parquet.read_table(path).drop_columns(["hedges_g"]))
    assert analysis.load(run).verdicts.hedges_g.isna().all()  # a column that may be null may be newer than the table
