"""`python -m analysis pack`: one file with the whole run, which can be unpacked anywhere."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import analysis
from analysis.__main__ import main
from analysis.export.archive import pack, write_archive
from analysis.export.load_ticket import masked_weights, provenance
from lth_trainable.data.datasets import load_dataset
from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import FAILURE, Store, to_json
from lth_trainable.store.trials import load_trial
from lth_trainable.training.run import run_trial
from tests.support.records import dense, digits_like, drops, ladder, make_run, paired, plan

TABLES = ("trials", "epochs", "layers", "verdicts")


def unpack(archive: Path, to: Path) -> Path:
    with tarfile.open(archive) as content:
        content.extractall(to, filter="data")
    (folder,) = to.iterdir()
    return folder


def assert_equal_tables(one: analysis.Frames, other: analysis.Frames) -> None:
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two seeds, really trained."""
    storage = tmp_path_factory.mktemp("trained")
    digest = load_dataset("digits").digest
    specs = [
        TrialSpec(seed=seed, epochs=2, target_sparsity_pct=64.0, **more)
        for seed in (0, 1)
        for more in ({"control": "dense"}, {"rewind_epoch": 1})
    ]
    for spec in specs:
        run_trial(spec, Store(storage), "run")
    trials = [{"name": s.name, "key": s.key(digest), "spec": s.canonical()} for s in specs]
    Store(storage).write("run/plan.json", to_json(plan(specs, trials=trials)))
    return storage / "run"


# -- a real run ------------------------------------------------------------------------------------------------------


def test_what_is_unpacked_elsewhere_is_the_run(trained: Path, tmp_path: Path) -> None:
    packed = pack(trained, tmp_path / "run.tar.gz")
    assert packed.bytes == packed.path.stat().st_size
    assert not (trained / "analysis").exists(), "packing reads"
    frames = analysis.gather(trained)
    folder = unpack(packed.path, tmp_path / "elsewhere")
    assert folder.name == "run"
    assert_equal_tables(analysis.load(folder), frames)
    report = (folder / "report.html").read_bytes()
    assert report == (trained / "report.html").read_bytes()
    assert_equal_tables(analysis.gather(folder), frames)
    assert (folder / "report.html").read_bytes() == report
    assert (folder / "plan.json").read_bytes() == (trained / "plan.json").read_bytes()
    shutil.rmtree(trained / "analysis")


def test_tickets_are_the_trials_weights_and_masks(trained: Path, tmp_path: Path) -> None:
    folder = unpack(pack(trained, tmp_path / "run.tgz").path, tmp_path / "elsewhere")
    names = sorted(path.name for path in (folder / "tickets").iterdir() if path.is_dir())
    assert names == [f"digits-lenet_300_100-imp-s64-r1-e2-seed{seed}" for seed in (0, 1)]
    for name in names:
        ticket = folder / "tickets" / name
        assert provenance(ticket)["trial"] == name
        for which in ("initial", "rewind", "final"):
            expected, found = load_trial(trained / "trials" / name, which).state_dict(), masked_weights(ticket, which)
            assert expected.keys() == found.keys() and all(torch.equal(expected[k], v) for k, v in found.items())


def test_what_the_readme_says_works_where_it_says(trained: Path, tmp_path: Path) -> None:
    folder = unpack(pack(trained, tmp_path / "run.tar.gz").path, tmp_path / "elsewhere")
    lines = (folder / "README.txt").read_text().partition("How to read it")[2].partition("Versions")[0].splitlines()
    code = [line.split("   ")[0].strip() for line in lines[1:] if line]
    assert len(code) == 4
    script = "\n".join(["import analysis, pandas, sys", *code])
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=folder.parent, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_same_run_gives_the_same_bytes_with_nobodys_name_or_time(trained: Path, tmp_path: Path) -> None:
    first = pack(trained, tmp_path / "a.tar.gz").path
    moved = shutil.copytree(trained.parent, tmp_path / "moved") / "run"
    second = pack(moved, tmp_path / "b.tar.gz").path
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as content:
        members = content.getmembers()
    assert [m.name for m in members] == sorted(m.name for m in members)
    assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}
    assert all(m.name.startswith("run/") and m.isfile() for m in members)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "b.tar.gz", "moved"], "nothing left behind"


def test_an_archive_by_xz_has_the_same_files(trained: Path, tmp_path: Path) -> None:
    packed = pack(trained, tmp_path / "run.tar.xz", ("none",))
    assert packed.path.read_bytes()[:6] == b"\xfd7zXZ\x00" and packed.bytes == packed.path.stat().st_size
    by_gzip = unpack(pack(trained, tmp_path / "run.tar.gz", ("none",)).path, tmp_path / "gzip")
    by_xz = unpack(packed.path, tmp_path / "xz")
    files = {path.relative_to(by_xz): path.read_bytes() for path in by_xz.rglob("*") if path.is_file()}
    assert files == {path.relative_to(by_gzip): path.read_bytes() for path in by_gzip.rglob("*") if path.is_file()}


def test_what_repeats_megabytes_apart_is_stored_once(tmp_path: Path) -> None:
    """As epochs do in the records of the levels of a chain."""
    (tmp_path / "run").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "run" / name).write_bytes(random.Random(0).randbytes(2_000_000))
    assert write_archive(tmp_path / "run", tmp_path / "run.tar.xz") < 2_100_000


