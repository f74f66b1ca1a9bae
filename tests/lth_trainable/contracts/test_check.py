"""What breaks a contract is found, and the command says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lth_trainable.check import command
from lth_trainable.contracts import CONTRACTS, what_breaks
from tests.lth_trainable.contracts import broken

BROKEN = [
    ("criterion", "nan_scores", "scores fit", "NaN"),
    ("criterion", "one_score_a_layer", "scores fit", "shape"),
    ("criterion", "not_a_tensor", "scores fit", "returns float"),
    ("criterion", "in_place", "scores fit", "changes the weights"),
    ("criterion", "global_random", "deterministic", "w.noise"),
    ("criterion", "numpy_random", "deterministic", "w.noise"),
    ("criterion", "counts_calls", "resumable", "not keep state"),
    ("criterion", "within", "serialisable", "lambda"),
    ("schedule", "overshoots", "values in range", "outside"),
    ("schedule", "wavers", "rises", "do not rise"),
    ("schedule", "forgets", "same twice", "arguments only"),
    ("schedule", "is_nan", "values in range", "finite"),
    ("model", "ignores_classes", "answers per class", "shape"),
    ("model", "without_layers", "has layers", "no layer to prune"),
    ("model", "unseeded", "built from the seed", "manual_seed"),
    ("dataset", "leaking_data", "splits are disjoint", "in its train split too"),
]
KEPT = [("criterion", "relative_growth"), ("schedule", "gentle"), ("model", "small"), ("dataset", "fine_data")]


@pytest.mark.parametrize(("kind", "name", "contract", "says"), BROKEN, ids=[case[1] for case in BROKEN])
def test_a_broken_contract_is_found(kind: str, name: str, contract: str, says: str) -> None:
    [held] = [c for c in CONTRACTS[kind] if c.name == contract]
    fault = what_breaks(held, getattr(broken, name))
    assert fault is not None and says in fault


@pytest.mark.parametrize(("kind", "name"), KEPT)
def test_the_command_guesses_the_kind_and_accepts(kind: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command([f"tests.lth_trainable.contracts.broken:{name}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f"as a {kind}:") and lines[-1] == "all contracts kept"
    assert len(lines) == len(CONTRACTS[kind]) + 2 and all(line.endswith(" ok") for line in lines[1:-1])


def test_the_command_names_what_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["tests.lth_trainable.contracts.broken:ignores_classes", "--kind", "model"]) == 1
    out = capsys.readouterr().out
    assert "BROKEN: for 2 images of 2 classes its output has the shape [2, 10]" in out
    assert "3 of 6 contracts broken" in out


@pytest.mark.parametrize(("name", "says"), [
    ("no_such_module_here:f", "cannot import"), ("tests.lth_trainable.contracts.broken:no_such", "has no"),
    ("large_final", "my_module:my_criterion"), ("tests.lth_trainable.contracts.broken:ambiguous", "--kind"),
    ("tests.lth_trainable.contracts.broken:not_a_function", "has no function"),
])  # fmt: skip
def test_bad_input_is_exit_code_2(name: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command([name]) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error


def test_the_command_line_itself() -> None:
    arguments = [sys.executable, "-m", "lth_trainable.check", "tests.plugins:keep_outer"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.endswith("all contracts kept\n"), done.stdout + done.stderr


def test_names_of_a_kind_get_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    here = "tests.lth_trainable.contracts.broken"
    names = [f"{here}:small", f"{here}:ignores_classes", "resnet18", "resnet19", "torchvision:alexnet", f"{here}:gone"]
    assert command(["model", *names, "--dataset", "digits"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ", 1)[0] for line in lines] == [f"model {name}" for name in names]
    assert lines[0].endswith("ok, 610 parameters for images of 1 x 8 x 8 and 10 classes")
    assert "expected 3" in lines[2] and "did you mean resnet18?" in lines[3]
    assert "BROKEN: torchvision:alexnet: cannot take images of 1 x 8 x 8" in lines[4] and "has no function" in lines[5]


def test_data_sets_get_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    own = "tests.own_data"
    assert command(["dataset", "digits", f"{own}:torch_loaders", f"{own}:endless", "folder"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "dataset digits: ok, 1,150 / 287 / 360 images of 1 x 8 x 8, 10 classes"
    assert lines[1] == f"dataset {own}:torch_loaders: ok, 60 / 16 / 18 images of 1 x 10 x 10, 2 classes"
    assert "BROKEN" in lines[2] and "read from start to end" in lines[2] and "--data-root: found None" in lines[3]
    assert command(["criterion", "large_final", "tests.plugins:keep_outer"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "criterion large_final: ok",
        "criterion tests.plugins:keep_outer: ok",
    ]


@pytest.mark.parametrize("arguments", [["dataset"], ["a:b", "c:d"], []])
def test_a_kind_without_names_and_names_without_a_kind_are_bad_input(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(arguments) == 2 and "expected" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["dataset", "hangs:data"], ["model", "small:net", "hangs:net"], ["hangs:net"]])
def test_a_function_that_hangs_ends_the_command_with_the_place(arguments: list[str], tmp_path: Path) -> None:
    hangs = "import time\n\ndef pause():\n    time.sleep(600)\n\ndef {}:\n    pause()\n\ndef {}:\n    pause()\n"
    (tmp_path / "hangs.py").write_text(hangs.format("data(root, split_seed)", "net(shape, n_classes)"))
    (tmp_path / "small.py").write_text("from tests.lth_trainable.contracts.broken import small as net\n")
    path = os.pathsep.join([str(Path(__file__).parents[3]), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-m", "lth_trainable.check", *arguments, "--limit", "1"], capture_output=True, text=True,
        timeout=120, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    line = done.stdout.splitlines()[-1]
    assert done.returncode == 1 and line.startswith(" ".join(arguments[:1] * (len(arguments) > 1) + arguments[-1:]))
    assert line.endswith("BROKEN: no answer for 1 s; it is still at hangs.py:4, in pause: time.sleep(600)")


def test_code_that_keeps_all_threads_from_running_is_ended_too() -> None:
    """A regular expression holds Python's lock from the first statement of the block on."""
    code = (
        "import re\nfrom lth_trainable.silence import limit\nlimit.BLOCKED = 1\n"
        "with limit.limited(1, 'model a:b'):\n    re.match(r'(a+)+$', 'a' * 60 + 'b')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[3]
    )
    assert done.returncode == 1 and "Timeout" in done.stderr and "in <module>" in done.stderr


def test_no_limit_and_a_wrong_limit(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["criterion", "large_final", "--limit", "0"]) == 0
    assert command(["criterion", "large_final", "--limit", "-1"]) == 2
    assert "at least 1 second, or 0" in capsys.readouterr().err
