"""Every command in the pages has the options that the page gives it, and those that can run here do.

What needs a cluster, a GPU, a download or somebody's account is only read by the command's own parser. What trains is
planned (`--dry-run`), and trained in the slow tests.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lth_trainable.training.execution import Execution, fingerprint
from tests.support.command import ROOT
from tests.support.pages import PAGES, commands, mentions, text_of, variants
from tests.support.parsers import FLAG, flags_of, main_of, parse
from tests.support.reader import SECOND, TICKET, at_work, with_files, with_runs

# Commands that are only read by their parser, by what they contain, and why.
ONLY_PARSED = {
    "--cluster": "starts machines that cost money",
    "--address": "needs a cluster",
    "--push": "uploads to an account",
    "pets_tutorial": "downloads 800 MB and wants a GPU",
    "mnist_lenet": "downloads MNIST",
    "mnist_supermask": "downloads MNIST",
    "--dataset cifar10": "downloads CIFAR-10",
    "my_parts:my_": "tests/test_your_own.py runs it",
    "--image-size": "tests/test_your_own.py runs it",
    "--import-masks": "the usage of two kinds of files at once",
}
SHELL = {"ray", "sbatch", "(umask"}  # programs of others
COMMANDS = [
    pytest.param(page, words, id=f"{page}:{shlex.join(words)[:70]}")
    for page in PAGES
    for line in commands(page)
    for words in variants(line)
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_runs(tmp_path_factory.mktemp("reader"))


@pytest.fixture
def reader(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with at_work(prepared, monkeypatch) as folder:
        yield folder


def is_ours(words: list[str]) -> bool:
    return words[:2] == ["python", "-m"]


def why_only_parsed(words: list[str]) -> str | None:
    return next((why for part, why in ONLY_PARSED.items() if part in shlex.join(words)), None)


@pytest.mark.parametrize(("page", "words"), COMMANDS)
def test_a_command_can_be_read_and_what_it_names_is_there(
    page: str, words: list[str], reader: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", text_of("Makefile"), re.M)
    elif is_ours(words):
        parse([word for word in words if word != "$@"], monkeypatch)
    elif words[0] == "python":
        script = Path(ROOT, words[1])
        assert {flag for flag in words if flag.startswith("--")} <= set(FLAG.findall(script.read_text())), script
    else:
        assert words[0] in SHELL


@pytest.mark.parametrize("page", PAGES)
def test_running_text_names_commands_and_flags_that_exist(page: str) -> None:
    for words in (words for line in mentions(page) for words in variants(line)):
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", text_of("Makefile"), re.M)
            continue
        module, rest = words[2], words[3:]
        if module == "analysis.commands.tables_page":
            continue
        known = flags_of(module)
        if module == "analysis" and rest and f"{rest[0]}.py" in os.listdir(ROOT / "analysis" / "commands"):
            known |= flags_of(module, (rest[0],))
        assert {word for word in rest if word.startswith("--")} <= known, words


def test_every_flag_that_a_page_shows_belongs_to_a_command(page_flags: dict[str, set[str]]) -> None:
    known = set().union(*(flags_of(module) for module in ("sweeps.lth_grid", "sweeps.lth_search", "sweeps.status")))
    known |= set().union(*(flags_of(f"sweeps.{name}") for name in ("storage", "verify", "recipe", "barrier")))
    known |= flags_of("analysis") | flags_of("lth_trainable.check")
    for path in (ROOT / "analysis" / "commands").glob("[a-z]*.py"):
        known |= flags_of("analysis", (path.stem,)) if path.stem != "tables_page" else set()
    known |= {"--help-all", "--dashboard-host"}  # not in its own help; Ray's
    unknown = {flag: page for page, flags in page_flags.items() for flag in flags - known}
    assert unknown == {}


@pytest.fixture
def page_flags() -> dict[str, set[str]]:
    """Flags in inline code of the pages for users that starts with them."""
    inline = re.compile(r"`(--[a-z][a-z-]+)[^`]*`")
    return {page: set(inline.findall(text_of(page))) for page in PAGES if not page.startswith("benchmarks")}


# -- the commands, run -------------------------------------------------------------------------------------------------

# What a reader puts in the place of the words in capitals. The second NAME of a line is another trial.
PLACES = {
    "RUN": "runs/digits", "RUN_A": "runs/digits", "RUN_B": "runs/other", "TRIAL": TICKET.name,
    "FILE": "ticket.safetensors", "GROUP": TICKET.name.removesuffix("-seed0"), "DIR": "exported",
}  # fmt: skip
TRAIN = ("sweeps.lth_grid", "sweeps.lth_search")


def typed(words: list[str]) -> list[str]:
    """The arguments with every place filled."""
    names = iter((TICKET.name, SECOND.name))
    return [re.sub(r"NAME$", lambda _: next(names), PLACES.get(word, word)) for word in words]


def runs_here(words: list[str]) -> bool:
    return is_ours(words) and why_only_parsed(words) is None


QUICK = [case for case in COMMANDS if runs_here(case.values[1]) and case.values[1][2] not in TRAIN]


@pytest.mark.parametrize(("page", "words"), QUICK)
def test_a_command_that_reads_runs(
    page: str, words: list[str], reader: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = typed(words[3:])
    if "barrier" in (*arguments, words[2].removeprefix("sweeps.")) and "--dry-run" not in arguments:
        arguments.append("--dry-run")
    assert main_of(words[2])(arguments) == 0, capsys.readouterr()


PLANS = [case for case in COMMANDS if runs_here(case.values[1]) and case.values[1][2] == "sweeps.lth_grid"]


@pytest.mark.parametrize(("page", "words"), PLANS)
def test_a_sweep_of_a_page_can_be_planned(
    page: str, words: list[str], reader: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sweeps.running.estimate._probe", lambda *_, **__: (None, "not measured here"))
    arguments = [word for word in typed(words[3:]) if word != "$@"]
    assert main_of("sweeps.lth_grid")([*arguments, "--dry-run"]) == 0, capsys.readouterr()


TRAINING = [case for case in COMMANDS if runs_here(case.values[1]) and case.values[1][2] in TRAIN]


@pytest.fixture(scope="module")
def beginner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the files that a reader writes; what is trained there stays for the next command."""
    return with_files(tmp_path_factory.mktemp("beginner"))


