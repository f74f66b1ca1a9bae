"""Every block of code in the pages runs as it stands, and every command has the options that the page gives it.

What needs a cluster, a GPU, a download or somebody's account is read by the command's own parser instead. What takes
long is planned here (`--dry-run`) and trained in the slow tests.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
import tyro

import analysis
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from sweeps.cli import options, search_options
from sweeps.experiments.expand import expand
from tests.support.command import ROOT
from tests.support.pages import PAGES, Block, blocks, commands, mentions, text_of, variants
from tests.support.runs import sweep

# Pages whose blocks another test runs, because they belong to what that test prepares.
ELSEWHERE = {
    "docs/callback.md": "tests/end_to_end/test_notebooks.py",
    "docs/clusters.md": "tests/end_to_end/test_cluster.py",
    "docs/from_fasterai.md": "tests/lth_trainable/pruning/test_from_fasterai.py",
    "docs/ray_tune.md": "tests/lth_trainable/tune/",
    "docs/your_own.md": "tests/test_your_own.py",
}
# Commands that are only read by their parser, by what they contain, and why.
ONLY_PARSED = {
    "--cluster": "starts machines that cost money",
    "--address": "needs a cluster",
    "--push": "uploads to an account",
    "pets_tutorial": "downloads 800 MB and wants a GPU",
    "mnist_lenet": "downloads MNIST",
    "my_parts:my_": "tests/test_your_own.py runs it",
    "--image-size": "tests/test_your_own.py runs it",
    "--import-masks": "the usage of two kinds of files at once",
}
SHELL = {"ray", "sbatch", "(umask"}  # programs of others
TICKET = TrialSpec(target_sparsity_pct=64.0, rewind_epoch=0)
DENSE = TrialSpec(control="dense")
MODULES = {
    "sweeps.lth_grid": options.parse,
    "sweeps.lth_search": search_options.parse,
}
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def modules_main(module: str) -> Any:
    found = importlib.import_module({"analysis": "analysis.__main__"}.get(module, module))
    return found.command if module == "lth_trainable.check" else found.main


class Parsed(BaseException):
    """The options of a command were read; it need not go on."""


def parse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the words of a command by its own parser; raises what the command raises for a wrong one."""
    assert words[:2] == ["python", "-m"]
    module, arguments = words[2], words[3:]
    if module in MODULES:
        MODULES[module](arguments)
        return
    real = tyro.cli

    def only_parsed(f: Any, *given: Any, **more: Any) -> NoReturn:
        real(f if inspect.isclass(f) else functools.wraps(f)(lambda *_, **__: None), *given, **more)
        raise Parsed

    subcommand = tyro.extras.subcommand_cli_from_dict

    def only_subcommand(*given: Any, **more: Any) -> NoReturn:
        subcommand(*given, **more)
        raise Parsed

    with monkeypatch.context() as patch, pytest.raises(Parsed):
        patch.setattr(tyro.extras, "subcommand_cli_from_dict", only_subcommand)
        if module != "sweeps.recipe":  # whose sub-commands call tyro.cli in turn
            patch.setattr(tyro, "cli", only_parsed)
        modules_main(module)(arguments)


def flags_of(module: str, arguments: tuple[str, ...] = ()) -> set[str]:
    """All flags in the help of a command."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        modules_main(module)([*arguments, "--help-all" if module in MODULES else "--help"])
    return set(FLAG.findall(text.getvalue()))


# -- a folder in which the pages' commands may be typed ----------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs of two seeds, really trained and gathered, and a reader's own files."""
    folder = tmp_path_factory.mktemp("reader")
    store = Store(folder / "runs")
    for run, rewind in (("digits", 0), ("other", 1)):
        specs = [TrialSpec(target_sparsity_pct=64.0, rewind_epoch=rewind, seed=seed) for seed in (0, 1)]
        sweep(store, run, [*specs, *(TrialSpec(control="dense", seed=seed) for seed in (0, 1))])
        analysis.gather(folder / "runs" / run)
    os.symlink("other", folder / "runs" / "digits_tutorial")
    write_files(folder)
    return folder


def write_files(folder: Path) -> None:
    """The files that the pages ask a reader to write."""
    (folder / "my_parts.py").write_text(blocks("README.md", "python")[1].text)
    (folder / "my_module.py").write_text("def keep_sum(w):\n    return w.now.abs() + w.initial.abs()\n")
    [recipe] = blocks("docs/command-line.md", "yaml")
    (folder / "my_sweep.yaml").write_text(recipe.text)
    (folder / "my_sweep.py").write_text(blocks("docs/command-line.md", "python")[0].text)