def test_weights_that_are_gone_are_named(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained.parent, tmp_path / "moved") / "run"
    shutil.rmtree(run.parent / "states")
    with pytest.raises(UserError, match=r"weights are missing.*rerun the sweep's command, or use --tickets none"):
        pack(run, tmp_path / "a.tar.gz")
    assert not (tmp_path / "a.tar.gz").exists() and not list(tmp_path.glob(".pack-*"))
    folder = unpack(pack(run, tmp_path / "a.tar.gz", ("none",)).path, tmp_path / "elsewhere")
    assert not (folder / "tickets").exists() and len(analysis.load(folder).trials) == 4


def test_the_command(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["pack", str(trained)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path}/run.tar.gz: ") and "MB with 2 tickets: no tickets were shown to match" in out
    assert main(["pack", str(trained), "--tickets", "digits-lenet_300_100-dense-e2-seed0", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["tickets"] == ["digits-lenet_300_100-dense-e2-seed0"]
    assert content["bytes"] == (tmp_path / "run.tar.gz").stat().st_size
    readme = (unpack(tmp_path / "run.tar.gz", tmp_path / "elsewhere") / "README.txt").read_text()
    assert "tickets/digits-lenet_300_100-dense-e2-seed0\n" in readme and "4 of 4 trials are done" in readme
    assert "torch 2" in readme and "cpu: " in readme and str(tmp_path) not in readme


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "error: RUN: found"),
        (["run", "--out", "run.zip"], "expected a file name that ends in .tar.gz, .tgz or .tar.xz"),
        (["run", "--out", "no/where.tar.gz"], "a folder that does not exist"),
        (["run", "--tickets", "bets"], "near it: best"),
        (["run", "--tickets", "all", "best"], "that word alone"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: Sequence[str], message: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").symlink_to(trained)
    assert main(["pack", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# -- which tickets, and what is not done -----------------------------------------------------------------------------


def chosen(storage: Path, specs: Sequence[TrialSpec], accuracy: Any, **more: Any) -> tuple[tuple[str, ...], str]:
    """The tickets that "best" chooses, without packing their weights."""
    from analysis.export.choice import choose
    from analysis.tables.parquet import as_rows

    frames = analysis.gather(make_run(storage, specs, accuracy, **more))
    choice = choose(as_rows(frames.trials), as_rows(frames.verdicts))
    return choice.trials, choice.why


def test_best_is_the_sparsest_that_matches_one_a_seed(tmp_path: Path) -> None:
    accuracy = drops({None: 0.965, 64: 0.964, 87.04: 0.966, 92.22: 0.948})
    names, why = chosen(tmp_path, digits_like(), accuracy)
    assert len(names) == 5 and {name.rpartition("-seed")[2] for name in names} == set("01234")
    assert len({name.rpartition("-seed")[0] for name in names}) == 1 and "-s87.04-" in names[0]
    assert "sparsest tickets with the verdict 'matches'" in why or "'beats'" in why


DIFFERENCES: Mapping[float | None, Sequence[float]] = {64.0: (-9, -1, -5, -3, -7), 87.04: (-2, -4, -3, -6, -5)}


def test_where_none_matches_best_is_the_best_difference(tmp_path: Path) -> None:
    specs = [*dense(), *ladder(64, 87.04)]
    names, why = chosen(tmp_path, specs, paired(96, DIFFERENCES), skip=[specs[-1].name])
    assert names == tuple(f"digits-lenet_300_100-imp-s87.04-r0-seed{seed}" for seed in range(4))
    assert why.startswith("no tickets were shown to match the dense network") and "−3.75 pp" in why


def test_several_orders_of_a_seed_are_one_ticket(tmp_path: Path) -> None:
    specs = [*dense(2), *ladder(64, seeds=2), *ladder(64, seeds=2, order_seed=5)]
    names, _ = chosen(tmp_path, specs, lambda spec: 0.9)
    assert names == tuple(f"digits-lenet_300_100-imp-s64-r0-seed{seed}" for seed in (0, 1))


def test_a_run_without_pairs_packs_no_tickets_and_says_why(tmp_path: Path) -> None:
    run = make_run(tmp_path, ladder(64), lambda spec: 0.9)
    packed = pack(run, tmp_path / "run.tar.gz")
    folder = unpack(packed.path, tmp_path / "elsewhere")
    readme = (folder / "README.txt").read_text()
    assert packed.tickets.trials == () and "no ticket has a finished dense trial" in readme
    assert "load_ticket" not in readme


def test_failed_and_missing_trials_stay_what_they_are(tmp_path: Path) -> None:
    specs = [*dense(), *ladder(64)]
    run = make_run(tmp_path, specs, lambda spec: 0.9, skip=[specs[-1].name, specs[-2].name])
    failure = {"reason": "OSError: the disk is full", "traceback": "/home/someone/secret.py"}
    Store(tmp_path).write(f"run/trials/{specs[-1].name}/{FAILURE}", to_json(failure))
    folder = unpack(pack(run, tmp_path / "run.tar.gz", ("none",)).path, tmp_path / "elsewhere")
    for frames in (analysis.load(folder), analysis.gather(folder)):
        status = frames.trials.set_index("trial")[["status", "reason"]]
        assert status.loc[specs[-1].name].tolist() == ["failed", "OSError: the disk is full"]
        assert status.loc[specs[-2].name, "status"] == "missing"
    assert "secret" not in (folder / "trials" / specs[-1].name / FAILURE).read_text()
