"""`tools/install.py` with real pip and environments: what it says, who installs, how it goes on when cut off."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.command import ROOT

TOOL = ROOT / "tools" / "install.py"
FILES = 3000  # of the package that is cut off: pip unpacks them for about a second
# A project whose wheel needs nothing that must be downloaded, not even a build tool.
PROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = '''
"""Makes an (editable) wheel of nothing but its name and what it requires."""

import zipfile
from pathlib import Path

REQUIRES = "big @ {wheel}"


def build_editable(folder, settings=None, metadata=None):
    with zipfile.ZipFile(Path(folder, "small-1-py3-none-any.whl"), "w") as wheel:
        info = "small-1.dist-info"
        about = "Metadata-Version: 2.1\\nName: small\\nVersion: 1\\nProvides-Extra: test\\n"
        wheel.writestr(f"{{info}}/METADATA", f"{{about}}Requires-Dist: {{REQUIRES}}\\n")
        wheel.writestr(f"{{info}}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{{info}}/RECORD", f"{{info}}/METADATA,,\\n{{info}}/WHEEL,,\\n{{info}}/RECORD,,\\n")
    return "small-1-py3-none-any.whl"


build_wheel = build_editable
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A throw-away project that needs `big`, a package of many files."""
    folder = tmp_path / "project"
    folder.mkdir()
    wheel = folder / "big-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        # The description comes first, as in some real wheels: a cut-off package then looks like an installed one.
        file.writestr("big-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: big\nVersion: 1\n")
        file.writestr("big-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        names = ["big/__init__.py", *(f"big/part_{number}.txt" for number in range(FILES))]
        for name in names:
            file.writestr(name, f"# {name}\n")
        file.writestr("big-1.dist-info/RECORD", "".join(f"{name},,\n" for name in [*names, "big-1.dist-info/METADATA"]))
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "backend.py").write_text(BACKEND.format(wheel=wheel.as_uri()))
    return folder


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Variables in which pip knows no index and no file of settings, and no uv is to be found."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "PYTHONPATH"))}
    return {**kept, "PIP_CONFIG_FILE": os.devnull, "PATH": "/usr/bin:/bin", "HOME": str(folder), **variables}


def install(folder: Path, *extras: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOL), ".venv", *extras], cwd=folder, env=environment(folder, **variables),
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def is_installed(folder: Path) -> bool:
    """Whether the package has all its files, and its interpreter imports it."""
    [site] = folder.glob(".venv/lib/python*/site-packages")
    imported = subprocess.run([str(folder / ".venv/bin/python"), "-c", "import big"], check=False)
    return imported.returncode == 0 and len(list((site / "big").glob("part_*.txt"))) == FILES


def fake_uv(folder: Path, code: int) -> str:
    """A PATH with a `uv` that writes down its arguments and ends with this exit code."""
    folder.mkdir()
    (folder / "uv").write_text(f'#!/bin/sh\necho "$@" > {folder}/told\nexit {code}\n')
    (folder / "uv").chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install_tool", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_says_size_and_time_first_and_ends_with_a_working_environment(project: Path) -> None:
    done = install(project, "test")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"torch, Ray, fastai .* \.venv: about 3\.3 GB to download, 7\.4 GB on disk, 3 to", done.stdout)
    assert "Successfully installed big-1 small-1" in done.stdout and len(done.stdout.splitlines()) < 12
    assert is_installed(project) and not (project / ".venv" / tool().UNFINISHED).exists()


