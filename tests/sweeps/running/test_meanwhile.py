"""Modules are imported while a command waits, and no two threads import the same."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sweeps.running import meanwhile
from sweeps.running.meanwhile import FOR_THE_END, FOR_TUNE, importing


def test_what_is_imported_meanwhile_is_there_at_the_end_of_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(meanwhile, "GATE", gate := threading.Event(), raising=False)
    (tmp_path / "slow_one.py").write_text(
        "from sweeps.running import meanwhile\nmeanwhile.GATE.wait(60)\nDONE = True\n"
    )
    with importing(("no_such_module", "slow_one")):
        assert not hasattr(sys.modules.get("slow_one"), "DONE")
        gate.set()
    assert sys.modules.pop("slow_one").DONE


def test_nobody_waits_for_imports_when_the_block_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(meanwhile, "GATE", gate := threading.Event(), raising=False)
    (tmp_path / "endless_one.py").write_text("from sweeps.running import meanwhile\nmeanwhile.GATE.wait()\n")
    with pytest.raises(KeyboardInterrupt), importing(("endless_one",)):
        raise KeyboardInterrupt
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "imports")
    assert thread.is_alive() and thread.daemon
    gate.set()
    thread.join(60)
    sys.modules.pop("endless_one", None)


def test_the_names_are_modules_without_ray_and_torch() -> None:
    """Ray reads its environment when it is imported, and torch takes seconds."""
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {(*FOR_TUNE, *FOR_THE_END)!r}]; "
        "print([name for name in ('ray', 'torch') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert out.strip() == "[]"
