"""`Search`: the same searches as the command makes, from Python, and with a study that the user has made."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

import analysis
from lth_trainable import Store, UserError
from sweeps import Search
from sweeps.cli.search_options import parse
from sweeps.experiments.recipes import digits
from sweeps.search.axes import Choice
from sweeps.search.places import place_of
from sweeps.search.searches import Search as Definition
from sweeps.search.searches import digits_search
from tests.support.launches import launch_here
from tests.support.pages import blocks

ALIKE: list[tuple[str, Mapping[str, Any], list[str]]] = [
    ("digits_search", {}, []),
    ("digits", {"sparsity": "50..95", "lr": "1.5e-4..1e-2:log", "suggestions": 20},
     ["--sparsity", "50..95", "--lr", "1.5e-4..1e-2:log", "--suggestions", "20"]),
    ("digits", {"sparsity": FloatDistribution(50, 95), "lr": FloatDistribution(1.5e-4, 1e-2, log=True)},
     ["--sparsity", "50..95", "--lr", "1.5e-4..1e-2:log"]),
    ("digits", {"epochs": IntDistribution(2, 8, step=2), "schedule": CategoricalDistribution(["imp", "omp"])},
     ["--epochs", "2..8:2", "--schedule", "imp", "omp"]),
    ("digits", {"target_sparsity_pct": np.array([64.0, 80.0]), "sampler": "grid", "seeds": np.int64(2)},
     ["--sparsity", "64", "80", "--sampler", "grid", "--seeds", "2"]),
    ("digits", {"floor": 90, "asha": True, "sparsity": "50..97", "seeds": [3, 4]},
     ["--floor", "90", "--asha", "--sparsity", "50..97", "--seed", "3", "4"]),
    ("digits", {"cost": True, "score": "paired", "rewind_epoch": ["100it", 1], "sampler_seed": 7},
     ["--cost", "--score", "paired", "--rewind-epoch", "100it", "1", "--sampler-seed", "7"]),
]  # fmt: skip
BAD: list[tuple[Mapping[str, Any], str]] = [
    ({"sparsty": "50..97"}, "Search: found sparsty; expected an option of sweeps.lth_search; did you mean sparsity?"),
    ({"sparsity": "97..50"}, "Search, sparsity: found '97..50'; expected LOW less than HIGH"),
    ({"sparsity": 0.5}, "did you mean 50?"),
    ({"sparsity": FloatDistribution(0.5, 0.9)}, "did you mean 50?"),
    ({"sparsity": "50..90", "target_sparsity_pct": 60}, "two names"),
    ({"sampler": "tep"}, "did you mean tpe?"),
    ({"suggestions": 2.5}, "Search, suggestions: found 2.5; expected a whole number"),
    ({"search": "digit"}, "did you mean digits?"),
    ({"search": lambda: 3}, "a function that returns a search"),
    ({"asha": True}, "successive halving ranks suggestions"),
    ({"study": "sqlite:///a.db"}, "give it to .run(study=...)"),
    ({"storage": "s3://key:secret@bucket/runs"}, "found credentials"),
    ({"cluster": "cluster.yaml"}, "from Python the trials run on this machine"),
]  # fmt: skip


@pytest.mark.parametrize(("search", "arguments", "words"), ALIKE, ids=[f"{n}" for n in range(len(ALIKE))])
def test_arguments_mean_what_flags_mean(search: str, arguments: Mapping[str, Any], words: list[str]) -> None:
    ours = Search(search, **arguments)
    _, expected = parse([search, *words])
    assert ours.search == expected
    assert parse(ours._command(None, None)[3:])[1] == expected, "how to repeat it in a shell"


def test_a_search_may_be_a_function_or_what_it_returns() -> None:
    assert Search(digits_search).search == Search(digits_search()).search == Search("digits_search").search
    assert Search(digits_search)._command(None, None)[:2] == ("python", "-c")


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[f"{next(iter(a))}-{n}" for n, (a, _) in enumerate(BAD)])
def test_a_mistake_is_one_user_error(arguments: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        Search(**arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


# -- studies of the user's own -----------------------------------------------------------------------------------------

TINY = Definition(
    sweep=replace(digits(), name="tiny", seeds=(0,), base={"epochs": 1, "batch_size": 512, "schedule": "omp"}, axes={}),
    axes={"target_sparsity_pct": Choice(values=(50.0, 80.0)), "lr": Choice(values=(0.001, 0.002))}, suggestions=3,
)  # fmt: skip
POINTS = {"target_sparsity_pct": [50.0, 80.0], "lr": [0.001, 0.002]}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are trained in this process, without Ray."""

    monkeypatch.setattr("sweeps.cli.job.launch", launch_here)


def study_of(**given: Any) -> optuna.Study:
    return optuna.create_study(directions=Search(TINY).directions, **given)


