"""`--replicas auto` on the command line and in Python, on a machine that believes it has a GPU; nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.json_files import seal_json, unseal_json
from lth_trainable.store.store import Store
from lth_trainable.training.execution import Execution
from lth_trainable.training.run import run_trial
from sweeps.cli import replicas
from sweeps.cli.arguments import SWEEP
from sweeps.cli.confirm import _where
from sweeps.cli.grid import open_job
from sweeps.cli.job import Setting
from sweeps.cli.options import parse
from sweeps.experiments.experiment import prepare
from sweeps.experiments.imported_tickets import Files
from sweeps.lth_grid import main
from sweeps.lth_search import main as search
from sweeps.planning import compiling
from sweeps.running.cluster import Cluster
from sweeps.running.launch import Outcome
from sweeps.running.resources import Budget, OutOfTime, Resources
from sweeps.runs.replica_files import CHOICE, CURVES

SMALL = ["digits", "--epochs", "2", "--sparsity", "40", "--rewind-epoch", "0", "--controls", "none", "--seeds", "6"]
AUTO = [*SMALL, "--replicas", "auto", "--trials-per-gpu", "1"]


PLACE = json.dumps({"place": {"device": "cuda: Test", "threads": 1, "driver": "580.1"}})


class Machine:
    """A machine with one GPU, whose steps take 1 ms and 0.1 ms more for each network.

    asked: for each measurement, the numbers of networks. launched: the resources of each launch.
    """

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.launched: list[Resources] = []
        self.answer: Callable[[Sequence[int]], list[str]] = self.measured

    @staticmethod
    def measured(numbers: Sequence[int]) -> list[str]:
        times = [json.dumps({"k": k, "step_s": 0.001 + 0.0001 * k, "validation_s": 0.001}) for k in numbers]
        return [PLACE, *times, '{"ended": ""}', "0"]

    def lines_of(self, request: Mapping[str, Any], seconds: float | None = None) -> list[str]:
        if not request["numbers"] or json.loads(PLACE)["place"] in request["known"]:
            return [PLACE, '{"ended": ""}', "0"]
        self.asked.append(list(request["numbers"]))
        return self.answer(request["numbers"])

    def launch(self, ledger: Any, dispatcher: Any, resources: Resources, *_: Any, **__: Any) -> Outcome:
        assert dispatcher.replicas == resources.replicas
        self.launched.append(resources)
        return Outcome(epochs=0, failures={}, interrupted=False, stopped_by="--max-hours")

    @property
    def replicas(self) -> list[int]:
        assert all(resources.stacking == "number" for resources in self.launched)
        return [resources.replicas for resources in self.launched]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    found, of_gpu = Machine(), Resources.execution
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr(Resources, "execution", lambda self: of_gpu(self) | {"device": "cpu"})
    monkeypatch.setattr(replicas, "lines_of", found.lines_of)
    monkeypatch.setattr("sweeps.cli.job.launch", found.launch)
    return found


def run(storage: Path, capsys: pytest.CaptureFixture[str], *more: str) -> list[str]:
    """The lines of a command that say something about replicas."""
    assert main([*AUTO, "--storage", str(storage), *more]) in (0, 3)
    return [line for line in capsys.readouterr().out.splitlines() if "replicas" in line or "measuring how" in line]


def test_it_is_measured_chosen_told_and_stays(
    tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    measuring, told = run(tmp_path, capsys)
    (curve,) = (tmp_path / CURVES).glob("*.json")
    assert measuring.startswith("measuring how long a step of several networks takes")
    assert told == f"--replicas auto: 6, because a step of 6 networks takes 1.6 ms, one of 1 1.1 ms (curve: {curve})"
    assert machine.asked == [[1, 2, 4, 6]] and machine.replicas == [6]
    machine.answer = lambda numbers: pytest.fail("measured again")
    again = f"--replicas auto: 6, as when this run began ({tmp_path / 'digits' / CHOICE})"
    assert run(tmp_path, capsys) == [again]
    assert run(tmp_path, capsys, "--seeds", "20") == [again], "though more are ready now"
    assert run(tmp_path, capsys, "--name", "other") == [measuring, told], "the curve is for all runs of the storage"
    assert machine.replicas == [6, 6, 6, 6] and len(machine.asked) == 1


def test_a_curve_that_ends_too_early_or_is_damaged_is_measured_again(
    tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, capsys)
    run(tmp_path, capsys, "--seeds", "9", "--name", "more")
    assert machine.asked == [[1, 2, 4, 6], [1, 2, 4, 8, 9]] and machine.replicas == [6, 9]
    (curve,) = (tmp_path / CURVES).glob("*.json")
    curve.write_bytes(curve.read_bytes().replace(b'"k": 4', b'"k": 5'))
    run(tmp_path, capsys, "--name", "again")
    assert len(machine.asked) == 3
    machine.answer = lambda numbers: [*machine.measured(numbers[:2])[:3], '{"ended": "the memory is full"}', "0"]
    run(tmp_path, capsys, "--name", "short", "--batch-size", "40")
    run(tmp_path, capsys, "--name", "shorter", "--batch-size", "40")
    assert len(machine.asked) == 4 and machine.replicas[-2:] == [2, 2], "the curve says why it ends there"


@pytest.mark.parametrize(
    ("lines", "chosen", "why"),
    [
        (["1"], 1, "because they could not be measured: the process that measures ended with code 1"),
        (['{"refused": "it draws"}', "0"], 1, "because such networks are not trained as one: it draws"),
        ([*Machine.measured([1, 2])[:3], "late"], 2, "; the process that measures took too long"),
    ],
    ids=["dead", "refused", "late"],
)
def test_a_measurement_that_fails_is_told_and_what_was_chosen_stays(
    tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str], lines: list[str], chosen: int, why: str
) -> None:
    machine.answer = lambda _: lines
    _, told = run(tmp_path, capsys)
    assert told.startswith(f"--replicas auto: {chosen}, ") and why in told
    assert not (tmp_path / CURVES).exists()
    machine.answer = machine.measured
    run(tmp_path, capsys)
    assert machine.replicas == [chosen, chosen] and len(machine.asked) == 1
    run(tmp_path, capsys, "--name", "other")
    assert machine.replicas[-1] == 6


def test_a_number_of_a_later_command_is_its_own_and_a_damaged_choice_is_one_line(
    tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, capsys)
    assert main([*SMALL, "--replicas", "3", "--trials-per-gpu", "1", "--storage", str(tmp_path)]) == 3
    assert machine.replicas == [6, 3]
    file = tmp_path / "digits" / CHOICE
    for damaged in (b"{}", seal_json({"why": ""}), seal_json({"replicas": None, "why": ""})):
        file.write_bytes(damaged)
        capsys.readouterr()
        assert main([*AUTO, "--storage", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert f"error: {file}: found a damaged file (" in error and "by --replicas K" in error
        assert error.count("\n") == 1


def test_what_has_nothing_to_train_together_is_not_measured(
    tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run(tmp_path, capsys, "--seeds", "1")
    assert said == ["--replicas auto: 1, because no two trials of one shape can be trained at the same time"]
    assert machine.replicas == [1] and not machine.asked


def test_on_a_cpu_it_is_one_and_that_is_said(
    tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    told = f"--replicas auto: 1, {replicas.ON_CPUS}"
    assert run(tmp_path, capsys, "--trials-per-gpu", "None") == [told]
    assert machine.replicas == [1] and not machine.asked and not (tmp_path / "digits" / CHOICE).exists()


def test_a_search_is_measured_with_the_seeds_of_a_suggestion(
    tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["digits", "--trials-per-gpu", "1", "--replicas", "auto", "--seeds", "3", "--suggestions", "2"]
    search([*words, "--sparsity", "50..97", "--epochs", "1", "--storage", str(tmp_path)])
    assert machine.replicas == [3] and machine.asked == [[1, 2, 3]]


def test_what_will_be_compiled_is_measured_as_it_is_and_that_is_told(
    tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiling for each number would take minutes. The curve is the same as without."""
    monkeypatch.setattr(compiling, "PAYS_FROM", 1)
    monkeypatch.setattr("sweeps.cli.job.check_compiler", lambda device: None)
    requests: list[Any] = []
    monkeypatch.setattr(
        replicas, "lines_of", lambda request, seconds: requests.append(request) or machine.lines_of(request)
    )
    _, told = run(tmp_path, capsys, "--compile")
    assert told.endswith(", measured without --compile: compiling for each number would take minutes")
    assert "compile" not in requests[0]["execution"]
    assert machine.launched[0].compile and machine.replicas == [6]
    run(tmp_path, capsys, "--name", "other")
    assert len(machine.asked) == 1 and not machine.launched[1].compile
    out = planned(tmp_path, capsys, *AUTO, "--compile", "--name", "third")[1]
    assert "--replicas auto: 6" in out and "measured without --compile" in out


