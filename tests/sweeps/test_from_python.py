"""`Sweep` and `run_trials`: the same sweeps as the command makes, from Python."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import analysis
from analysis.text import PLAIN_WIDTH
from lth_trainable import Store, TrialSpec, UserError, run_trial
from sweeps import Sweep, run_trials
from sweeps.cli.options import parse
from sweeps.experiments.expand import expand
from sweeps.experiments.recipes import Sweep as Recipe
from sweeps.experiments.recipes import digits
from sweeps.running.notebook_view import Picture
from sweeps.running.progress import Board, view

ALIKE: list[tuple[str, Mapping[str, Any], list[str]]] = [
    ("digits", {}, []),
    ("digits", {"sparsity": [50, 80.5], "rewind_epoch": 0}, ["--sparsity", "50", "80.5", "--rewind-epoch", "0"]),
    ("digits", {"target_sparsity_pct": np.array([50.0, 80.0])}, ["--sparsity", "50", "80"]),
    ("digits", {"sparsity": np.array(50.0), "lr": None, "max_hours": None, "seeds": None}, ["--sparsity", "50"]),
    ("digits", {"sparsity": 64, "seeds": range(3, 5)}, ["--sparsity", "64", "--seed", "3", "4"]),
    ("digits", {"seeds": np.int64(3), "controls": "reinit"}, ["--seeds", "3", "--controls", "reinit"]),
    ("digits", {"baselines": ["omp", "small_dense"]}, ["--baselines", "omp", "small_dense"]),
    ("digits", {"rewind_epoch": ["100it", 1], "lr": 1e-3}, ["--rewind-epoch", "100it", "1", "--lr", "0.001"]),
    ("digits", {"until_decided": True, "max_seeds": 12}, ["--until-decided", "--max-seeds", "12"]),
    ("digits", {"max_hours": 1, "storage": Path("/a")}, ["--max-hours", "1", "--storage", "/a"]),
    ("digits_tutorial", {"reset_end": [False, True]}, ["--reset-end", "False", "True"]),
    ("digits", {"log": "tensorboard", "name": "mine", "retry_failed": True},
     ["--log", "tensorboard", "--name", "mine", "--retry-failed"]),
]  # fmt: skip
BAD: list[tuple[Mapping[str, Any], str]] = [
    ({"sparsty": 50}, "did you mean sparsity?"),
    ({"sparsity": 0.5}, "did you mean 50?"),
    ({"sparsity": "a lot"}, "Sweep, sparsity: found 'a lot'; expected a number"),
    ({"sparsity": []}, "at least one value"),
    ({"sparsity": 50, "target_sparsity_pct": 60}, "two names"),
    ({"schedule": "ipm"}, "did you mean imp?"),
    ({"recipe": "digit"}, "did you mean digits?"),
    ({"recipe": {"axis": {}}}, "Sweep, recipe, key"),
    ({"recipe": {"axes": {"sparsity": [50]}, "seeds": "three"}}, "Sweep, recipe, seeds"),
    ({"recipe": lambda: 3}, "a function that returns a sweep"),
    ({"seeds": 2.5}, "Sweep, seeds: found 2.5"),
    ({"seeds": [0, 0]}, "repeated: 0"),
    ({"seeds": 2, "seed": 3}, "found both"),
    ({"controls": "renit"}, "did you mean reinit?"),
    ({"margin_pp": -1}, "more than 0 and less than 100"),
    ({"endpoint": "accuracy"}, "test_accuracy"),
    ({"max_concurrent": "two"}, "a whole number"),
    ({"replicas": 1.5}, "a whole number"),
    ({"replicas": "many"}, "found 'many'; expected a whole number, or auto"),
    ({"trials_per_gpu": "all"}, "Sweep, trials_per_gpu: found 'all'; expected a whole number, or auto"),
    ({"deterministic": 1}, "True or False"),
    ({"step": "captive"}, "did you mean captured?"),
    ({"dry_run": True}, "call .plan() instead"),
    ({"cluster": "cluster.yaml"}, "from Python the trials run on this machine"),
    ({"storage": "s3://key:secret@bucket/runs"}, "found credentials"),
    ({"max_seeds": 3}, "--until-decided"),
]  # fmt: skip
BAD_RUNS: list[tuple[Mapping[str, Any], str]] = [
    ({"sparsity": 50}, "sparsity belongs to Sweep(...)"),
    ({"storrage": "a"}, "did you mean storage?"),
    ({"gpus_per_trial": 1.5}, "a fraction of a GPU"),
    ({"max_hours": 0}, "positive number of hours"),
    ({"name": "a/b"}, "without a slash"),
    ({"address": "http://head:8265"}, "a job server"),
    ({"data_root": 3}, "a path"),
]


@pytest.mark.parametrize(("recipe", "arguments", "words"), ALIKE, ids=[" ".join(words) for *_, words in ALIKE])
def test_arguments_mean_what_flags_mean(recipe: str, arguments: Mapping[str, Any], words: list[str]) -> None:
    sweep = Sweep(recipe, **arguments)
    options, expected = parse([recipe, *words])
    assert as_trials(sweep.recipe) == as_trials(expected)
    given = {name: value for name, value in vars(options).items() if name not in ("axes", "recipe", "seeds", "seed")}
    ours = vars(sweep.options)
    assert {name: value for name, value in ours.items() if name in given} == {
        **given, "controls": (), "baselines": (),
    }  # fmt: skip
    assert as_trials(parse(sweep.command[3:])[1]) == as_trials(expected), "how to repeat it in a shell"


def as_trials(recipe: Recipe) -> tuple[Recipe, tuple[TrialSpec, ...]]:
    """The recipe with its trials for its axes: the command line has iterations to rewind to as text."""
    return replace(recipe, axes={}, base={}), expand(recipe).trials


def test_a_recipe_may_be_keys_and_values_a_function_or_its_result() -> None:
    made = Sweep({"base": {"epochs": 3}, "axes": {"sparsity": (50, 80)}, "seeds": 2}, margin_pp=2, claim="Well?")
    assert made.recipe.axes == {"target_sparsity_pct": (50.0, 80.0)} and made.recipe.seeds == (0, 1)
    assert (made.recipe.margin_pp, made.recipe.claim, made.command[0]) == (2, "Well?", "python")
    assert Sweep(digits).recipe == Sweep(digits()).recipe == Sweep("digits").recipe


@pytest.mark.parametrize(("name", "value"), [("mps", "maybe"), ("step", "fast"), ("precision", "int8")])
def test_no_plug_in_is_offered_where_there_are_none(name: str, value: str) -> None:
    with pytest.raises(UserError, match="expected one of") as error:
        Sweep(**{name: value})
    assert "plug in" not in str(error.value)
    with pytest.raises(UserError, match="or plug in your own as"):
        Sweep(model="qqqq")


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[f"{next(iter(a))}-{n}" for n, (a, _) in enumerate(BAD)])
def test_a_mistake_is_one_user_error(arguments: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        Sweep(**arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"), BAD_RUNS, ids=[f"{next(iter(a))}-{n}" for n, (a, _) in enumerate(BAD_RUNS)]
)
def test_a_mistake_where_it_runs_is_one_too_and_nothing_is_written(
    arguments: Mapping[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.cli.job.launch", lambda *_, **__: pytest.fail("Ray would start"))
    with pytest.raises(UserError) as error:
        Sweep().run(tmp_path / "runs", **arguments)
    assert message in str(error.value)
    assert not (tmp_path / "runs").exists()


def specs(n_seeds: int) -> list[TrialSpec]:
    ticket = TrialSpec(epochs=1, target_sparsity_pct=40.0)
    return [
        replace(ticket, seed=seed, control=control) for seed in range(n_seeds) for control in ("none", "dense")
    ]  # fmt: skip


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store in which every trial of `specs(2)` is trained, so that Ray need not start."""
    for spec in specs(2):
        run_trial(spec, Store(tmp_path / "runs"))
    monkeypatch.setattr("sweeps.cli.job.launch", lambda *_, **__: pytest.fail("Ray would start"))
    return tmp_path / "runs"


