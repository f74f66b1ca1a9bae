"""Install this project and what it needs in a virtual environment, and show what happens meanwhile.

    python3 tools/install.py .venv [EXTRA ...]

`make` runs it. It needs nothing but Python. uv installs if it is there; pip does if not, or if only pip is told where
packages come from. After an interruption the same command goes on: packages that were cut off are installed again.
"""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

OLDEST = (3, 11)
# Measured on Linux, where torch brings CUDA's libraries: without extras and with those for the tests, on two cores.
DOWNLOAD_GB, DISK_GB, DISK_WITH_TESTS_GB, MINUTES = 3.3, 6.6, 7.4, "3 to 15 minutes"
# Settings of pip that say where packages come from, and how it gets there. uv reads none of them.
PIP_ONLY = (
    "index-url", "extra-index-url", "find-links", "no-index", "constraint", "proxy", "cert", "client-cert",
    "trusted-host",
)  # fmt: skip
UV_OWN = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_CONFIG_FILE")
# What a log shows of pip's lines; the others say what is there already. A terminal shows all, with bars.
LOGGED = ("Downloading", "Building", "Installing", "Successfully installed")
UNFINISHED = "unfinished-installation"
INTERRUPTED, TERMINATED, FAILED, BAD_INPUT = 130, 143, 1, 2
CLEANING_UP_SECONDS = 30.0  # what an interrupted pip may take to delete its temporary files, gigabytes of them


class CannotInstallError(Exception):
    """Why the installation ended, in words for the user."""


