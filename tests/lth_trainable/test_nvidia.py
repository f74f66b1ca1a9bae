"""What NVIDIA's driver says of the GPUs, and what PyTorch says."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lth_trainable import nvidia
from lth_trainable.nvidia import MAJOR, NO_DEVICE, SUCCESS, capabilities, said_by_driver

UNKNOWN_ERROR = 999
VERSION = """
cuda: Optional[str] = {cuda}
hip: Optional[str] = {hip}
"""


class Driver:
    """The calls of `libcuda.so.1` that are made, as of a machine with these GPUs. fails: the call with an error."""

    def __init__(self, gpus: list[tuple[int, int]], version: int = 13_020, fails: str = "") -> None:
        self.gpus, self.version, self.fails = gpus, version, fails

    def _status(self, name: str) -> int:
        return UNKNOWN_ERROR if name == self.fails else SUCCESS

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = self.version
        return self._status("version")

    def cuInit(self, flags: int) -> int:
        return NO_DEVICE if not self.gpus else self._status("init")

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self.gpus)
        return self._status("count")

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = 10 + index
        return self._status("device")

    def cuDeviceGetAttribute(self, number: Any, attribute: int, device: ctypes.c_int) -> int:
        number._obj.value = self.gpus[device.value - 10][0 if attribute == MAJOR else 1]
        return self._status("attribute")


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    nvidia._asked.cache_clear()


@pytest.mark.parametrize("gpus", [[], [(9, 0)], [(8, 0), (7, 5), (12, 0)]])
def test_the_driver_says_how_many_and_which(gpus: list[tuple[int, int]]) -> None:
    found = said_by_driver(lambda name: Driver(gpus))
    assert found == {"version": 13, "gpus": [list(gpu) for gpu in gpus]}


@pytest.mark.parametrize("call", ["version", "init", "count", "device", "attribute"])
def test_a_driver_with_an_error_says_nothing(call: str) -> None:
    assert said_by_driver(lambda name: Driver([(9, 0)], fails=call)) is None


def test_without_a_driver_nothing_is_said() -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    assert said_by_driver(missing) is None


@pytest.mark.parametrize(
    ("cuda", "hip", "version", "expected"),
    [
        ("'13.0'", "None", 13, [(9, 0)]),
        ("'12.8'", "None", 13, [(9, 0)]),  # a newer driver
        ("'13.0'", "None", 12, None),  # an older one: PyTorch knows whether it will do
        ("None", "None", 13, []),  # built for CPUs
        ("None", "'6.4'", 13, None),  # built for AMD's GPUs
    ],
)
def test_what_pytorch_is_built_for_decides_whether_the_driver_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda: str, hip: str, version: int, expected: Any
) -> None:
    monkeypatch.setattr(nvidia, "_asked", _Answers((version, ((9, 0),))))
    (tmp_path / "version.py").write_text(VERSION.format(cuda=cuda, hip=hip))
    assert capabilities(tmp_path) == expected


def test_a_pytorch_that_does_not_say_what_it_is_built_for_is_asked_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvidia, "_asked", _Answers((13, ((9, 0),))))
    assert capabilities(tmp_path) is None
    (tmp_path / "version.py").write_text("debug = False\n")
    assert capabilities(tmp_path) is None


@pytest.mark.parametrize("said", ["null", "", "no JSON", "raise"])
def test_a_process_that_hears_nothing_leaves_it_to_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    script = tmp_path / "asks.py"
    script.write_text("raise SystemExit(1)" if said == "raise" else f"print({said!r})")
    monkeypatch.setattr(nvidia, "__file__", str(script))
    (tmp_path / "version.py").write_text(VERSION.format(cuda="'12.8'", hip="None"))
    assert capabilities(tmp_path) is None


def test_another_choice_of_gpus_is_asked_for_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "asks.py"
    script.write_text(
        "import json, os\nn = len(os.environ['CUDA_VISIBLE_DEVICES'].split(','))\n"
        "print(json.dumps({'version': 13, 'gpus': [[9, 0]] * n}))"
    )
    monkeypatch.setattr(nvidia, "__file__", str(script))
    (tmp_path / "version.py").write_text(VERSION.format(cuda="'12.8'", hip="None"))
    for chosen, n in ("0", 1), ("0,1", 2):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        assert capabilities(tmp_path) == [(9, 0)] * n


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no device files of GPUs")
def test_what_is_asked_ahead_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, log = tmp_path / "asks.py", tmp_path / "log"
    script.write_text(
        f"import os\nopen({str(log)!r}, 'a').write(os.environ['CUDA_VISIBLE_DEVICES'])\n"
        """print('{"version": 13, "gpus": [[9, 0]]}')"""
    )
    monkeypatch.setattr(nvidia, "__file__", str(script))
    monkeypatch.setattr(nvidia, "DEVICE_FILES", (f"{tmp_path}/nvidia*",))
    (tmp_path / "version.py").write_text(VERSION.format(cuda="'12.8'", hip="None"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    nvidia.ask_ahead()
    assert not nvidia._ahead, "no file of a GPU"
    (tmp_path / "nvidia0").touch()
    nvidia.ask_ahead()
    assert len(nvidia._ahead) == 1
    assert capabilities(tmp_path) == [(9, 0)] and capabilities(tmp_path) == [(9, 0)]
    assert log.read_text() == "0" and not nvidia._ahead
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert capabilities(tmp_path) == [(9, 0)] and log.read_text() == "01"


def test_this_pytorch_says_what_it_is_built_for() -> None:
    built = nvidia._cuda_of_torch(None)
    assert built == (int(torch.version.cuda.partition(".")[0]) if torch.version.cuda else 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_driver_and_pytorch_agree() -> None:
    code = (
        "import json\nfrom lth_trainable.nvidia import capabilities\nfound = capabilities()\nimport torch\n"
        "n = torch.cuda.device_count() if torch.cuda.is_available() else 0\n"
        "print(json.dumps([found, [torch.cuda.get_device_capability(i) for i in range(n)]]))"
    )
    uuid, n = torch.cuda.get_device_properties(0).uuid, torch.cuda.device_count()
    chosen = [None, "", "-1", "0", f"GPU-{uuid}", "0,-1", "99", "0,99", "none", *(["1,0", "1", "0,0"] if n > 1 else [])]
    for one in chosen:
        environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        if one is not None:
            environment["CUDA_VISIBLE_DEVICES"] = one
        out = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=True).stdout
        ours, theirs = json.loads(out)
        assert ours is not None and ours == theirs, one


class _Answers:
    """In place of `_asked`."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __call__(self, _: Any) -> Any:
        return self.answer

    def cache_clear(self) -> None:
        """Nothing to forget."""