def test_any_trials_are_a_run_and_what_is_stored_is_not_trained_again(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = dict(os.environ)
    run = run_trials([*specs(2), *specs(1)], trained, margin_pp=3.0)
    assert run.ok and not run.failures and run.stopped_by is None and dict(os.environ) == before
    assert run.folder == str(trained / "trials") and Path(run.report).is_file()
    assert list(run.trials().status) == ["done"] * 4 and list(run.trials().role) == ["ticket", "dense"] * 2
    matches = run.verdicts().iloc[0]
    assert (matches.claim, matches.n_pairs, matches.margin_pp) == ("matches", 2, 3.0)
    assert run.notes == ("equal trials are counted once",)
    assert run.answer in capsys.readouterr().out.replace("\n", " ").replace("  ", " ")
    again = run_trials(specs(2), trained, margin_pp=3.0)
    assert again.verdicts().equals(run.verdicts())
    assert analysis.load(run.folder).verdicts.equals(run.frames.verdicts), "the folder is a run like any other"
    assert "4 done before" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"margin_pp: found 1.0; expected 3.0"):
        run_trials(specs(2), trained, margin_pp=1.0)


def test_a_ticket_without_a_dense_network_forms_no_pair_and_that_is_said(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_trials([spec for spec in specs(2) if spec.seed == 0 or not spec.is_dense], trained)
    [note] = run.notes
    assert "1 of 2 seeds form no pair: no dense trial (seed 1)" in note and "control='dense'" in note
    assert note in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [([], "at least one"), (["digits"], "objects of lth_trainable.TrialSpec"), ([{"seed": 1}], "TrialSpec")],
)
def test_what_is_no_trial_is_refused(given: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_trials(given)


def test_a_sweep_runs_plans_and_tells_how_to_repeat_it(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = Sweep("digits", sparsity=40, rewind_epoch=0, epochs=1, seeds=2, controls="none")
    sweep.plan(trained)
    assert "seeds 0, 1" in capsys.readouterr().out and not (trained / "digits").exists()
    run = sweep.run(trained)
    assert run.ok and len(run.trials()) == 4
    [command] = analysis.tables.run_plan.read_plan(Store(trained), "digits").commands
    assert as_trials(parse(command[3:])[1]) == as_trials(sweep.recipe) and command[-2:] == ("--storage", str(trained))
    [shown] = run._repr_mimebundle_().values()
    assert "tickets minus dense" in shown and run.report in shown


def test_the_view_in_a_notebook_has_no_control_codes() -> None:
    board = Board(planned=20, epochs_planned=100, clock=lambda: 0.0)
    board.show("digits-<b>", {"test_accuracy": 0.9, "sparsity_pct": 50.0})
    shown = Picture(view(board))._repr_mimebundle_()
    assert "0 of 20 trials done" in shown["text/plain"] and "\x1b" not in "".join(shown.values())
    assert max(map(len, shown["text/plain"].splitlines())) <= PLAIN_WIDTH
    assert "digits-&lt;b&gt;" in shown["text/html"] and "<b>" not in shown["text/html"]
