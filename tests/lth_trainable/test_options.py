"""A word in place of a number is an error in one line, for every flag of every command."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

from lth_trainable.errors import UserError
from lth_trainable.options import parsed


@dataclass(frozen=True)
class Options:
    run: Annotated[str, tyro.conf.Positional] = "r"
    seeds: int | None = None
    rate: float = 0.5
    trials_per_gpu: int | Literal["auto"] | None = None
    sizes: Annotated[tuple[float, ...], tyro.conf.arg(metavar="X ...")] = ()
    pair: tuple[float, float] | None = None
    name: str | int = "n"
    path: int | Path = 0
    is_fast: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    kind: Literal["a", "b"] = "a"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--seeds x", "--seeds: found 'x'; expected a whole number"),
        ("--seeds 2.5", "--seeds: found '2.5'; expected a whole number"),
        ("--seeds=x", "--seeds: found 'x'; expected a whole number"),
        ("--rate half", "--rate: found 'half'; expected a number"),
        ("--trials-per-gpu many", "--trials-per-gpu: found 'many'; expected a whole number or auto"),
        ("--trials_per_gpu many", "--trials_per_gpu: found 'many'; expected a whole number or auto"),
        ("--sizes 1 -2 x --seeds 3", "--sizes: found 'x'; expected a number"),
        ("--rate -x", "--rate: found '-x'; expected a number"),
        ("--pair 1 x", "--pair: found 'x'; expected a number"),
        ("--is-fast --seeds y", "--seeds: found 'y'; expected a whole number"),
        ("--rate 1 --seeds ''", "--seeds: found \"''\"; expected a whole number"),
    ],
)
def test_a_word_in_place_of_a_number(words: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        parsed(Options, args=words.split())
    assert str(error.value) == said


@pytest.mark.parametrize(
    "words",
    [
        "--seeds 3 here", "--seeds None", "--rate 1e-3", "--rate -.5", "--rate=2", "--trials-per-gpu auto",
        "--sizes 1 2.5 -3 --is-fast", "--name x", "--name 3", "--path a/b", "--kind b",
        "here --is-fast", "--rate 2 there", "--pair 1 2", "--rate x --rate 2", "",
    ],
)  # fmt: skip
def test_what_the_parser_takes_is_left_to_it(words: str) -> None:
    assert parsed(Options, args=words.split()) == tyro.cli(Options, args=words.split())


@pytest.mark.parametrize("words", ["--seds 3", "--kind c", "--seeds"])
def test_other_mistakes_are_left_to_it_too(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parsed(Options, args=words.split())
    assert end.value.code == 2 and capsys.readouterr().err


@pytest.mark.parametrize("words", ["--help", "--seeds x --help"])
def test_help_is_shown_once(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parsed(Options, args=words.split())
    assert not end.value.code and capsys.readouterr().out.count("usage: ") == 1


def test_flags_of_a_dataclass_within_it_are_known() -> None:
    """There nothing but numbers may follow."""

    @dataclass(frozen=True)
    class Axes:
        lr: tuple[float, ...] = ()

    axes = ("axes", Annotated[Axes, tyro.conf.arg(name="")])
    both = make_dataclass("both", [axes], bases=(Options,), frozen=True, kw_only=True)
    with pytest.raises(UserError, match="--lr: found 'b'; expected a number"):
        parsed(both, Axes, args=["--lr", "1", "b", "c"])
    with pytest.raises(UserError, match="--seeds: found 'b'; expected a whole number"):
        parsed(both, Axes, args=["--seeds", "b"])


def test_a_word_that_is_needed_may_follow_numbers() -> None:
    """The parser takes it so, and refuses these lines for another reason."""

    @dataclass(frozen=True)
    class Of:
        run: Annotated[str, tyro.conf.Positional]
        sizes: tuple[float, ...] = ()

    assert parsed(Of, args=["--sizes", "1", "2", "runs/x"]) == Of(run="runs/x", sizes=(1.0, 2.0))
    with pytest.raises(SystemExit):
        parsed(Of, args=["--sizes", "1", "2", "runs/x", "--size"])
    with pytest.raises(UserError, match="--sizes: found 'x'"):
        parsed(Of, args=["runs/x", "--sizes", "x"])


def test_without_words_it_reads_those_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "--seeds", "4"])
    assert parsed(Options, args=None).seeds == 4


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("sweeps.lth_grid", "digits --epochs x"), ("sweeps.lth_grid", "digits --replicas x"),
        ("sweeps.lth_search", "--suggestions x"), ("sweeps.barrier", "run --points x"),
        ("sweeps.verify", "run --trials x"),
        ("lth_trainable.check", "tests.plugins:tiny_cnn --limit x"),
        ("analysis.__main__", "barrier run --order-seeds 1 x"), ("analysis.__main__", "results run --seconds x"),
    ],
)  # fmt: skip
def test_every_command_says_it_in_one_line(command: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(command)
    assert (module.command if command == "lth_trainable.check" else module.main)(words.split()) == 2
    flag = next(word for word in words.split() if word.startswith("--"))
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {flag}: found 'x'; expected ") and shown.err.count("\n") == 1 and not shown.out


def test_barriers_say_nothing_of_what_fastai_uses_of_torch() -> None:
    """Their module imports the training; in most commands only functions do."""
    command, root = [sys.executable, "-m", "sweeps.barrier", "no_run"], Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
