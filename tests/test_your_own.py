"""Every block of docs/your_own.md runs as it stands: commands check, plan and train what its functions return."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from lth_trainable.check import command
from lth_trainable.data.datasets import load_dataset
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.training.execution import Execution
from lth_trainable.training.run import run_trial
from sweeps.cli.options import parse
from sweeps.experiments.expand import expand
from tests.own_data import images, labels, write_folder

PAGE = (Path(__file__).parents[1] / "docs" / "your_own.md").read_text()
BLOCKS = {kind: re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.M | re.S) for kind in ("python", "bash")}
FUNCTIONS = re.findall(r"^def (\w+)", "".join(BLOCKS["python"]), re.M)
COMMANDS = [line for block in BLOCKS["bash"] for line in block.splitlines()]
PARTS = Path("my_parts.py")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the page's functions, and DIR with images and arrays."""
    PARTS_TEXT = "\n\n".join(BLOCKS["python"])
    (tmp_path / PARTS).write_text(PARTS_TEXT)
    write_folder(tmp_path / "DIR" / "images")
    np.savez(tmp_path / "DIR" / "images.npz", x=images(), y=labels())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("LTH_CACHE", str(tmp_path / "cache"))
    sys.modules.pop("my_parts", None)
    load_dataset.cache_clear()
    return tmp_path


def test_blocks_are_short_and_cover_all_that_is_promised() -> None:
    assert all(len(block.splitlines()) <= 10 for block in BLOCKS["python"] + BLOCKS["bash"])
    assert FUNCTIONS == ["my_arrays", "my_torch_data", "my_loaders", "my_network", "my_criterion"]


def root_of(name: str) -> Path:
    return Path("DIR") if name == "my_arrays" else Path("DIR", "images")


@pytest.mark.parametrize("line", [line for line in COMMANDS if "lth_trainable.check" in line])
def test_the_checks_of_the_page_find_nothing(line: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = shlex.split(line.partition("lth_trainable.check ")[2])
    (folder / "DIR" / "images" / "images.npz").write_bytes((folder / "DIR" / "images.npz").read_bytes())
    arguments = [str(root_of("")) if word == "DIR" else word for word in arguments]
    assert command(arguments) == 0, capsys.readouterr().out
    told = capsys.readouterr().out.splitlines()
    assert len(told) == sum(":" in word for word in arguments) and all(": ok" in each for each in told)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in ("my_network", "my_criterion")])
def test_each_data_set_trains_with_the_network_and_criterion(name: str, folder: Path, store: Store) -> None:
    spec = TrialSpec(
        dataset=f"my_parts:{name}", model="my_parts:my_network", criterion="my_parts:my_criterion", epochs=1,
        target_sparsity_pct=40,
    )  # fmt: skip
    record = run_trial(spec, store, execution=Execution(data_root=root_of(name)))
    assert record["status"] == "done" and abs(record["result"]["sparsity_pct"] - 40) < 0.1


def test_the_sweep_of_the_page_is_one(folder: Path) -> None:
    [line] = [line for line in COMMANDS if "--image-size 96" in line]
    options, sweep = parse(shlex.split(line.partition("sweeps.lth_grid ")[2]))
    [spec, *_] = expand(sweep, options.data_root).trials
    assert (spec.dataset, spec.image_size, spec.model) == ("folder", 96, "torchvision:resnet18")
    data = load_dataset(spec.dataset, Path("DIR", "images"), spec.split_seed, spec.image_size)
    assert data.shape == (3, 96, 96) and len(data.train) == 48