def test_a_study_of_ones_own_keeps_its_sampler_and_trials_and_has_the_results(
    launched: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sampler = optuna.samplers.QMCSampler(seed=1, warn_independent_sampling=False)
    study = study_of(study_name="mine", sampler=sampler, storage=f"sqlite:///{tmp_path}/mine.db")
    study.enqueue_trial({"target_sparsity_pct": 80.0, "lr": 0.002})
    before = optuna.logging.get_verbosity(), list(warnings.filters), logging.root.level
    run = Search(TINY).run(tmp_path / "runs", study=study, name="found")
    assert (optuna.logging.get_verbosity(), list(warnings.filters), logging.root.level) == before
    assert run.ok and run.study == f"sqlite:///{tmp_path}/mine.db" and study.sampler is sampler
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3
    assert study.trials[0].params == {"target_sparsity_pct": 80.0, "lr": 0.002}, "what was queued comes first"
    front = run.front()
    assert sorted(front["suggestion"]) == sorted(trial.number for trial in study.best_trials)
    assert list(front["sparsity_pct"]) == sorted(front["sparsity_pct"]) and len(run.suggestions()) == 3
    assert analysis.load(run.folder).trials.shape == run.trials().shape
    shown = capsys.readouterr().out
    assert "own QMCSampler" in shown and f"optuna-dashboard sqlite:///{tmp_path}/mine.db" in shown
    again = Search(TINY, suggestions=4).run(tmp_path / "runs", study=study, name="found")
    assert len(study.trials) == 4 and again.ok, "the same call goes on"
    command = analysis.tables.run_plan.read_plan(Store(tmp_path / "runs"), "found").commands[0]
    assert command[:2] == ("python", "-c") and ".run(study=..., name='found', storage=" in command[2]


@pytest.mark.slow
def test_a_sampler_with_a_grid_ends_the_search_when_it_has_no_more(
    launched: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = study_of(sampler=optuna.samplers.GridSampler(POINTS))
    run = Search(TINY, suggestions=9).run(tmp_path, study=study)
    assert run.ok and len(study.trials) == 4
    assert {tuple(trial.params.values()) for trial in study.trials} == {
        (s, lr) for s in (50, 80) for lr in (0.001, 0.002)
    }
    assert "in memory" in capsys.readouterr().out
    assert Search(TINY, suggestions=9).run(tmp_path, name="again", study=study_of(storage=study._storage)).ok


def test_a_sampler_that_fails_is_one_line(launched: None, tmp_path: Path) -> None:
    class Mine(optuna.samplers.RandomSampler):
        def sample_independent(self, *_: Any) -> Any:
            raise KeyError("broken")

    with pytest.raises(UserError, match=r"^search: Mine or MedianPruner of your own study failed: KeyError: 'broken'$"):
        Search(TINY).run(tmp_path, study=study_of(sampler=Mine()))


def test_a_study_that_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    search = Search(TINY)
    with pytest.raises(
        UserError, match=r"found 'minimize \?'; .*create_study\(directions=\['maximize', 'maximize'\]\)"
    ):
        search.run(tmp_path / "runs", study=optuna.create_study())
    with pytest.raises(UserError, match="a study has its sampler"):
        Search(TINY, sampler="gp").run(tmp_path / "runs", study=study_of())
    with pytest.raises(UserError, match=r"Search\.run, study: found 3; expected an optuna\.Study"):
        search.run(tmp_path / "runs", study=3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"Search\.run: found sparsity; .* belongs to Search"):
        search.run(tmp_path / "runs", sparsity=50)
    with pytest.raises(UserError, match="folder of this journal file does not exist"):
        search.run(tmp_path / "runs", study="no/such/folder/x.log")
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.slow
def test_the_study_of_a_search_may_be_a_journal(launched: None, tmp_path: Path) -> None:
    run = Search(TINY, suggestions=1).run(tmp_path / "runs", study=tmp_path / "all.log")
    assert run.ok and run.study == str(tmp_path / "all.log")
    own = optuna.load_study(study_name="tiny", storage=place_of(run.study, Store(tmp_path), "tiny").open())
    with pytest.raises(UserError, match="began with sampler 'tpe'; found the sampler of a study of your own"):
        Search(TINY).run(tmp_path / "runs", study=own)
    mine = study_of(study_name="mine", storage=own._storage)
    assert Search(TINY, suggestions=1).run(tmp_path / "runs", study=mine, name="mine").study == run.study
    [command] = analysis.tables.run_plan.read_plan(Store(tmp_path / "runs"), "tiny").commands
    assert f"run(study={run.study!r}, storage=" in command[2]


def test_the_python_of_the_page_on_searches(launched: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks("docs/search.md", "python"):
        exec(compile(block.text, block.name, "exec"), names)
    assert names["run"].ok and names["study"].trials[0].params == {"target_sparsity_pct": 80.0, "rewind_epoch": 0}
    assert sorted(names["run"].front()["suggestion"]) == sorted(t.number for t in names["study"].best_trials)
