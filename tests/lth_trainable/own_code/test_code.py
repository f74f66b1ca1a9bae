"""The digest of a plug-in covers the own modules that it imports, in whatever way, and says what it cannot see."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lth_trainable.own_code import code
from lth_trainable.registry import code_digest, lookup, not_covered

FUNCTION = "\n\ndef f(shape, n_classes):\n    return None\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    new_process()


def new_process() -> None:
    """Forget the modules of these tests, as a new process has them not yet."""
    for known in (sys.modules, code._sources, code._codes):
        for name in [name for name in known if name.partition(".")[0] in ("plugged", "helper", "kit", "odd")]:
            del known[name]
    importlib.invalidate_caches()


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = folder / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def digest() -> str | None:
    new_process()
    return code_digest("plugged:f")


IMPORTS = {
    "plain": ("import helper", {"helper": "A = 1"}),
    "from": ("from helper import A", {"helper": "A = 1"}),
    "star": ("from helper import *", {"helper": "A = 1"}),
    "renamed": ("import kit.deep.inner as x", {"kit/deep/inner": "A = 1"}),
    "submodule": ("from kit import inner", {"kit/inner": "A = 1"}),
    "in a function": ("def g():\n    import helper", {"helper": "A = 1"}),
    "in a try": ("try:\n    import no_such\nexcept ImportError:\n    import helper", {"helper": "A = 1"}),
    "by a constant name": ("import importlib\nm = importlib.import_module('helper')", {"helper": "A = 1"}),
    "by a renamed function": ("from importlib import import_module as m\nm('helper')", {"helper": "A = 1"}),
    "deeper": ("import helper", {"kit/c": "A = 1", "helper": "from kit import b", "kit/b": "from . import c"}),
    "of a package": ("from kit.b import A", {"kit/__init__": "A = 1", "kit/b": "A = 2"}),
    "in a circle": ("import helper", {"kit/c": "A = 1", "helper": "import kit.c, plugged"}),
}


@pytest.mark.parametrize("how", IMPORTS)
def test_a_change_of_an_imported_module_changes_the_digest(how: str, folder: Path) -> None:
    line, files = IMPORTS[how]
    write(folder, {"plugged": line + FUNCTION, **files})
    before = digest()
    assert before == digest()
    lookup("model", "plugged:f", {})
    assert code_digest("plugged:f") == before  # in the same process, with more modules imported
    changed = next(iter(files))
    write(folder, {changed: files[changed] + "\nB = 2"})
    assert code_digest("plugged:f") == before, "the edit counts from the next process on"
    assert digest() != before


def test_alone_or_with_modules_of_others_the_digest_is_that_of_its_source(folder: Path) -> None:
    others = "import json, numpy.linalg\nfrom torch import nn\nfrom lth_trainable.data import digits\n"
    only_typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import helper\n"
    write(folder, {"plugged": others + only_typed + FUNCTION, "helper": "A = 1"})
    assert digest() == hashlib.sha256((folder / "plugged.py").read_bytes()).hexdigest()


def test_a_function_level_import_counts_the_same_before_and_after_it_ran(folder: Path) -> None:
    late = "def f(shape, n_classes):\n    import kit.inner\n    return kit.inner.A"
    write(folder, {"plugged": late, "kit/inner": "A = 1"})
    before = digest()
    assert lookup("model", "plugged:f", {})(None, None) == 1 and code_digest("plugged:f") == before


def test_a_reloaded_module_counts_as_it_is_now(folder: Path) -> None:
    write(folder, {"plugged": "import helper" + FUNCTION, "helper": "A = 1"})
    before = digest()
    write(folder, {"helper": "A = 12345"})
    importlib.reload(sys.modules["helper"])
    assert code_digest("plugged:f") != before


NOT_FOLLOWED = {
    "import importlib\n\ndef g(name):\n    importlib.import_module(name)": "plugged.py:4 imports by a computed name",
    "exec('A = 1')": "plugged.py:1 runs by exec",
    "def g():\n    import odd": "the imports of odd, which has a syntax error",
    "def f(shape, n_classes):\n    return open('x')": "plugged.py:2 reads",
    "import os\nA = os.environ.get('A')": "plugged.py:2 reads",
    "def h():\n    return __import__('torch').load('x')\n\ndef f(a, b):\n    return h()": "plugged.py:2 reads",
}


@pytest.mark.parametrize("text", NOT_FOLLOWED, ids=range(len(NOT_FOLLOWED)))
def test_what_cannot_be_followed_is_said(text: str, folder: Path) -> None:
    write(folder, {"plugged": text if "def f" in text else text + FUNCTION, "odd": "A = = 1"})
    new_process()
    said = not_covered("model", "plugged:f")
    assert NOT_FOLLOWED[text] in said and "\n" not in said


def test_a_compiled_module_is_said(folder: Path) -> None:
    from importlib.machinery import EXTENSION_SUFFIXES

    write(folder, {"plugged": "def g():\n    import helper" + FUNCTION})
    (folder / f"helper{EXTENSION_SUFFIXES[0]}").write_bytes(b"")
    new_process()
    assert "the compiled module helper" in not_covered("model", "plugged:f")


@pytest.mark.parametrize("name", ["digits", "torchvision:resnet18", "plugged:f"])
def test_nothing_is_said_where_all_is_covered(name: str, folder: Path) -> None:
    """Also not of another function of the same file that reads data."""
    data = "import numpy as np\n\ndef data(root, seed):\n    return np.load('x')"
    write(folder, {"plugged": data + FUNCTION})
    new_process()
    assert not not_covered("model", name)
    assert not not_covered("dataset", "plugged:data"), "its data have a digest of their own"