class Elsewhere(Cluster):
    """A cluster with two workers. asked: what they were to do."""

    asked: ClassVar[list[str]] = []

    def slots(self) -> int:
        return 2

    def of_a_worker(self, budget: Budget, function: Callable[..., Any], *arguments: Any) -> Any:
        if budget.seconds_left() == 0:
            raise OutOfTime
        self.asked.append(function.__name__)
        return function(*arguments)


def test_on_a_cluster_a_worker_measures(tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SMALL, "--replicas", "auto", "--gpus-per-trial", "1", "--address", "auto", "--storage", str(tmp_path)]
    options, sweep = parse(words)
    setting, files = Setting.of(options), Files(tickets=(), masks=())
    job, _ = open_job(options, setting, "digits", lambda store: prepare(sweep, files, store, None), words)
    there = replace(job, cluster=Elsewhere(resources=setting.resources, notify=print))
    for name in ("digits", "other", "other"):
        there = replace(there, ledger=replace(there.ledger, run=name))
        found = replicas.with_replicas(there, there.ledger, ())
        assert found.cluster is not None and found.cluster.resources == found.setting.resources
        assert (found.setting.resources.replicas, found.setting.resources.stacking) == (3, "number")
    assert machine.asked == [[1, 2, 4, 6]] and len(Elsewhere.asked) == 2, "the third is kept"
    assert unseal_json((tmp_path / "other" / CHOICE).read_bytes())["replicas"] == 3
    there = replace(there, ledger=replace(there.ledger, run="late"))
    late = replace(there, setting=replace(setting, budget=Budget(hours=1, started=-3600.0 * 1e6)))
    assert replicas.with_replicas(late, late.ledger, ()).setting.resources.replicas == 1
    assert "--replicas auto: 1, because no time is left to measure" in capsys.readouterr().out
    assert main([*words, "--dry-run", "--name", "later"]) == 0
    assert "not known: --replicas auto measures" in capsys.readouterr().out


