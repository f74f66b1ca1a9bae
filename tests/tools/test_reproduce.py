"""`tools/reproduce.py`: which commands it runs, without running them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.command import ROOT


@pytest.fixture
def reproduce(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("reproduce", ROOT / "tools" / "reproduce.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    return module


def commands(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str, fails: str = "") -> list[list[str]]:
    """The commands of these arguments. fails: the module whose command fails."""
    seen: list[list[str]] = []

    def run(*words: str) -> int:
        seen.append(list(words))
        return 3 if fails and fails in words else 0

    monkeypatch.setattr(module, "_run", run)
    code: Any = module.main(arguments)
    assert code == (3 if fails else 0)
    return [["S" if word.replace(".", "").isdecimal() else word for word in words] for words in seen]


def test_a_recipe_is_run_kept_and_compared(reproduce: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, kept, compared = commands(reproduce, monkeypatch, "digits")
    assert sweep == ["sweeps.lth_grid", "digits"]
    assert kept == ["analysis", "results", "runs/digits", "--seconds", "S", "--out", "build/results"]
    assert compared == ["analysis", "compare", str(ROOT / "results" / "digits"), "build/results/digits"]


def test_supermasks_are_measured_and_flags_passed_on(reproduce: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--data-root", "d", "--storage=s", "--name", "n"]
    sweep, measured, gathered, kept = commands(reproduce, monkeypatch, "mnist_supermask", *flags, "--out", "o")
    assert sweep == ["sweeps.lth_grid", "mnist_supermask", *flags]
    assert measured == ["analysis", "supermasks", "s/n", "--data-root", "d"]
    assert gathered == ["analysis", "s/n"]
    assert kept == ["analysis", "results", "s/n", "--seconds", "S", "--out", "o"]


def test_of_a_resumed_run_the_time_is_not_known(reproduce: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("runs/other").mkdir(parents=True)
    Path("runs/other/plan.json").write_text("{}")
    assert commands(reproduce, monkeypatch, "other")[1] == [
        "analysis",
        "results",
        "runs/other",
        "--out",
        "build/results",
    ]


def test_the_first_failure_ends_it(reproduce: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(commands(reproduce, monkeypatch, "digits", fails="sweeps.lth_grid")) == 1
    assert len(commands(reproduce, monkeypatch, "digits", fails="results")) == 2


def test_without_a_recipe_nothing_is_run(reproduce: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main([]) == reproduce.main(["--out", "x"]) == 2
    assert "expected its name" in capsys.readouterr().err
