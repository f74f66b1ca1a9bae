"""Networks through `torch.compile`.

Most of it is shown with a backend that runs PyTorch's own kernels, so that nothing may differ from a trial that is not
compiled; the real compiler, which takes half a minute, has a test of its own.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load
from torch import nn

from lth_trainable.errors import UserError
from lth_trainable.models.networks import build
from lth_trainable.silence import pulse
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import STATES, Store
from lth_trainable.training import compiled as module
from lth_trainable.training import compiler
from lth_trainable.training.compiled import compile_network, compiled
from lth_trainable.training.compiler import check_compiler
from lth_trainable.training.execution import Execution, execution_like, fingerprint
from lth_trainable.training.run import run_trial

LEVELS: dict[str, Any] = {"batch_size": 230, "epochs": 2, "target_sparsity_pct": 64, "rewind_epoch": 1}
WITHIN: dict[str, Any] = {**LEVELS, "schedule": "one_shot", "validate_every": 2, "optimizer": "sgd", "lr": 0.05}
CASES: dict[str, dict[str, Any]] = {
    "levels": LEVELS,
    "within a fit, validated often": WITHIN,
    "batch norm, bf16": {**LEVELS, "model": "tests.plugins:tiny_cnn", "precision": "bf16"},
    "dropout": {**LEVELS, "model": "tests.plugins:dropout_lenet"},
}


@pytest.mark.parametrize("case", CASES)
def test_masks_rewinds_and_validations_are_those_of_the_network(case: str, tmp_path: Path, graphs: list[Any]) -> None:
    spec = TrialSpec(**CASES[case])
    plain = run_trial(spec, Store(tmp_path / "plain"))
    assert not graphs
    found = run_trial(spec, Store(tmp_path / "compiled"), execution=Execution(compile=True))
    assert found["sha256"] == plain["sha256"] and found["layers"] == plain["layers"]
    assert found["fingerprint"] == {**plain["fingerprint"], "compiled": True}
    assert len(graphs) >= 3, "steps of a whole and of a cut batch are one each, and so are validations"
    names = {
        name
        for file in (tmp_path / "compiled" / STATES).rglob("weights*.safetensors")
        for name in load(file.read_bytes())
    }
    assert names == set(build(spec.model, (1, 8, 8), 10).state_dict())


def test_a_second_trial_of_a_worker_compiles_nothing_anew(tmp_path: Path, graphs: list[Any]) -> None:
    for seed in (0, 1):
        run_trial(TrialSpec(**LEVELS, seed=seed), Store(tmp_path), execution=Execution(compile=True))
        if seed == 0:
            first = len(graphs)
    assert len(graphs) == first > 0


def test_a_network_stays_what_it_is_outside_of_steps(graphs: list[Any]) -> None:
    """Hooks, copies and pickles are of the network itself."""
    model, seen = build("lenet_300_100", (1, 8, 8), 10), []
    names = list(model.state_dict())
    compile_network(model, 1)
    images = torch.zeros(3, 1, 8, 8)
    with compiled(model):
        assert model(images).shape == (3, 10) and len(graphs) == 1
    linear = next(layer for layer in model.modules() if isinstance(layer, nn.Linear))
    handle = linear.register_forward_hook(lambda *_: seen.append(1))
    model(images)
    handle.remove()
    assert seen and len(graphs) == 1
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with compiled(other):
            assert torch.equal(other(images), model(images)) and list(other.state_dict()) == names
    assert len(graphs) == 1 and list(model.state_dict()) == names


def test_networks_of_finished_trials_are_not_kept(graphs: list[Any]) -> None:
    model = build("lenet_300_100", (1, 8, 8), 10)
    compile_network(model, 1)
    with compiled(model):
        model(torch.zeros(3, 1, 8, 8))
    before = len(module._calls)
    del model
    assert len(module._calls) == before - 1


def refuses(graph: Any, inputs: Any) -> Any:
    raise ValueError("no kernel for this\nand more")


def test_a_network_that_cannot_be_compiled_is_one_line(
    tmp_path: Path, graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKEND", refuses)
    spec = TrialSpec(**LEVELS)
    with pytest.raises(UserError) as caught:
        run_trial(spec, Store(tmp_path), execution=Execution(compile=True))
    assert str(caught.value) == (
        f"{spec.name}: torch.compile cannot compile lenet_300_100 (ValueError: no kernel for this); expected a network "
        "that it can; leave out --compile, or change the network"
    )


def test_nothing_runs_uncompiled_without_a_word(
    tmp_path: Path, graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch would do so after a number of compilations of one function."""
    monkeypatch.setattr(module, "MOST_VERSIONS", 1)
    with pytest.raises(UserError, match="cannot compile lenet_300_100"):
        run_trial(TrialSpec(**LEVELS), Store(tmp_path), execution=Execution(compile=True))