# -- what is typed -----------------------------------------------------------------------------------------------------


def test_it_is_an_option_of_commands_and_of_python() -> None:
    options = parse(AUTO)[0]
    assert options.replicas == "auto" and "--replicas auto" in " ".join(_where(options))
    assert (options.resources.replicas, options.resources.stacking) == (1, "measured")
    assert SWEEP.checked("replicas", "auto") == "auto" and SWEEP.words_of({"replicas": "auto"}) == [
        "--replicas",
        "auto",
    ]
    assert options.resources.with_replicas(4) == parse([*AUTO, "--replicas", "4"])[0].resources
    with pytest.raises(UserError, match=r"Sweep, replicas: found 'automatic'; expected .*auto"):
        SWEEP.checked("replicas", "automatic")
    with pytest.raises(UserError, match="--replicas: found 'many'; expected a whole number or auto"):
        parse(["digits", "--replicas", "many"])


# -- what a dry run says -----------------------------------------------------------------------------------------------


def planned(storage: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[dict[str, Any], str]:
    assert main([*words, "--storage", str(storage), "--dry-run", "--json"]) == 0
    out = capsys.readouterr().out
    return json.loads(out.splitlines()[-1]), out


def test_a_dry_run_knows_what_is_measured_and_measures_nothing(
    tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, out = planned(tmp_path, capsys, *AUTO)
    assert figures["estimated_s"] is None and figures["replicas"] is None and not machine.asked
    assert "time: not known: --replicas auto measures when the sweep starts" in out
    run(tmp_path, capsys)
    figures, out = planned(tmp_path, capsys, *AUTO, "--name", "other")
    epoch = 20 * 0.0016 + 0.001  # 20 steps of six networks; the dense networks of all seeds, then the tickets
    assert figures["replicas"] == 6 and figures["estimated_s"] == pytest.approx(12 + 4 * epoch)
    assert "--replicas auto: 6, because a step of 6 networks" in out
    assert "33 ms an epoch of up to 6 trials together: by the time of the networks' steps and validations alone" in out
    figures, _ = planned(tmp_path, capsys, *SMALL, "--replicas", "3", "--trials-per-gpu", "1", "--name", "other")
    assert figures["replicas"] == 3 and figures["estimated_s"] == pytest.approx(12 + 8 * (20 * 0.0013 + 0.001))
    assert len(machine.asked) == 1 and not (tmp_path / "other").exists()


def test_a_dry_run_counts_what_idle_slots_cost_and_trusts_only_trials_of_such_cohorts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SMALL, "--max-concurrent", "1"]
    told = [*words, "--replicas", "4", "--seconds-per-epoch", "1"]
    figures, _ = planned(tmp_path, capsys, *told, "--seeds", "5")
    assert figures["estimated_s"] == 12 + 3 * 2, "cohorts of 4, 4 and 2 trials of 2 epochs"
    run_trial(TrialSpec(control="dense", epochs=1, seed=77), Store(tmp_path), "elsewhere")
    figures, out = planned(tmp_path, capsys, *words, "--replicas", "4")
    assert figures["estimated_s"] is None and "time: not measured for --replicas 4 on this device" in out
    run_trial(TrialSpec(control="dense", epochs=1, seed=77), Store(tmp_path), "together", Execution(replicas=4))
    figures, out = planned(tmp_path, capsys, *words, "--replicas", "4")
    assert figures["estimated_s"] > 12 and "an epoch of up to 4 trials together: measured in other runs" in out
    assert planned(tmp_path, capsys, *words, "--replicas", "auto")[0]["replicas"] == 1


def test_hardware_elsewhere_has_no_curve_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures, out = planned(tmp_path, capsys, *AUTO, "--on", "2 x H100")
    assert figures["estimated_s"] is None and "not known: --replicas auto measures" in out
