"""The short names of the commands, and what a shell needs to complete their flags."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sweeps import lth_grid, lth_search
from tests.support.command import ROOT

SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
MAIN = {"lth-grid": lth_grid.main, "lth-search": lth_search.main}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("name", sorted(MAIN))
def test_the_completion_is_for_the_name_of_the_script(
    name: str, shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/{name}"])
    with pytest.raises(SystemExit) as ended:
        MAIN[name](["--tyro-print-completion", shell])
    shown = capsys.readouterr().out
    assert not ended.value.code and name in shown and "python -m" not in shown
    assert "sparsity" in shown and "max-hours" in shown


@pytest.mark.parametrize("name", sorted(MAIN))
def test_help_that_nobody_reads_ends_without_a_word(name: str) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", f"sweeps.{name.replace('-', '_')}", "--help"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=300, cwd=ROOT)
    os.close(write)
    assert done.stderr == ""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_bash_completes_a_flag_of_a_script(name: str, tmp_path: Path) -> None:
    module, function = SCRIPTS[name].split(":")
    run = f"import sys; sys.argv = ['/usr/bin/{name}', '--tyro-print-completion', 'bash']; "
    call = [sys.executable, "-c", f"{run}import {module} as scripts; scripts.{function}()"]
    printed = subprocess.run(call, capture_output=True, text=True, timeout=300, cwd=ROOT)
    (tmp_path / name).write_text(printed.stdout)
    ask = f"""
        source {tmp_path / name}
        COMP_WORDS=({name} --max-h) COMP_CWORD=1 COMP_LINE="{name} --max-h" COMP_POINT=${{#COMP_LINE}}
        $(complete -p {name} | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    told = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, timeout=60)
    assert told.stdout.split() == ["--max-hours"], printed.stderr + told.stderr
