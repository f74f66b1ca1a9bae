"""`python -m analysis export`: tickets can be loaded with torch alone and reach the recorded accuracy."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from analysis.__main__ import main
from analysis.export.load_ticket import BUILDERS, load_model
from analysis.export.tickets import export, write_loader, write_ticket
from lth_trainable.data.datasets import load_dataset
from lth_trainable.models.networks import MODELS, build
from lth_trainable.pruning.ticket import Ticket
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.trials import load_trial
from tests.support.trained import DENSE, TICKET


def record_of(run: Path, spec: TrialSpec) -> dict[str, Any]:
    return dict(json.loads((run / "trials" / spec.name / "record.json").read_text()))


def sums(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_a_fresh_process_with_torch_alone_gives_the_recorded_accuracy(trained: Path, tmp_path: Path) -> None:
    digits = load_dataset("digits")
    torch.save({"x": torch.as_tensor(digits.test.x), "y": torch.as_tensor(digits.test.y)}, tmp_path / "test.pt")
    ticket, dense = export([str(trained), TICKET.name, DENSE.name], tmp_path)
    code = (
        "import sys\n"
        "for other in ('lth_trainable', 'analysis', 'sweeps', 'safetensors', 'fastai', 'torchvision', 'numpy'):\n"
        "    sys.modules[other] = None\n"
        "import json, torch, load_ticket as lt\n"
        "test = torch.load('../test.pt', weights_only=True)\n"
        f"for folder in (lt.HERE, '../{DENSE.name}'):\n"
        "    right = int((lt.load_model(folder)(test['x'].float()).argmax(1) == test['y']).sum())\n"
        "    zeros = sum(int((~mask).sum()) for mask in lt.masks(folder).values())\n"
        "    told = lt.provenance(folder)['result']['test_accuracy']\n"
        "    print(json.dumps([right / len(test['y']), told, zeros]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ticket.path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert dense.parts == ("initial", "final")
    for spec, line in zip((TICKET, DENSE), done.stdout.splitlines(), strict=True):
        found, told, zeros = json.loads(line)
        result = record_of(trained, spec)["result"]
        assert found == told == result["test_accuracy"]
        assert zeros == result["n_weights"] - result["n_kept"]


def test_files_are_plain_state_dicts_equal_in_both_formats(trained: Path, tmp_path: Path) -> None:
    (exported,) = export([str(trained / "trials" / TICKET.name)], tmp_path)
    assert exported.parts == ("initial", "rewind", "final")
    mask = load_file(exported.path / "masks.safetensors")
    assert {t.dtype for t in mask.values()} == {torch.bool}
    for name in ("masks", "initial", "rewind", "final", "dense/initial", "dense/rewind"):
        ours = torch.load(exported.path / f"{name}.pt", weights_only=True)
        theirs = load_file(exported.path / f"{name}.safetensors")
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], value) for key, value in theirs.items())
        assert type(ours) is dict
    for part in ("initial", "rewind"):
        weights, dense = (torch.load(exported.path / f"{place}{part}.pt") for place in ("", "dense/"))
        for name, kept in mask.items():
            assert not weights[name][~kept].any() and dense[name][~kept].all()
            assert torch.equal(weights[name][kept], dense[name][kept])
    first = torch.load(exported.path / "dense/initial.pt")
    dense_start = load_trial(trained / "trials" / DENSE.name, "initial").state_dict()
    assert all(torch.equal(first[name], tensor) for name, tensor in dense_start.items())
    recorded = record_of(trained, TICKET)
    assert sums(exported.path)["final.safetensors"] == recorded["sha256"]["weights"]
    about = json.loads((exported.path / "ticket.json").read_text())["provenance"]
    assert about["spec"] == TICKET.canonical() and about["states"] == recorded["states"]


@pytest.mark.slow
def test_the_same_trial_gives_the_same_bytes_wherever_and_whenever(trained: Path, tmp_path: Path) -> None:
    (first,) = export([str(trained), TICKET.name], tmp_path / "a")
    moved = shutil.copytree(trained.parent, tmp_path / "moved") / "run"
    command = [sys.executable, "-m", "analysis", "export", str(moved / "trials" / TICKET.name), "--out", "b"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"b/{TICKET.name}: ") and "test accuracy" in done.stdout
    assert sums(first.path) == sums(tmp_path / "b" / TICKET.name)
    assert str(tmp_path).encode() not in (first.path / "ticket.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "moved"]


def test_an_older_export_is_replaced_and_nothing_else_is(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(trained), TICKET.name, "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["exports"]
    assert entry["parts"] == ["initial", "rewind", "final"] and entry["result"]["n_kept"] > 0
    assert main(["export", str(trained), TICKET.name, "--which", "rewind"]) == 0
    names = {path.name for path in (tmp_path / TICKET.name).iterdir()}
    assert names == {
        "rewind.pt", "rewind.safetensors", "masks.pt", "masks.safetensors", "dense", "ticket.json", "load_ticket.py",
    }  # fmt: skip
    (tmp_path / DENSE.name).mkdir()
    capsys.readouterr()
    assert main(["export", str(trained), DENSE.name]) == 2
    assert "that is no export" in capsys.readouterr().err and not any((tmp_path / DENSE.name).iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: TRIAL: found ''"),
        (["nowhere"], "error: RUN: found"),
        (["run"], "expected the path of a trial, or that of a run and names of its trials"),
        (["run", "digits-lenet_300_100-dense-e2-seed1"], f"near it: {DENSE.name}"),
        (["run", DENSE.name, "--which", "rewind"], "expected of initial, final"),
        (["run", DENSE.name, f"run/trials/{DENSE.name}"], "trials of different names"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: Sequence[str], message: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").symlink_to(trained)
    assert main(["export", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_weights_that_are_gone_are_named(trained: Path, tmp_path: Path, capsys: Any) -> None:
    run = shutil.copytree(trained.parent, tmp_path / "moved") / "run"
    shutil.rmtree(run.parent / "states")
    assert main(["export", str(run), TICKET.name, "--out", str(tmp_path / "out")]) == 2
    assert "weights are missing" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_each_network_opens_and_a_stranger_is_refused(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 64, 64)
    for name, width in itertools.product(MODELS, (None, 25.0)):
        folder = name if width is None else f"{name}-narrow"
        network = build(name, (3, 64, 64), 2, width).eval()
        state, about = network.state_dict(), {"spec": {"model": name}}
        ticket = Ticket(masks={}, initial=state, rewind={}, final=state, provenance=about)
        write_ticket(ticket, tmp_path / folder, formats=("pt",))
        assert torch.equal(load_model(tmp_path / folder)(x), network(x))
    write_ticket(replace(ticket, provenance={"spec": {"model": "mine:network"}}), tmp_path / "mine.network")
    with pytest.raises(ValueError, match="mine:network is not known here"):
        load_model(tmp_path / "mine.network")
    with pytest.raises(ValueError, match=r"found no rewind.pt; it has final.pt, initial.pt, masks.pt"):
        load_model(tmp_path / "resnet18", "rewind")
    write_loader(tmp_path)
    assert (tmp_path / "load_ticket.py").is_file() and set(BUILDERS) == set(MODELS)
