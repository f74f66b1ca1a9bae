"""The commands of this project, called in this process: run, or only read by their own parsers."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import io
import re
from typing import Any, NoReturn

import pytest
import tyro

from sweeps.cli import options, search_options

PARSERS = {"sweeps.lth_grid": options.parse, "sweeps.lth_search": search_options.parse}
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def main_of(module: str) -> Any:
    """What `python -m MODULE` calls with the list of arguments; it returns the exit code."""
    found = importlib.import_module({"analysis": "analysis.__main__"}.get(module, module))
    return found.command if module == "lth_trainable.check" else found.main


class Parsed(BaseException):
    """The options of a command were read; it need not go on."""


def parse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the words of a command by its own parser; raises what the command raises for a wrong one."""
    assert words[:2] == ["python", "-m"]
    module, arguments = words[2], words[3:]
    if module in PARSERS:
        PARSERS[module](arguments)
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
        main_of(module)(arguments)


def flags_of(module: str, arguments: tuple[str, ...] = ()) -> set[str]:
    """All flags in the help of a command."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main_of(module)([*arguments, "--help-all" if module in PARSERS else "--help"])
    return set(FLAG.findall(text.getvalue()))