def train(words: list[str], folder: Path) -> str:
    """Run a command to its good end in a process of its own; returns what it prints."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "WANDB_MODE": "offline", "COLUMNS": "160"}
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=folder, env=environment, text=True, capture_output=True, check=False,
        timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_the_readme_shows_what_its_sweep_prints(beginner: Path) -> None:
    """Word for word where the README's numbers were made; elsewhere only the beginning and the end."""
    printed = " ".join(train(["python", "-m", "sweeps.lth_grid"], beginner).split())
    block = re.search(r"((?:^    .*\n|^\n)+)", text_of("README.md").partition("(progress left out):\n")[2], re.M)
    assert block is not None
    first, second, *rest = block[1].strip().splitlines()
    ours = fingerprint(Execution())
    made = re.search(r"torch ([\d.]+) on an x86-64 CPU with AVX-512", text_of("README.md"))
    same = made is not None and ours["torch"].startswith(made[1]) and "AVX512" in ours["device"]
    shown = [first, second, "\n".join(rest) if same else "\n".join(rest[-3:])]
    assert [part for part in (" ".join(part.split()) for part in shown) if part not in printed] == []


@pytest.mark.slow
@pytest.mark.parametrize(("page", "words"), TRAINING)
def test_a_sweep_or_search_of_a_page_trains(page: str, words: list[str], beginner: Path) -> None:
    """One after another in one folder, as a reader would; so they share what they can, and may not collide."""
    few = ["--suggestions", "3"] if words[2] == "sweeps.lth_search" else []  # the last one counts
    train([*words[:3], *typed(words[3:]), *few], beginner)