@pytest.mark.slow
def test_an_installation_that_is_killed_and_repeated_ends_well(project: Path) -> None:
    with subprocess.Popen(
        [sys.executable, str(TOOL), ".venv"], cwd=project, env=environment(project), stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 120
        while not list(project.glob(".venv/lib/python*/site-packages/big/part_1*.txt")) and process.poll() is None:
            assert time.monotonic() < deadline
        os.killpg(process.pid, signal.SIGKILL)
    done = install(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert is_installed(project)


@pytest.mark.slow
def test_ctrl_c_ends_it_with_one_line_and_the_same_command_goes_on(project: Path) -> None:
    with subprocess.Popen(
        [sys.executable, str(TOOL), ".venv"], cwd=project, env=environment(project), stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 120
        while not (project / ".venv" / tool().UNFINISHED).exists():
            assert time.monotonic() < deadline
        os.killpg(process.pid, signal.SIGINT)
        out = process.communicate(timeout=120)[0]
    if process.returncode:  # unless it was done just before
        assert process.returncode == 130 and out.splitlines()[-1].startswith("interrupted: the same command goes on")
    assert install(project).returncode == 0 and is_installed(project)


@pytest.mark.slow
def test_what_an_interruption_left_half_done_is_installed_again(project: Path) -> None:
    assert install(project).returncode == 0
    [site] = project.glob(".venv/lib/python*/site-packages")
    (site / "big-1.dist-info" / "RECORD").unlink()
    for path in (site / "big").glob("part_1*.txt"):
        path.unlink()
    (project / ".venv" / tool().UNFINISHED).touch()
    done = install(project)
    assert "big-1: cut off by the interruption before" in done.stdout and "small-1: cut off" not in done.stdout
    assert is_installed(project)


@pytest.mark.slow
def test_an_environment_without_a_working_pip_is_made_anew(project: Path) -> None:
    assert install(project).returncode == 0
    [site] = project.glob(".venv/lib/python*/site-packages")
    shutil.rmtree(site / "pip")
    assert "Creating .venv" in install(project).stdout and is_installed(project)


@pytest.mark.slow
def test_uv_installs_where_it_is(project: Path, tmp_path: Path) -> None:
    done = install(project, "test", PATH=fake_uv(tmp_path / "bin", 0))
    assert done.returncode == 0
    assert (tmp_path / "bin" / "told").read_text() == "pip install --python .venv/bin/python --editable .[test]\n"


@pytest.mark.parametrize("setting", ["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONFIG_FILE"])
def test_pip_installs_where_only_pip_knows_the_index(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", fake_uv(tmp_path / "bin", 0))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert tool().may_use_uv(Path(sys.executable)) and capsys.readouterr().out == ""
    settings = tmp_path / "pip.conf"
    settings.write_text("[global]\nindex-url = https://index.example\n")
    monkeypatch.setenv(setting, str(settings) if setting == "PIP_CONFIG_FILE" else "https://index.example")
    assert not tool().may_use_uv(Path(sys.executable))
    assert "by pip and not by uv, because these settings of pip are unknown to uv: " in capsys.readouterr().out
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://index.example")
    assert tool().may_use_uv(Path(sys.executable))


@pytest.mark.slow
def test_pip_tries_where_uv_fails(project: Path, tmp_path: Path) -> None:
    done = install(project, PATH=fake_uv(tmp_path / "bin", 2))
    assert "uv failed (exit code 2): pip tries" in done.stdout and is_installed(project)


@pytest.mark.slow
def test_a_failed_installation_is_told_and_is_no_success(project: Path) -> None:
    (project / "big-1-py3-none-any.whl").unlink()
    done = install(project)
    assert done.returncode == 1 and done.stdout.splitlines()[-1].startswith("error: the installation failed with exit")
    assert "big-1-py3-none-any.whl" in done.stderr


def test_a_package_without_all_its_files_is_forgotten(tmp_path: Path) -> None:
    for name in ("whole", "no_list", "shorter", "gone"):
        info = tmp_path / f"{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {name}\n")
        (tmp_path / f"{name}.py").write_text("1234")
        (info / "RECORD").write_text(f"{name}.py,sha256=0,4\n{name}-1.dist-info/METADATA,,\n{name}.pyc,,\n")
    (tmp_path / "no_list-1.dist-info" / "RECORD").unlink()
    (tmp_path / "shorter.py").write_text("123")
    (tmp_path / "gone.py").unlink()
    assert tool().forget_broken(tmp_path) == ["gone-1", "no_list-1", "shorter-1"]
    assert [path.name for path in tmp_path.glob("*.dist-info")] == ["whole-1.dist-info"]


def test_an_old_python_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    module = tool()
    monkeypatch.setattr(module.sys, "version_info", (3, 10, 4))
    assert module.main([".venv"]) == 2
    assert "found Python 3.10, expected 3.11 or newer" in capsys.readouterr().out


def test_the_oldest_python_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=" + ".".join(map(str, tool().OLDEST))