def main(arguments: list[str]) -> int:
    """Install the project of the present folder; returns an exit code."""
    if sys.version_info < OLDEST:
        found, expected = (".".join(map(str, version[:2])) for version in (sys.version_info, OLDEST))
        say(f"error: found Python {found}, expected {expected} or newer; name one, as in: make sweep PYTHON=python3.12")
        return BAD_INPUT
    folder, extras = Path(arguments[0]), arguments[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        return install(folder, extras)
    except CannotInstallError as error:
        say(f"error: {error}; the same command tries again")
        return FAILED
    except (KeyboardInterrupt, SystemExit) as stop:
        say("interrupted: the same command goes on from here; finished downloads are kept")
        return TERMINATED if isinstance(stop, SystemExit) else INTERRUPTED


def install(folder: Path, extras: list[str]) -> int:
    """Create the environment unless it is there, mend what an interruption left, then install. Returns an exit code."""
    python = environment(folder)
    site = site_packages(python)
    announce(folder, site, extras)
    mark = folder / UNFINISHED
    if mark.exists():
        for name in forget_broken(site):
            say(f"  {name}: cut off by the interruption before, will be installed again")
    mark.touch()
    wanted = ["--editable", "." + (f"[{','.join(extras)}]" if extras else "")]
    code = by_uv(python, wanted) if may_use_uv(python) else None
    if code is None:
        code = by_pip(python, wanted)
    if code:
        raise CannotInstallError(f"the installation failed with exit code {code}, for the reason above")
    mark.unlink()
    return 0


# -- the environment ---------------------------------------------------------------------------------------------------


def environment(folder: Path) -> Path:
    """The interpreter of the environment. One whose pip does not run was interrupted: it is made anew."""
    python = folder / "bin" / "python"
    if not python.exists() or not succeeds(python, "-m", "pip", "--version"):
        say(f"Creating {folder} with Python {sys.version.split()[0]}")
        if run(sys.executable, "-m", "venv", "--clear", folder):
            raise CannotInstallError(f"{sys.executable} cannot make a virtual environment, for the reason above")
        # An old pip says nothing while it unpacks. If there is no newer one to be had, the old one will do.
        succeeds(python, "-m", "pip", "install", "--quiet", "--upgrade", "pip")
    return python


def site_packages(python: Path) -> Path:
    """The folder of the environment's packages."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip())


def announce(folder: Path, site: Path, extras: list[str]) -> None:
    """Say what will be installed, how much that is and how long it takes."""
    if (site / "torch").exists() or sys.platform != "linux":
        say(f"Installing the packages of pyproject.toml in {folder}")
        return
    disk = DISK_WITH_TESTS_GB if "test" in extras else DISK_GB
    free = shutil.disk_usage(folder).free / 1e9
    say(
        f"Installing torch, Ray, fastai and what they need in {folder}: about {DOWNLOAD_GB} GB to download, "
        f"{disk} GB on disk, {MINUTES}"
    )
    if free < disk:
        say(f"note: the disk has {free:.1f} GB free")


def forget_broken(site: Path) -> list[str]:
    """Forget packages whose installation was cut off, so that they are installed again; returns their names.

    A package that lacks its list of files (RECORD), or a file of the list, is taken for installed by pip and uv alike.
    """
    broken = [info for info in sorted(site.glob("*.dist-info")) if not is_whole(info)]
    for info in broken:
        shutil.rmtree(info)
    return [info.name.removesuffix(".dist-info") for info in broken]


def is_whole(info: Path) -> bool:
    """Whether the files of an installed package are there, with the sizes in its list."""
    try:
        with open(info / "RECORD", newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
        files = [(info.parent / row[0], row[2]) for row in rows if not row[0].endswith(".pyc")]
        return (info / "METADATA").exists() and all(
            path.stat().st_size == int(size or path.stat().st_size) for path, size in files
        )
    except (OSError, ValueError, IndexError):  # no list, or one that was cut off, or a file that is not there
        return False


# -- who installs ------------------------------------------------------------------------------------------------------


def may_use_uv(python: Path) -> bool:
    """Whether uv is here and finds packages where pip would. Says why, if it is here but does not."""
    if shutil.which("uv") is None:
        return False
    told = sorted(set(settings_of_pip(python)) & set(PIP_ONLY))
    if told and not any(os.environ.get(name) for name in UV_OWN):
        say(f"  by pip and not by uv, because these settings of pip are unknown to uv: {', '.join(told)}")
        return False
    return True


def settings_of_pip(python: Path) -> list[str]:
    """Names of the settings in pip's files and environment variables that act on an installation."""
    done = subprocess.run([str(python), "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    keys = [line.partition("=")[0] for line in done.stdout.splitlines()]
    return [key.rpartition(".")[2] for key in keys if key.rpartition(".")[0] in ("global", "install", ":env:")]


def by_uv(python: Path, wanted: list[str]) -> int | None:
    """Install by uv; returns its exit code, or None if it failed and pip should try."""
    code = run("uv", "pip", "install", "--python", python, *wanted)
    if code:
        say(f"  uv failed (exit code {code}): pip tries")
        return None
    return code


def by_pip(python: Path, wanted: list[str]) -> int:
    """Install by pip, with bars in a terminal and one line for each download in a log; returns its exit code."""
    command = (python, "-m", "pip", "install", "--disable-pip-version-check", *wanted)
    if sys.stdout.isatty():
        return run(*command)
    return run(*command, "--progress-bar", "off", logged=LOGGED)


def run(*command: str | Path, logged: tuple[str, ...] = ()) -> int:
    """Run a command to its end; returns its exit code. logged: beginnings of the lines to show, () for all."""
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE if logged else None, text=True) as process:
        try:
            for line in process.stdout or ():
                if line.lstrip().startswith(logged):
                    say(f"  {line.strip()}")
            return process.wait()
        except (KeyboardInterrupt, SystemExit) as stop:
            if isinstance(stop, SystemExit):  # Ctrl-C has reached the command too
                process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=CLEANING_UP_SECONDS)
            process.kill()
            raise


def succeeds(python: Path, *arguments: str) -> bool:
    """Whether a command of the environment's interpreter ends without an error. What it prints is not shown."""
    return subprocess.run([str(python), *arguments], capture_output=True, check=False).returncode == 0


def say(text: str) -> None:
    """Print a line at once, in order with what pip prints."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