def test_a_compilation_that_takes_long_is_no_silence(
    tmp_path: Path, graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: list[int] = []

    def slow(graph: Any, inputs: Any) -> Any:
        first, deadline = pulse.beats(), time.monotonic() + 60
        while pulse.beats() < first + 3 and time.monotonic() < deadline:
            time.sleep(0.001)
        beats.append(pulse.beats() - first)
        return graph.forward

    monkeypatch.setattr(module, "BACKEND", slow)
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.001)
    run_trial(TrialSpec(**LEVELS), Store(tmp_path), execution=Execution(compile=True))
    assert beats and min(beats) >= 3
    after = pulse.beats()
    time.sleep(0.05)
    assert pulse.beats() == after, "it ends with the compilation"


def test_what_the_compiler_needs_is_looked_for_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    expected = r"compile: found no C\+\+ compiler \(no-such-compiler\); expected one, which torch.compile needs"
    for act in (lambda: check_compiler("cpu"), lambda: fingerprint(Execution(compile=True))):
        with pytest.raises(UserError, match=expected):
            act()
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="found no package triton"):
        check_compiler("cuda:0")
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(UserError, match=r"found no C compiler \(no-such-compiler\)"):
        check_compiler("cuda:0")
    monkeypatch.setenv("CC", sys.executable)
    monkeypatch.setattr(compiler.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(UserError, match=r"found no Python.h"):
        check_compiler("cuda:0")


def test_the_fingerprint_says_so_and_is_executed_again(graphs: list[Any]) -> None:
    mark = fingerprint(Execution(compile=True))
    assert mark == {**fingerprint(Execution()), "compiled": True}
    assert execution_like(mark, None).compile and not execution_like(fingerprint(Execution()), None).compile
    together = Execution(compile=True, replicas=4)
    assert fingerprint(together) == {**mark, "replicas": 4} and execution_like(fingerprint(together), None) == together


TRAIN = """
import json, sys
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.training.execution import Execution
from lth_trainable.training.run import run_trial
record = run_trial(TrialSpec(**json.loads(sys.argv[1])), Store(sys.argv[2]), execution=Execution(compile=True))
print(json.dumps({name: record[name] for name in ("sha256", "result")}))
"""


@pytest.mark.slow
def test_a_compiled_trial_has_the_same_bytes_in_each_process_and_processes_share_what_was_compiled(
    tmp_path: Path,
) -> None:
    found, environment = [], {**os.environ, "LTH_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    environment.pop(module.CACHE_VARIABLE, None)
    for number in range(2):
        ended = subprocess.run(
            [sys.executable, "-c", TRAIN, json.dumps(LEVELS), str(tmp_path / str(number))],
            stdout=subprocess.PIPE, text=True, check=True, env=environment,
        )  # fmt: skip
        kept = set((tmp_path / "cache" / "compiled").rglob("*.so"))
        found.append((json.loads(ended.stdout.splitlines()[-1]), kept))
    assert found[0][0]["sha256"] == found[1][0]["sha256"] and found[0][1] == found[1][1] and found[0][1]
    plain = run_trial(TrialSpec(**LEVELS), Store(tmp_path / "plain"))
    close = pytest.approx(plain["result"]["test_accuracy"], abs=0.05)
    assert found[0][0]["result"]["test_accuracy"] == close and found[0][0]["sha256"] != plain["sha256"]
