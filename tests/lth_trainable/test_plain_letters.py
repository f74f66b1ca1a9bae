"""Commands print in any encoding."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lth_trainable.plain_letters import PLAIN_LETTERS, plain


def test_the_nearest_plain_letter_stands_for_one_that_cannot_be_encoded() -> None:
    text = "−0.19 [−1.24, +0.87] · é ● │ 語"
    assert plain(text) == "-0.19 [-1.24, +0.87] * e * | ?" and len(plain(text)) == len(text)
    assert "– ● ½ é".encode("cp1252", PLAIN_LETTERS).decode("cp1252") == "– * ½ é", "what the encoding has stays"


COMMANDS = {
    "plan": ["sweeps.lth_grid", "digits", "--seeds", "1", "--dry-run"],
    "mistake": ["sweeps.lth_grid", "nonsensé−"],
    "help": ["sweeps.lth_grid", "--help-all"],
    "recipe": ["sweeps.recipe", "show", "digits"],
    "run": ["analysis", "RUN"],
    "table": ["analysis", "table", "RUN"],
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    "settings",
    [{"PYTHONIOENCODING": "ascii"}, pytest.param({"PYTHONIOENCODING": "cp1252"}, marks=pytest.mark.slow)],
    ids=str,
)
def test_a_command_fails_for_no_encoding(
    name: str, settings: dict[str, str], finished_run: Path, tmp_path: Path
) -> None:
    words = [word.replace("RUN", str(finished_run)) for word in COMMANDS[name]]
    words += ["--storage", str(tmp_path)] if "--dry-run" in words else []
    done = subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, env={**os.environ, **settings}, check=False
    )
    assert done.returncode == (2 if name == "mistake" else 0), done.stderr
    assert b"Traceback" not in done.stderr and b"UnicodeEncodeError" not in done.stderr
    (done.stdout + done.stderr).decode(settings["PYTHONIOENCODING"])


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import analysis
    from tests.support.records import DIGITS, dense, ladder, make_run

    run = make_run(tmp_path_factory.mktemp("runs"), [*dense(), *ladder(64, 87.04)], DIGITS)
    analysis.gather(run)
    return run
