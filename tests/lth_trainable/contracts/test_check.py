"""What breaks a contract is found, and the command says so."""

from __future__ import annotations

import subprocess
import sys

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
    ("dataset", "digest_of_the_split", "same content same digest", "split seed"),
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
    assert "1 of 5 contracts broken" in out


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