@pytest.fixture
def reader(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same, as the present folder."""
    monkeypatch.chdir(prepared)
    monkeypatch.syspath_prepend(str(prepared))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    yield prepared
    for name in ("my_parts", "my_module", "my_sweep", "load_ticket"):
        sys.modules.pop(name, None)


def run_blocks(page: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run the Python of a page, block after block in one namespace, as a reader would; returns the namespace."""
    for block in blocks(page, "python"):
        exec(compile(block.text, block.name, "exec"), names)
    return names


# -- the Python --------------------------------------------------------------------------------------------------------


def test_every_block_belongs_to_a_test() -> None:
    mine = {"README.md", "docs/command-line.md", "docs/tables.md", "docs/tickets.md"}
    for page in PAGES:
        found: list[Block] = blocks(page)
        assert all(block.language in ("python", "yaml", "bash") for block in found), page
        assert not found or page in mine or page in ELSEWHERE, f"{page}: which test runs its blocks?"
    for page, test in ELSEWHERE.items():
        if page == "docs/ray_tune.md":
            continue  # its test is being written
        files = Path(ROOT, test).rglob("*.py") if test.endswith("/") else [Path(ROOT, test)]
        assert any(Path(page).name in file.read_text() for file in files), f"{test} does not read {page}"


def test_the_python_of_the_readme(reader: Path) -> None:
    names = run_blocks("README.md", {"__name__": "my_parts"})
    assert len(names["frames"].trials) == 4 and isinstance(names["two_layers"]((1, 8, 8), 2), torch.nn.Module)
    assert names["odd_digits"](None, 0).classes == ("even", "odd")
    assert names["callback"].pruner.sparsity_pct == 50.0 and (reader / "ticket.safetensors").exists()


def test_the_python_of_the_page_on_tables(reader: Path) -> None:
    names = run_blocks("docs/tables.md", {})
    assert set(names["frames"].trials["run"]) == {"digits", "other"}


def test_the_python_of_the_page_on_tickets(reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert modules_main("analysis")(["export", f"runs/digits/trials/{TICKET.name}", "--out", "exported"]) == 0
    monkeypatch.chdir(reader / "exported" / TICKET.name)
    monkeypatch.syspath_prepend(str(reader / "exported" / TICKET.name))
    names = run_blocks("docs/tickets.md", {})
    kept = np.concatenate([mask.numpy().ravel() for mask in names["kept"].values()])
    assert abs(100 * (1 - kept.mean()) - 64) < 0.1 and names["about"]["trial"] == TICKET.name


def test_the_recipes_of_the_page_on_the_command_line(reader: Path) -> None:
    for words, trials in ((["my_sweep.yaml"], 10 * (6 + 6 + 1)), (["my_sweep:odd_or_even"], 5 * (4 + 1))):
        _, recipe = options.parse(words)
        assert len(expand(recipe).trials) == trials


def test_the_shell_script_for_slurm_is_one() -> None:
    for block in (block for page in PAGES for block in blocks(page, "bash")):
        done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
        assert done.returncode == 0, f"{block.name}: {done.stderr}"


# -- the commands ------------------------------------------------------------------------------------------------------

COMMANDS = [
    pytest.param(page, words, id=f"{page}:{shlex.join(words)[:70]}")
    for page in PAGES
    for line in commands(page)
    for words in variants(line)
]


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
    known |= set().union(*(flags_of(f"sweeps.{name}") for name in ("storage", "verify", "recipe")))
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

SECOND = TrialSpec(target_sparsity_pct=64.0, rewind_epoch=0, seed=1)
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
    if "barrier" in arguments and "--dry-run" not in arguments:
        arguments.append("--dry-run")
    assert modules_main(words[2])(arguments) == 0, capsys.readouterr()


PLANS = [case for case in COMMANDS if runs_here(case.values[1]) and case.values[1][2] == "sweeps.lth_grid"]


@pytest.mark.parametrize(("page", "words"), PLANS)
def test_a_sweep_of_a_page_can_be_planned(
    page: str, words: list[str], reader: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sweeps.running.estimate._probe", lambda *_, **__: (None, "not measured here"))
    arguments = [word for word in typed(words[3:]) if word != "$@"]
    assert modules_main("sweeps.lth_grid")([*arguments, "--dry-run"]) == 0, capsys.readouterr()


TRAINING = [case for case in COMMANDS if runs_here(case.values[1]) and case.values[1][2] in TRAIN]


@pytest.mark.slow
def test_the_sweeps_and_searches_of_the_pages_train(tmp_path: Path) -> None:
    """One after another in one folder that is empty at first, as a reader would; so they share what they can."""
    write_files(tmp_path)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "WANDB_MODE": "offline"}
    for case in TRAINING:
        page, words = case.values
        done = subprocess.run(
            [sys.executable, "-m", words[2], *typed(words[3:])], cwd=tmp_path, env=environment, text=True,
            capture_output=True, check=False, timeout=1800,
        )  # fmt: skip
        assert done.returncode == 0, f"{page}: {shlex.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
